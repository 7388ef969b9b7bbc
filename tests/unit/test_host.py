"""Host facts, read from a made-up machine."""

import json
import sys
from pathlib import Path

import pytest

from bitnet_trace import host
from bitnet_trace.errors import TraceError


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


LAPTOP = {
    "proc/sys/kernel/osrelease": "5.15.0-91-generic\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.3 LTS"\n',
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: 12th Gen Intel(R) Core(TM) i7-1260P\nflags\t\t: fpu vme avx2\n",
    "proc/self/status": "Name:\tx\nCapEff:\t000000c000000000\nCpus_allowed_list:\t0-3,8\n",
    "proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\nSwapTotal:             0 kB\n",
    "proc/self/limits": "Limit  Soft Limit  Hard Limit Units\nMax locked memory    unlimited    unlimited    bytes\n",
    "proc/self/mounts": "sysfs /sys sysfs rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\n",
    "proc/self/cgroup": "0::/user.slice/user-1000.slice\n",
    "proc/sys/kernel/perf_event_paranoid": "4\n",
    "proc/sys/kernel/sched_rt_runtime_us": "-1\n",
    "sys/devices/system/cpu/online": "0-15\n",
    "sys/devices/system/cpu/smt/active": "1\n",
    "sys/devices/system/node/online": "0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu10/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/cpu_core/cpus": "0-7\n",
    "sys/devices/cpu_atom/cpus": "8-15\n",
    "sys/bus/event_source/devices/cpu_core/type": "4\n",
    "sys/bus/event_source/devices/uprobe/type": "9\n",
    "sys/kernel/btf/vmlinux": "x",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never\n",
    "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
    "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages": "0\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "64\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "61\n",
    "sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
}


def test_laptop(tmp_path):
    facts = host.gather(put(tmp_path, LAPTOP))
    assert facts.kernel == "5.15.0-91-generic"
    assert facts.distribution == "Ubuntu 22.04.3 LTS"
    assert facts.cpu_model == "12th Gen Intel(R) Core(TM) i7-1260P"
    assert facts.hypervisor is False
    assert facts.cpus_online == tuple(range(16))
    assert facts.cpus_allowed == (0, 1, 2, 3, 8)
    assert facts.core_types == {"core": tuple(range(8)), "atom": tuple(range(8, 16))}
    assert facts.smt is True
    assert facts.numa_nodes == 1
    assert facts.memory_bytes == 16_000_000 * 1024
    assert facts.swap_bytes == 0
    assert (facts.thp_enabled, facts.thp_defrag, facts.thp_shmem) == ("madvise", "madvise", None)
    assert facts.huge_pools == (host.HugePool(2 << 20, 64, 61), host.HugePool(1 << 30, 0, 0))
    assert facts.governors == {0: "powersave", 2: "powersave", 10: "performance"}
    assert (facts.pmu, facts.btf, facts.uprobe_pmu) == (True, True, True)
    assert facts.tracefs == "/sys/kernel/tracing"
    assert facts.lockdown == "integrity"
    assert facts.capabilities == ("CAP_PERFMON", "CAP_BPF")
    assert facts.perf_event_paranoid == 4
    assert facts.kptr_restrict is None
    assert facts.sched_rt_runtime_us == -1
    assert facts.memlock_bytes == -1
    assert facts.container is None


def test_nothing_to_read_is_none_and_never_an_error(tmp_path):
    facts = host.gather(tmp_path).to_dict()
    found = {name: value for name, value in facts.items() if value not in (None, ())}
    assert found == {"pmu": False, "btf": False, "uprobe_pmu": False}


@pytest.mark.parametrize(
    ("text", "stolen_ns"),
    [("cpu  1 2 3 4 5 6 7 19246 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n", 192_460_000_000), ("cpu  1 2 3\n", 0), ("", 0)],
)
def test_what_a_hypervisor_has_taken(tmp_path, text, stolen_ns):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(text)
    assert host.stolen_ns(tmp_path) == stolen_ns


def test_this_machine_fits_into_json():
    facts = host.gather()
    assert json.loads(json.dumps(facts.to_dict()))["kernel"] == facts.kernel
    assert facts.memory_bytes > facts.memory_available_bytes > 0


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({".dockerenv": ""}, "/.dockerenv"),
        ({"run/.containerenv": ""}, "/run/.containerenv"),
        ({"proc/self/cgroup": "12:cpu:/kubepods/burstable/pod1\n0::/x\n"}, "kubepods"),
    ],
)
def test_container(tmp_path, files, said):
    assert host.gather(put(tmp_path, files)).container == said


@pytest.mark.parametrize(("inode", "refused"), [("4026531836", False), ("4026532201", True)])
def test_capturing_needs_the_hosts_pid_namespace(tmp_path, inode, refused):
    link = tmp_path / "proc/self/ns/pid"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"pid:[{inode}]")
    if refused:
        with pytest.raises(TraceError, match="container"):
            host.require_supported(tmp_path)
    else:
        host.require_supported(tmp_path)


def test_other_machines_are_refused_in_a_line(monkeypatch):
    class Uname:
        sysname, machine = "Linux", "aarch64"

    monkeypatch.setattr(host.os, "uname", Uname)
    with pytest.raises(TraceError, match="aarch64 Linux") as caught:
        host.require_supported()
    assert "report" in caught.value.hint


def test_bcc_of_another_kind(tmp_path, monkeypatch):
    """`pip install bcc` is a crystal-lattice package."""
    put(tmp_path, {"bcc/__init__.py": "", "bcc/version.py": "__version__ = '0.26.0'\n"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bcc", raising=False)  # an imported one would be found without a search
    found = host.find_bcc()
    assert (found.version, found.genuine) == ("0.26.0", False)
    put(tmp_path, {"bcc/libbcc.py": ""})
    assert host.find_bcc().genuine

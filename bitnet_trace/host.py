"""Facts about the machine, for `meta.json` and `doctor`.

Each fact has one source, named beside it; files are read below `root`, so that a test can bring its own /proc and
/sys. A fact that cannot be read is None.
"""

import dataclasses
import functools
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_trace.errors import TraceError

_MOST_CPUS = 8192  # that a kernel for x86-64 can be built for
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
# include/uapi/linux/capability.h
_CAPABILITIES = {
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
_MEMORY_EVENTS = {
    *("thp_split_page", "thp_split_pmd", "thp_collapse_alloc", "thp_collapse_alloc_failed", "thp_fault_alloc"),
    *("thp_fault_fallback", "compact_stall", "pgmigrate_success", "numa_hint_faults", "numa_pages_migrated"),
}
_CONTAINER_CGROUP = re.compile(r"(docker|kubepods|containerd|libpod|lxc|crio)")


@dataclass(frozen=True)
class HugePool:
    """One pool of hugetlbfs: /sys/kernel/mm/hugepages/hugepages-NkB/."""

    page_bytes: int
    pages: int
    free: int


@dataclass(frozen=True)
class Host:
    name: str | None  # /proc/sys/kernel/hostname
    kernel: str | None  # /proc/sys/kernel/osrelease
    distribution: str | None  # PRETTY_NAME of /etc/os-release
    cpu_model: str | None  # first "model name" of /proc/cpuinfo
    hypervisor: bool | None  # flag "hypervisor" of /proc/cpuinfo: CPUID leaf 1, set by every common hypervisor
    cpus_online: tuple[int, ...] | None  # /sys/devices/system/cpu/online
    cpus_allowed: tuple[int, ...] | None  # Cpus_allowed_list of /proc/self/status
    core_types: dict[str, tuple[int, ...]] | None  # /sys/devices/cpu_{core,atom}/cpus; None: all cores are alike
    smt: bool | None  # /sys/devices/system/cpu/smt/active
    numa_nodes: int | None  # /sys/devices/system/node/online
    memory_bytes: int | None  # MemTotal of /proc/meminfo
    memory_available_bytes: int | None  # MemAvailable
    swap_bytes: int | None  # SwapTotal
    thp_enabled: str | None  # /sys/kernel/mm/transparent_hugepage/enabled
    thp_defrag: str | None
    thp_shmem: str | None
    fault_around_bytes: int | None  # /sys/kernel/debug/fault_around_bytes; None: debugfs is not mounted
    huge_pools: tuple[HugePool, ...]
    governors: dict[int, str] | None  # cpu: cpufreq/scaling_governor; None: no cpufreq driver, usual in a guest
    pmu: bool  # /sys/bus/event_source/devices/cpu (hybrid CPUs: cpu_core)
    btf: bool  # /sys/kernel/btf/vmlinux is readable
    uprobe_pmu: bool  # /sys/bus/event_source/devices/uprobe
    tracefs: str | None  # mount point, /proc/self/mounts
    lockdown: str | None  # /sys/kernel/security/lockdown
    capabilities: tuple[str, ...] | None  # CapEff of /proc/self/status, those that tracing asks for
    perf_event_paranoid: int | None  # /proc/sys/kernel/...
    kptr_restrict: int | None
    unprivileged_bpf_disabled: int | None
    sched_rt_runtime_us: int | None
    task_delayacct: int | None
    memlock_bytes: int | None  # soft limit in /proc/self/limits; -1: unlimited
    host_pid_namespace: bool | None  # /proc/self/ns/pid is the initial one
    container: str | None  # what says so: a file's path, or the cgroup's name

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Bcc:
    """The `bcc` package that this Python would import, not imported."""

    folder: Path
    version: str | None
    genuine: bool  # False: the crystal-lattice package of the same name on PyPI


def gather(root: Path = Path("/")) -> Host:
    """All facts; takes a few milliseconds."""
    proc, sys_ = root / "proc", root / "sys"
    cpuinfo = _text(proc / "cpuinfo") or ""
    status = _fields(proc / "self/status")
    meminfo = _fields(proc / "meminfo")
    thp = sys_ / "kernel/mm/transparent_hugepage"
    pmus = sys_ / "bus/event_source/devices"
    sysctl = proc / "sys/kernel"
    nodes = cpu_list(_text(sys_ / "devices/system/node/online"))
    return Host(
        name=_text(sysctl / "hostname"),
        kernel=_text(sysctl / "osrelease"),
        distribution=_os_release(root / "etc/os-release"),
        cpu_model=_match(r"^model name\s*: (.*)$", cpuinfo),
        hypervisor=(" hypervisor" in (_match(r"^flags\s*:(.*)$", cpuinfo) or "")) if cpuinfo else None,
        cpus_online=cpu_list(_text(sys_ / "devices/system/cpu/online")),
        cpus_allowed=cpu_list(status.get("Cpus_allowed_list")),
        core_types=_core_types(sys_ / "devices"),
        smt=_flag(_text(sys_ / "devices/system/cpu/smt/active")),
        numa_nodes=len(nodes) if nodes else None,
        memory_bytes=_kib(meminfo.get("MemTotal")),
        memory_available_bytes=_kib(meminfo.get("MemAvailable")),
        swap_bytes=_kib(meminfo.get("SwapTotal")),
        thp_enabled=_chosen(_text(thp / "enabled")),
        thp_defrag=_chosen(_text(thp / "defrag")),
        thp_shmem=_chosen(_text(thp / "shmem_enabled")),
        fault_around_bytes=_number(_text(sys_ / "kernel/debug/fault_around_bytes")),
        huge_pools=_huge_pools(sys_ / "kernel/mm/hugepages"),
        governors=_governors(sys_ / "devices/system/cpu"),
        pmu=(pmus / "cpu").exists() or (pmus / "cpu_core").exists(),
        btf=os.access(sys_ / "kernel/btf/vmlinux", os.R_OK),
        uprobe_pmu=(pmus / "uprobe/type").exists(),
        tracefs=_mount_point(proc / "self/mounts", "tracefs"),
        lockdown=_chosen(_text(sys_ / "kernel/security/lockdown")),
        capabilities=_capabilities(status.get("CapEff")),
        perf_event_paranoid=_number(_text(sysctl / "perf_event_paranoid")),
        kptr_restrict=_number(_text(sysctl / "kptr_restrict")),
        unprivileged_bpf_disabled=_number(_text(sysctl / "unprivileged_bpf_disabled")),
        sched_rt_runtime_us=_number(_text(sysctl / "sched_rt_runtime_us")),
        task_delayacct=_number(_text(sysctl / "task_delayacct")),
        memlock_bytes=_memlock(_text(proc / "self/limits")),
        host_pid_namespace=_is_initial_namespace(proc / "self/ns/pid"),
        container=_container(root),
    )


def require_supported(root: Path = Path("/")) -> None:
    """Raise TraceError unless this is x86-64 Linux, in the host's pid namespace: what capturing needs."""
    machine = os.uname()
    if (machine.sysname, machine.machine) != ("Linux", "x86_64"):
        raise TraceError(
            f"tracing works on x86-64 Linux, this is {machine.machine} {machine.sysname}",
            "recordings made elsewhere can be read here: bitnet-trace report RECORDING",
        )
    if _is_initial_namespace(root / "proc/self/ns/pid") is False:
        raise TraceError(
            "this is a container: the kernel's process numbers are not the ones seen here",
            "run it on the host, or start the container with --pid=host --privileged",
        )


def mount_tracefs(root: Path = Path("/")) -> str | None:
    """Mount tracefs at /sys/kernel/tracing unless it is mounted somewhere; needs root.

    Returns its mount point, None when it cannot be mounted (recordings do without).
    """
    found = _mount_point(root / "proc/self/mounts", "tracefs")
    if found:
        return found
    import ctypes  # costs every start a few milliseconds; this is for those that mount

    where = root / "sys/kernel/tracing"
    libc = ctypes.CDLL(None)
    return None if libc.mount(b"tracefs", os.fsencode(where), b"tracefs", 0, None) else str(where)


def memory_events(root: Path = Path("/")) -> dict[str, int]:
    """What the kernel counts of the whole machine in /proc/vmstat, of huge pages and of pages that moved."""
    lines = [line.split() for line in (_text(root / "proc/vmstat") or "").splitlines()]
    return {name: int(value) for name, value in lines if name in _MEMORY_EVENTS}


def stolen_ns(root: Path = Path("/")) -> int:
    """What the hypervisor has taken from this machine's CPUs since it started, to 10 ms; 0 where nobody says."""
    of_all = (_text(root / "proc/stat") or "").partition("\n")[0].split()
    return (_number(of_all[8]) or 0) * 1_000_000_000 // os.sysconf("SC_CLK_TCK") if len(of_all) > 8 else 0


@functools.cache
def n_possible_cpus(root: Path = Path("/")) -> int:
    """One more than the largest number that a CPU of this machine may ever have."""
    cpus = cpu_list(_text(root / "sys/devices/system/cpu/possible"))
    return max(cpus) + 1 if cpus else _MOST_CPUS


def find_bcc() -> Bcc | None:
    """The `bcc` on this Python's path; None when there is none."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    version = _match(r"""__version__ = ['"](.*?)['"]""", _text(folder / "version.py") or "")
    return Bcc(folder, version, genuine=(folder / "libbcc.py").exists())


def python() -> str:
    """This interpreter: path and version."""
    return f"{sys.executable} ({sys.version.split()[0]})"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else None


def _fields(path: Path) -> dict[str, str]:
    """`Name: value` lines, as in /proc/meminfo and /proc/PID/status."""
    lines = (line.partition(":") for line in (_text(path) or "").splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def _flag(text: str | None) -> bool | None:
    return {"0": False, "1": True}.get(text or "")


def _kib(text: str | None) -> int | None:
    number = _number(text.removesuffix(" kB")) if text else None
    return None if number is None else number * 1024


def cpu_list(text: str | None) -> tuple[int, ...] | None:
    """`0-3,8` as numbers (the kernel's cpulist format)."""
    if not text:
        return None
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def _chosen(text: str | None) -> str | None:
    """The bracketed word of `always [madvise] never`."""
    return _match(r"\[(\S+)\]", text or "")


def _os_release(path: Path) -> str | None:
    name = _match(r"^PRETTY_NAME=(.*)$", _text(path) or "")
    return name.strip("\"'") if name else None


def _core_types(devices: Path) -> dict[str, tuple[int, ...]] | None:
    kinds = {kind: cpu_list(_text(devices / f"cpu_{kind}" / "cpus")) for kind in ("core", "atom", "lowpower")}
    found = {kind: cpus for kind, cpus in kinds.items() if cpus}
    return found or None


def _huge_pools(folder: Path) -> tuple[HugePool, ...]:
    pools = []
    for path in sorted(folder.glob("hugepages-*kB")):
        page_kib = _match(r"hugepages-(\d+)kB", path.name)
        pages, free = _number(_text(path / "nr_hugepages")), _number(_text(path / "free_hugepages"))
        if page_kib and pages is not None and free is not None:
            pools.append(HugePool(int(page_kib) * 1024, pages, free))
    return tuple(sorted(pools, key=lambda pool: pool.page_bytes))


def _governors(cpus: Path) -> dict[int, str] | None:
    found = {}
    for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        governor = _text(path)
        if governor:
            found[int(path.parent.parent.name.removeprefix("cpu"))] = governor
    return dict(sorted(found.items())) or None


def _mount_point(mounts: Path, kind: str) -> str | None:
    for line in (_text(mounts) or "").splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == kind:
            return fields[1]
    return None


def _capabilities(mask: str | None) -> tuple[str, ...] | None:
    if not mask:
        return None
    bits = int(mask, 16)
    return tuple(name for name, bit in _CAPABILITIES.items() if bits >> bit & 1)


def _memlock(limits: str | None) -> int | None:
    soft = _match(r"^Max locked memory\s+(\S+)", limits or "")
    return -1 if soft == "unlimited" else _number(soft)


def _is_initial_namespace(link: Path) -> bool | None:
    try:
        return os.readlink(link) == f"pid:[{_INITIAL_PID_NAMESPACE}]"
    except OSError:
        return None


def _container(root: Path) -> str | None:
    for name in (".dockerenv", "run/.containerenv", "run/systemd/container"):
        if (root / name).exists():
            return f"/{name}"
    return _match(rf"^\d+:.*?{_CONTAINER_CGROUP.pattern}", _text(root / "proc/self/cgroup") or "")

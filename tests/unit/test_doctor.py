"""What doctor makes of a machine; the machine is made up."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bitnet_trace import host
from bitnet_trace.commands import doctor

BCC = host.Bcc(Path("/usr/lib/python3/dist-packages/bcc"), "0.26.0", genuine=True)
WORKS = doctor.Attempts(None, None, None, None, None, None)
GOOD = dataclasses.replace(
    host.gather(Path("/nonexistent")),
    kernel="6.1.0",
    cpus_online=(0, 1),
    cpus_allowed=(0, 1),
    btf=True,
    pmu=True,
    thp_enabled="madvise",
    capabilities=("CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"),
)


def states(machine=GOOD, bcc=BCC, tried=WORKS, unsupported=None, demo_engine=True):
    """Checks that are not ok, by name."""
    results = doctor.checks(machine, bcc, tried, unsupported, demo_engine)
    assert all(check.fix for check in results if check.state != "ok"), "each says what to do"
    return {check.name: check for check in results if check.state != "ok"}


def test_good_machine():
    assert states() == {}


@pytest.mark.parametrize(
    ("change", "name", "state", "fix"),
    [
        ({"btf": False}, "BTF", "problem", "CONFIG_DEBUG_INFO_BTF"),
        ({"capabilities": ()}, "privileges", "problem", "sudo bitnet-trace doctor"),
        ({"lockdown": "confidentiality"}, "lockdown", "problem", "lockdown=integrity"),
        ({"pmu": False}, "PMU", "warning", "PMU columns print -"),
        ({"governors": {0: "powersave", 1: "performance"}}, "governor", "warning", "scaling_governor"),
        ({"thp_enabled": "never"}, "THP", "warning", "echo madvise"),
        ({"thp_enabled": None}, "THP", "warning", "CONFIG_TRANSPARENT_HUGEPAGE"),
        ({"core_types": {"core": (0, 1), "atom": (2,)}}, "CPUs", "warning", "taskset -c 0,1"),
        ({"container": "/.dockerenv"}, "container", "warning", "host"),
        ({"sched_rt_runtime_us": -1}, "real-time limit", "warning", "950000"),
    ],
)
def test_one_thing_wrong(change, name, state, fix):
    found = states(dataclasses.replace(GOOD, **change))
    assert set(found) == {name}
    assert found[name].state == state
    assert fix in found[name].fix


def test_lesser_facts_are_fine():
    fine = dataclasses.replace(GOOD, lockdown="integrity", governors={0: "performance"}, thp_enabled="always")
    assert states(fine) == {}
    assert states(dataclasses.replace(GOOD, capabilities=("CAP_SYS_PTRACE", "CAP_PERFMON", "CAP_BPF"))) == {}


@pytest.mark.parametrize(
    ("attempt", "name", "state"),
    [
        ("ring_buffer", "ring buffer", "problem"),
        ("raw_tracepoint", "tracepoints", "problem"),
        ("uprobe", "uprobes", "problem"),
        ("multi_uprobe", "uprobes at once", "warning"),
        ("programs", "BPF programs", "problem"),
        ("hardware_counter", "PMU", "warning"),
    ],
)
def test_attempt_that_failed_is_told_in_the_kernels_words(attempt, name, state):
    found = states(tried=dataclasses.replace(WORKS, **{attempt: "Operation not supported"}))
    assert set(found) == {name}
    assert (found[name].state, found[name].found) == (state, "Operation not supported")


def test_bcc_missing_and_wrong():
    missing = states(bcc=None)["BCC"]
    assert missing.fix.startswith("apt-get install python3-bpfcc")
    assert "--system-site-packages" in missing.fix
    wrong = states(bcc=dataclasses.replace(BCC, genuine=False))["BCC"]
    assert wrong.state == "problem"
    assert wrong.fix.startswith("pip uninstall bcc")


def test_unsupported_system():
    found = states(unsupported="this is a container")
    assert found["system"].state == "problem"


def test_untried_is_no_problem_of_its_own():
    assert states(tried=None)["kernel features"].state == "warning"


def test_table_has_no_colour_off_a_terminal_and_shows_each_fix(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    doctor.print_table(doctor.checks(dataclasses.replace(GOOD, btf=False), BCC, WORKS, None, False))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "PROBLEM  BTF" in out
    assert "pip install 'bitnet-trace[demo]'" in out


@pytest.mark.parametrize("works", [True, False])
def test_json_and_exit_code_agree(monkeypatch, works):
    monkeypatch.setattr(host, "gather", lambda: dataclasses.replace(GOOD, btf=works))
    monkeypatch.setattr(host, "require_supported", lambda: None)
    monkeypatch.setattr(host, "find_bcc", lambda: BCC)
    monkeypatch.setattr(doctor, "attempt", lambda privileged: WORKS)
    outcome = CliRunner().invoke(doctor.doctor, ["--json"], standalone_mode=False)
    document = json.loads(outcome.output)
    assert document["works"] is works
    assert outcome.return_value == (0 if works else 1)
    assert document["host"]["kernel"] == "6.1.0"

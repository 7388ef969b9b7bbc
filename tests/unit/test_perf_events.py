"""perf's names, resolved on made-up machines: what sysfs says there is as the kernel's documentation has it."""

import os

import pytest

from bitnet_trace.capture import syscalls
from bitnet_trace.capture.counters import Counters
from bitnet_trace.capture.perf_events import find_events, no_pmu, split_names
from bitnet_trace.errors import TraceError

DEVICES = "sys/bus/event_source/devices"
CPUS = {"sys/devices/system/cpu/online": "0-3\n", "sys/devices/system/cpu/possible": "0-7\n"}
INTEL_FORMAT = {"event": "config:0-7", "umask": "config:8-15", "cmask": "config:24-31", "inv": "config:23"}


def cpuinfo(vendor, family, model, flags="fpu"):
    text = f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: x\nflags\t\t: {flags}\n"
    return {"proc/cpuinfo": text}


def pmu(name, kind, layout, events=(), **files):
    found = {f"{DEVICES}/{name}/type": f"{kind}\n"}
    found |= {f"{DEVICES}/{name}/format/{key}": f"{bits}\n" for key, bits in layout.items()}
    found |= {f"{DEVICES}/{name}/events/{key}": f"{text}\n" for key, text in dict(events).items()}
    return found | {f"{DEVICES}/{name}/{key}": f"{text}\n" for key, text in files.items()}


SKYLAKE = (
    CPUS | cpuinfo("GenuineIntel", 6, 85) | pmu("cpu", 4, INTEL_FORMAT, {"mem-loads": "event=0xcd,umask=0x1,ldlat=3"})
)
SKYLAKE |= {f"{DEVICES}/cpu/format/ldlat": "config1:0-15\n"}
ZEN = CPUS | cpuinfo("AuthenticAMD", 25, 17) | pmu("cpu", 4, {"event": "config:0-7,32-35", "umask": "config:8-15"})
HYBRID = (
    CPUS
    | cpuinfo("GenuineIntel", 6, 151)
    | pmu("cpu_core", 4, INTEL_FORMAT, {"topdown-retiring": "event=0x00,umask=0x80"}, cpus="0-1")
    | pmu("cpu_atom", 10, INTEL_FORMAT, cpus="2-3")
    | pmu("power", 21, {"event": "config:0-7"}, {"energy-pkg": "event=0x02", "energy-pkg.unit": "Joules"}, cpumask="0")
    | {f"{DEVICES}/power/events/energy-pkg.scale": "2.3283064365386962890625e-10\n"}
)
GUEST = CPUS | cpuinfo("AuthenticAMD", 25, 17, "fpu hypervisor") | pmu("msr", 11, {"event": "config:0-63"})


@pytest.fixture
def machine(tmp_path):
    def made(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return made


def words(event):
    return event.type, event.config, event.config1


def test_names_are_split_outside_of_slashes():
    text = "cycles:u,{dTLB-loads,dTLB-load-misses},cpu/event=0x3c,umask=1/u,software,cycles:u"
    assert split_names(text) == [
        *("cycles:u", "dTLB-loads", "dTLB-load-misses", "cpu/event=0x3c,umask=1/u"),
        *("task-clock", "context-switches", "cpu-migrations", "page-faults", "minor-faults", "major-faults"),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # include/uapi/linux/perf_event.h: type, config
        ("cycles", (0, 0, 0)),
        ("instructions", (0, 1, 0)),
        ("branches", (0, 4, 0)),
        ("page-faults", (1, 2, 0)),
        ("cs", (1, 3, 0)),
        ("dTLB-load-misses", (3, 3 | 0 << 8 | 1 << 16, 0)),
        ("dTLB-stores", (3, 3 | 1 << 8 | 0 << 16, 0)),
        ("iTLB-load-misses", (3, 4 | 0 << 8 | 1 << 16, 0)),
        ("LLC-load-misses", (3, 2 | 0 << 8 | 1 << 16, 0)),
        ("r1a8", (4, 0x1A8, 0)),
        ("cpu/event=0x08,umask=0x10,cmask=1/", (4, 0x01001008, 0)),
        ("cpu/event=0x08,inv/", (4, 0x800008, 0)),
        ("cpu/mem-loads/", (4, 0x1CD, 3)),
        ("cpu/mem-loads,ldlat=30/", (4, 0x1CD, 30 | 3)),
        ("cpu/config=0x1234,config1=7/", (4, 0x1234, 7)),
        ("page-walk-cycles", (4, 0x1008, 0)),
        ("dtlb_load_misses.walk_pending", (4, 0x1008, 0)),
    ],
)
def test_on_skylake(machine, name, expected):
    (event,) = find_events([name], machine(SKYLAKE))
    assert words(event) == expected
    assert (event.reason, event.cpus) == (None, None)


def test_bits_that_are_apart(machine):
    """AMD's event numbers have 12 bits in two places."""
    (event,) = find_events(["cpu/event=0x187,umask=0x2/"], machine(ZEN))
    assert event.config == 0x87 | 0x2 << 8 | 1 << 32
    (walks,) = find_events(["page-walk-cycles"], machine(ZEN))
    assert "known of this CPU" in walks.reason


def test_modifiers(machine):
    user, kernel, both = find_events(["cycles:u", "page-faults:k", "cycles:uk"], machine(SKYLAKE))
    assert (user.exclude_user, user.exclude_kernel) == (False, True)
    assert (kernel.exclude_user, kernel.exclude_kernel) == (True, False)
    assert (both.exclude_user, both.exclude_kernel) == (False, False)


def test_kinds_of_cores_are_apart(machine):
    root = machine(HYBRID)
    core, atom = find_events(["cycles"], root)
    assert (core.name, core.config, core.cpus) == ("cpu_core/cycles/", 4 << 32, (0, 1))
    assert (atom.name, atom.config, atom.cpus) == ("cpu_atom/cycles/", 10 << 32, (2, 3))
    core, atom = find_events(["r3c"], root)
    assert (core.type, atom.type) == (4, 10)
    (misses,) = find_events(["cpu_atom/dTLB-load-misses/"], root)
    assert (misses.type, misses.config, misses.cpus) == (3, 3 | 1 << 16 | 10 << 32, (2, 3))
    (walks,) = find_events(["page-walk-cycles"], root)
    assert (walks.type, walks.config, walks.cpus) == (4, 0x1012, (0, 1))
    (retiring,) = find_events(["topdown-retiring"], root)
    assert (retiring.type, retiring.config) == (4, 0x8000)
    (energy,) = find_events(["power/energy-pkg/"], root)
    assert (energy.type, energy.config, energy.unit, energy.cpus) == (21, 2, "Joules", (0,))
    assert energy.scale == pytest.approx(2.33e-10, rel=1e-2)


def test_without_a_pmu(machine):
    root = machine(GUEST)
    assert no_pmu(root) == "this CPU has no PMU: a guest without a virtual one"
    for event in find_events(["cycles", "dTLB-loads", "rc0", "cpu/event=1/", "page-walk-cycles"], root):
        assert event.reason == no_pmu(root)
    clock, tsc = find_events(["task-clock", "msr/event=0/"], root)
    assert (clock.reason, clock.unit) == (None, "ns")
    assert tsc.type == 11


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("cycels", "no counter is called cycels", "did you mean cycles?"),
        ("cpu/umask=0x100/", "0x100 is too large for umask", "config:8-15"),
        ("cpu/evnt=1/", "cpu has no evnt", "event"),
        ("cpu/event=x/", "x is no number", "0x3c"),
        ("uncore/event=1/", "no PMU uncore", "cpu"),
        ("no:such", "no counter is called no:such", "perf list"),
        ("cpu/../../type/", "cpu has no ../../type", "event"),
    ],
)
def test_names_that_are_none(machine, name, message, hint):
    with pytest.raises(TraceError) as failed:
        find_events([name], machine(SKYLAKE))
    assert message in failed.value.message
    assert hint in failed.value.hint


def test_tracepoints_by_their_number(machine):
    root = machine({**GUEST, "sys/kernel/tracing/events/sched/sched_switch/id": "327\n"})
    (event,) = find_events(["sched:sched_switch"], root)
    assert words(event) == (2, 327, 0)


def test_opened_on_the_cpus_that_have_it(machine, monkeypatch):
    """The calls that are made for a hybrid CPU, recorded; one that its kernel refuses has a reason."""
    opened, put = [], []

    def open_counter(kind, configs, cpu, exclude_user, exclude_kernel):
        if configs[0] & 0xFFFF == 9:
            raise OSError(2, "No such file or directory")
        opened.append((kind, configs[0], cpu, exclude_user, exclude_kernel))
        return os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(syscalls, "open_counter", open_counter)
    monkeypatch.setattr(syscalls, "put_descriptor", lambda _map, key, _descriptor: put.append(key))
    root = machine(HYBRID)
    found = Counters(find_events(["cycles:u", "context-switches", "ref-cycles"], root), root)
    assert found.constants == {"PERF_COUNTERS": 3, "COUNTER_CPUS": 8, "COUNTERS_OF_SWITCHES": 1 << 2}
    opened.clear()
    found.connect(5)
    assert opened == [
        *((0, 4 << 32, cpu, False, True) for cpu in (0, 1)),
        *((0, 10 << 32, cpu, False, True) for cpu in (2, 3)),
        *((1, 3, cpu, False, False) for cpu in range(4)),
    ]
    assert put == [0, 1, 8 + 2, 8 + 3, 16, 17, 18, 19]
    assert found.numbers == [0, 1, 2]
    assert [one["reason"] for one in found.described][3:] == [
        "this CPU does not count it (No such file or directory)"
    ] * 2

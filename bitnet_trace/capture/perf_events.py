"""Counters by perf's names: what a name means to perf_event_open(2) on this machine.

Sources: include/uapi/linux/perf_event.h; the names of tools/perf/util/parse-events.c and evsel.c; for each PMU the
files type, format/, events/ and cpus below /sys/bus/event_source/devices (Documentation/ABI/testing/
sysfs-bus-event_source-devices-*); tracepoints by their id in tracefs.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_trace.errors import TraceError
from bitnet_trace.host import cpu_list

_DEVICES = "sys/bus/event_source/devices"
_TRACEFS = ("sys/kernel/tracing/events", "sys/kernel/debug/tracing/events")
HARDWARE, SOFTWARE, TRACEPOINT, CACHE = 0, 1, 2, 3  # enum perf_type_id; PMUs have numbers above these
_RAW = 4
_PMU_SHIFT = 32  # which of several core PMUs: the upper half of config, for HARDWARE and CACHE
CONTEXT_SWITCHES = 3

_HARDWARE_NAMES = {
    **dict.fromkeys(("cycles", "cpu-cycles"), 0),
    "instructions": 1,
    "cache-references": 2,
    "cache-misses": 3,
    **dict.fromkeys(("branches", "branch-instructions"), 4),
    "branch-misses": 5,
    "bus-cycles": 6,
    **dict.fromkeys(("stalled-cycles-frontend", "idle-cycles-frontend"), 7),
    **dict.fromkeys(("stalled-cycles-backend", "idle-cycles-backend"), 8),
    "ref-cycles": 9,
}
_SOFTWARE_NAMES = {
    "cpu-clock": 0,
    "task-clock": 1,
    **dict.fromkeys(("page-faults", "faults"), 2),
    **dict.fromkeys(("context-switches", "cs"), CONTEXT_SWITCHES),
    **dict.fromkeys(("cpu-migrations", "migrations"), 4),
    "minor-faults": 5,
    "major-faults": 6,
    "alignment-faults": 7,
    "emulation-faults": 8,
    "dummy": 9,
    "bpf-output": 10,
    "cgroup-switches": 11,
}
_CACHES = {"L1-dcache": 0, "L1-icache": 1, "LLC": 2, "dTLB": 3, "iTLB": 4, "branch": 5, "node": 6}
_CACHE_OPERATIONS = {"load": 0, "store": 1, "prefetch": 2}
_CACHE_NAMES = {
    f"{cache}-{name}": number | operation << 8 | missed << 16
    for cache, number in _CACHES.items()
    for verb, operation in _CACHE_OPERATIONS.items()
    for name, missed in ((f"{verb}{'es' if verb == 'prefetch' else 's'}", 0), (f"{verb}-misses", 1))
}

# Cycles in page walks for loads, by vendor, family and model: they have no general name. From the vendor's lists that
# perf brings (tools/perf/pmu-events/arch/x86/*/virtual-memory.json).
PAGE_WALKS = "page-walk-cycles"
_WALKS = (
    ("GenuineIntel", {0x3C, 0x3D, 0x3F, 0x45, 0x46, 0x47, 0x4F, 0x56}, "dtlb_load_misses.walk_duration", 0x1008),
    ("GenuineIntel", {0x4E, 0x55, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6}, "dtlb_load_misses.walk_pending", 0x1008),
    ("GenuineIntel", {0x6A, 0x6C, 0x7D, 0x7E, 0x8C, 0x8D, 0xA7}, "dtlb_load_misses.walk_pending", 0x1008),
    (
        "GenuineIntel",
        {0x8F, 0x97, 0x9A, 0xAA, 0xAC, 0xAD, 0xAE, 0xB7, 0xBA, 0xBF, 0xCF},
        "dtlb_load_misses.walk_pending",
        0x1012,
    ),
)

SETS = {
    "software": ("task-clock", "context-switches", "cpu-migrations", "page-faults", "minor-faults", "major-faults"),
    "hardware": (
        *("cycles", "instructions", "dTLB-loads", "dTLB-load-misses", "iTLB-load-misses"),
        *("cache-references", "cache-misses", PAGE_WALKS),
    ),
}
SETS["default"] = SETS["software"] + SETS["hardware"]


@dataclass(frozen=True)
class PerfEvent:
    """One event as the kernel takes it.

    `cpus`: those that have it; None: all. `unit` as perf prints it (`ns` of clocks), `scale`: what makes a count be in
    it. `reason`: why this machine cannot count it; None: it may.
    """

    name: str
    type: int = 0
    config: int = 0
    config1: int = 0
    config2: int = 0
    exclude_user: bool = False
    exclude_kernel: bool = False
    cpus: tuple[int, ...] | None = None
    unit: str | None = None
    scale: float = 1.0
    reason: str | None = None

    @property
    def counts_switches(self) -> bool:
        """The kernel counts a switch when it is under way already."""
        return self.type == SOFTWARE and self.config == CONTEXT_SWITCHES and not self.exclude_kernel


def split_names(text: str) -> list[str]:
    """The names in `cycles,cpu/event=0x3c,umask=1/u,{dTLB-loads,dTLB-load-misses}`, each once; those of named sets."""
    names: list[str] = []
    for name in re.findall(r"(?:/[^/]*/|[^,{}/])+", text):
        names += SETS.get(name.strip(), (name.strip(),))
    return list(dict.fromkeys(name for name in names if name))


def find_events(names: Sequence[str], root: Path = Path("/")) -> list[PerfEvent]:
    """What these names mean here: several events for one name on CPUs with cores of different kinds.

    An event that this machine does not have says why. Raises TraceError for a name that is none of perf's.
    """
    return [event for name in names for event in _events(name, root)]


def no_pmu(root: Path = Path("/")) -> str | None:
    """Why there are no hardware counters; None: there are."""
    if _core_pmus(root):
        return None
    is_guest = " hypervisor" in _text(root / "proc/cpuinfo")
    return "this CPU has no PMU" + (": a guest without a virtual one" if is_guest else "")


def _events(name: str, root: Path) -> Iterator[PerfEvent]:
    found = re.fullmatch(r"([\w.-]+)/(.*)/([a-zA-Z]*)", name)
    if found:
        yield from _of_pmu(name, found[1], found[2], found[3], root)
        return
    plain, _, modifier = name.partition(":")
    if plain in _SOFTWARE_NAMES:
        unit = "ns" if plain.endswith("clock") else None
        event = PerfEvent(name, SOFTWARE, _SOFTWARE_NAMES[plain], unit=unit)
        yield _modified(event, modifier)
    elif plain in _HARDWARE_NAMES:
        yield from _of_core(_modified(PerfEvent(name, HARDWARE, _HARDWARE_NAMES[plain]), modifier), root)
    elif plain in _CACHE_NAMES:
        yield from _of_core(_modified(PerfEvent(name, CACHE, _CACHE_NAMES[plain]), modifier), root)
    elif re.fullmatch(r"r[0-9a-fA-F]{1,16}", plain):
        event = _modified(PerfEvent(name, _RAW, int(plain[1:], 16)), modifier)
        yield from _of_core(event, root, is_raw=True)
    elif plain == PAGE_WALKS or plain in {own_name for _, _, own_name, _ in _WALKS}:
        yield from _page_walks(name, modifier, root)
    elif modifier:
        yield _of_tracepoint(name, plain, modifier, root)
    else:
        yield from _by_name(name, root)


def _modified(event: PerfEvent, modifier: str) -> PerfEvent:
    if not re.fullmatch(r"[ukhpPHGSDIWeb]*", modifier):
        raise _unknown(event.name)
    levels = set(modifier) & {"u", "k"}
    if not levels:
        return event
    return dataclasses.replace(event, exclude_user="u" not in levels, exclude_kernel="k" not in levels)


def _of_core(event: PerfEvent, root: Path, is_raw: bool = False) -> Iterator[PerfEvent]:
    """Of the CPU's own PMU; of each kind of core one where there are several."""
    pmus = _core_pmus(root)
    if not pmus:
        yield dataclasses.replace(event, reason=no_pmu(root))
    elif len(pmus) == 1:
        yield dataclasses.replace(event, type=_number(pmus[0] / "type")) if is_raw else event
    else:
        for pmu in pmus:
            kind = _number(pmu / "type")
            config = event.config if is_raw else event.config | kind << _PMU_SHIFT
            name = f"{pmu.name}/{event.name}/"
            yield dataclasses.replace(
                event, name=name, type=kind if is_raw else event.type, config=config, cpus=_cpus(pmu)
            )


def _page_walks(name: str, modifier: str, root: Path) -> Iterator[PerfEvent]:
    """Of the big cores where there are several kinds: the others have other numbers."""
    cpuinfo = _text(root / "proc/cpuinfo")
    vendor, family, model = (
        (re.search(rf"^{key}\s*: (\S+)", cpuinfo, re.MULTILINE) or ["", ""])[1]
        for key in ("vendor_id", "cpu family", "model")
    )
    pmus = [pmu for pmu in _core_pmus(root) if pmu.name in ("cpu", "cpu_core")]
    for known, models, own_name, config in _WALKS:
        is_it = vendor == known and family == "6" and model.isdigit() and int(model) in models
        if pmus and is_it and name.partition(":")[0] in (PAGE_WALKS, own_name):
            event = PerfEvent(name, _number(pmus[0] / "type"), config, cpus=_cpus(pmus[0]))
            yield _modified(event, modifier)
            return
    why = no_pmu(root) or "no event of that kind is known of this CPU"
    yield PerfEvent(name, reason=why)


def _of_pmu(name: str, pmu: str, terms: str, modifier: str, root: Path) -> Iterator[PerfEvent]:
    """`PMU/event=0x3c,umask=0x1/`, `PMU/cycles/` with a name of its events/ folder."""
    folder = root / _DEVICES / pmu
    if not folder.exists():
        if re.fullmatch(r"cpu|cpu_\w+", pmu):
            yield PerfEvent(name, reason=no_pmu(root) or f"this CPU has no {pmu}")
            return
        known = sorted(path.name for path in (root / _DEVICES).glob("*"))
        raise TraceError(f"{name}: no PMU {pmu}", f"there are {', '.join(known)}")
    general = {**dict.fromkeys(_HARDWARE_NAMES, HARDWARE), **dict.fromkeys(_CACHE_NAMES, CACHE)}.get(terms)
    if general is not None and folder in _core_pmus(root):  # cpu_core/cycles/
        config = {**_HARDWARE_NAMES, **_CACHE_NAMES}[terms] | _number(folder / "type") << _PMU_SHIFT
        yield _modified(PerfEvent(name, general, config, cpus=_cpus(folder)), modifier)
        return
    words = {"config": 0, "config1": 0, "config2": 0}
    unit, scale = None, 1.0
    for term in _terms(name, folder, terms):
        key, _, value = term.partition("=")
        _put(name, folder, words, key, value)
    if re.fullmatch(r"[\w.-]+", terms):
        unit = _text(folder / f"events/{terms}.unit") or None
        scale = float(_text(folder / f"events/{terms}.scale") or 1.0)
    event = PerfEvent(
        name,
        _number(folder / "type"),
        words["config"],
        words["config1"],
        words["config2"],
        cpus=_cpus(folder),
        unit=unit,
        scale=scale,
    )
    yield _modified(event, modifier)


def _terms(name: str, folder: Path, terms: str) -> Iterator[str]:
    for term in terms.split(","):
        alias = folder / "events" / term
        if re.fullmatch(r"[\w.-]+", term) and alias.is_file():
            yield from _text(alias).split(",")
        elif term:
            yield term


def _put(name: str, folder: Path, words: dict[str, int], key: str, value: str) -> None:
    """Sets the bits of one term by its format: `config:0-7,32-35`."""
    try:
        number = int(value or "1", 0)
    except ValueError:
        raise TraceError(f"{name}: {value} is no number", "as 12 or 0x3c") from None
    layout = _text(folder / "format" / key) if re.fullmatch(r"\w+", key) else ""
    if not layout and key in words:
        layout = f"{key}:0-63"
    found = re.fullmatch(r"(config[12]?):([\d,-]+)", layout)
    if not found:
        known = sorted(path.name for path in (folder / "format").glob("*"))
        raise TraceError(f"{name}: {folder.name} has no {key}", f"it has {', '.join(known)}")
    for bit in cpu_list(found[2]) or ():
        words[found[1]] |= (number & 1) << bit
        number >>= 1
    if number:
        raise TraceError(f"{name}: {value} is too large for {key}", f"it has the bits {layout}")


def _of_tracepoint(name: str, system: str, event: str, root: Path) -> PerfEvent:
    event, _, modifier = event.partition(":")
    for folder in _TRACEFS:
        number = _text(root / folder / system / event / "id")
        if number:
            return _modified(PerfEvent(name, TRACEPOINT, int(number)), modifier)
    raise _unknown(name)


def _by_name(name: str, root: Path) -> Iterator[PerfEvent]:
    """A name of the events/ folder of the core's PMU, as `topdown-retiring`."""
    for pmu in _core_pmus(root):
        if re.fullmatch(r"[\w.-]+", name) and (pmu / "events" / name).is_file():
            yield from _of_pmu(name, pmu.name, name, "", root)
            return
    raise _unknown(name)


def _unknown(name: str) -> TraceError:
    known = [*_SOFTWARE_NAMES, *_HARDWARE_NAMES, *_CACHE_NAMES, PAGE_WALKS, *SETS]
    near = difflib.get_close_matches(name, known, 1)
    what = f"did you mean {near[0]}? " if near else ""
    return TraceError(
        f"no counter is called {name}", f"{what}perf list has the names; rNNN, PMU/event=0xNN,umask=0xNN/"
    )


def _core_pmus(root: Path) -> list[Path]:
    folder = root / _DEVICES
    return [folder / "cpu"] if (folder / "cpu").exists() else sorted(folder.glob("cpu_*"), reverse=True)


def _cpus(pmu: Path) -> tuple[int, ...] | None:
    """`cpus` of a core's PMU, `cpumask` of one that several CPUs share: it is read on one of them."""
    return cpu_list(_text(pmu / "cpus") or _text(pmu / "cpumask"))


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        raise TraceError(f"{path} cannot be read", "bitnet-trace doctor") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

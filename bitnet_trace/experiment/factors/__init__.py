"""The factors of experiments, by the names that specs give them."""

import difflib
import os
import re
from pathlib import Path

from bitnet_trace import host
from bitnet_trace.errors import TraceError
from bitnet_trace.experiment.factors import memory, program, scheduling
from bitnet_trace.experiment.factors.base import Factor, Level, Machine, cpu_list

__all__ = ["FACTORS", "PREFIXES", "Factor", "Level", "Machine", "factor", "this_machine"]

FACTORS: dict[str, type[Factor]] = {
    "policy": scheduling.Policy,
    "nice": scheduling.Nice,
    "affinity": scheduling.Affinity,
    "threads": scheduling.Threads,
    "thp": memory.Thp,
    "thp_system": memory.ThpSystem,
    "mthp": memory.Mthp,
    "hugetlb": memory.Hugetlb,
    "numa": memory.Numa,
    "page_cache": memory.PageCache,
    "mlock": memory.Mlock,
    "mmap": memory.Mmap,
    "binary": program.Binary,
    "governor": program.Governor,
    "load": program.Load,
    "null": program.Nothing,
}
PREFIXES: dict[str, type[Factor]] = {"env": program.Environment, "argument": program.Argument}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def factor(name: str) -> Factor:
    """The factor of that name in a spec. Raises TraceError when there is none."""
    if name in FACTORS:
        return FACTORS[name](name)
    prefix, _, rest = name.partition(".")
    if prefix in PREFIXES and _NAME.fullmatch(rest):
        return PREFIXES[prefix](name)
    known = [*FACTORS, *(f"{one}.NAME" for one in PREFIXES)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"factors: {', '.join(known)}"
    raise TraceError(f"there is no factor {name!r}", hint)


def this_machine() -> Machine:
    """CPUs that may be used here, grouped by core, and the rest that levels are checked against."""
    facts = host.gather()
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    return Machine(cpus, _cores(cpus), facts.core_types or {}, facts.numa_nodes or 1, facts)


def _cores(cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Of /sys/devices/system/cpu/cpuN/topology; a CPU of which it says nothing is a core of its own."""
    cores = set()
    for cpu in cpus:
        try:
            text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
            siblings = tuple(one for one in cpu_list(text.strip()) if one in cpus)
        except (OSError, ValueError):
            siblings = (cpu,)
        cores.add(siblings or (cpu,))
    return tuple(sorted(cores))

"""What is probed in windows: the probes, the files that have them, and which of them in a process."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bitnet_trace.capture.mappings import mapped_files

BARRIERS, OPERATIONS = "barriers", "operations"
_PROGRAMS = {BARRIERS: "enter_barrier", OPERATIONS: "enter_operation"}  # all others: count_function
FUNCTION, DURATIONS = "function:", "durations:"  # how often a function is called, and how long that takes

Key = tuple[str, int]
_File = TypeVar("_File")


@dataclass(frozen=True)
class WindowProbe:
    """A probe that is attached in windows only: `what` it tells of ("barriers", "operations", "function:NAME"), `row`:
    its row of meta["probes"], `cookie`: its number in the kernel. `is_end`: where a function returns."""

    what: str
    cookie: int
    offset: int
    level: int
    row: dict[str, Any]
    is_end: bool = False

    def tells_of(self, what: str) -> bool:
        if what.startswith(DURATIONS):
            return self.what == FUNCTION + what.removeprefix(DURATIONS)
        return self.what == what and not self.is_end


@dataclass
class WindowedFile:
    """A file that has such probes, kept open under its own descriptor."""

    descriptor: int
    probes: list[WindowProbe]


Placed = list[tuple[WindowedFile, list[WindowProbe]]]


@dataclass
class Probed:
    """What is probed in a process for one kind of windows: probes by level, lowest first, with their files."""

    what: str
    levels: list[Placed] = field(default_factory=list)
    level: int = 0
    slower: float = 1.0  # how many times longer a token takes while it is probed

    @property
    def placed(self) -> Placed | None:
        """The functions of one level, or each call would count twice; None: none of them is called there."""
        return self.levels[self.level] if self.level < len(self.levels) else None

    @property
    def probes(self) -> list[WindowProbe]:
        return [probe for _, probes in self.placed or [] for probe in probes]


def by_program(what: str, probes: list[WindowProbe]) -> dict[str, list[WindowProbe]]:
    """Probes of one kind of windows by the BPF program that they run."""
    if not what.startswith(DURATIONS):
        return {_PROGRAMS.get(what, "count_function"): probes}
    ends, entries = ([one for one in probes if one.is_end is is_end] for is_end in (True, False))
    return {"leave_function": ends, "enter_function": entries}


def mapped_of(files: Mapping[Key, _File], pid: int) -> list[_File]:
    """Of files those whose code a process has mapped."""
    keys = {(mapped.device, mapped.inode) for mapped in mapped_files(pid) if mapped.executable}
    return [file for key, file in list(files.items()) if key in keys]


def levels_in(files: Mapping[Key, WindowedFile], pid: int, what: str) -> list[Placed]:
    """The probes of one kind in the files that a process has mapped, by level, lowest first; none: it has none."""
    mapped = mapped_of(files, pid)
    found = [probe for file in mapped for probe in file.probes if probe.tells_of(what)]
    if what.startswith(DURATIONS) and not any(probe.is_end for probe in found):
        return []
    levels = sorted({probe.level for probe in found})
    return [list(_of_level(mapped, what, level)) for level in levels]


def _of_level(files: list[WindowedFile], what: str, level: int) -> Iterator[tuple[WindowedFile, list[WindowProbe]]]:
    for file in files:
        probes = [probe for probe in file.probes if probe.tells_of(what) and probe.level == level]
        if probes:
            yield file, probes


def close_files(files: Mapping[Key, WindowedFile]) -> None:
    for file in files.values():
        with contextlib.suppress(OSError):
            os.close(file.descriptor)

"""Processes of the target that are not held, because another program traces them.

Nobody waits there for our probes. They are placed before, in the programs that a debugger's command line names, and
else as soon as the kernel's word of an exec or a mapped file has come. Calls that were made by then are missing, and
that is said.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_trace.capture.hold import Holder, How, status_number
from bitnet_trace.capture.libraries import ProbePlacer
from bitnet_trace.recording.layout import TaskKind

# until the kernel's word of what a debugger traces has come
_EXPECTING_S = 3.0
_NAMED = 3  # of the processes in a warning


class Debuggers:
    """Who traces what we would hold. `holder` is our own ptrace, which makes way for them; `tell` is for its use."""

    def __init__(
        self, placer: ProbePlacer, tell: Callable[[int, How], None], at_end: Callable[[int], None] | None = None
    ) -> None:
        """`at_end`: as in Holder."""
        self._placer = placer
        self.holder = Holder(self.look, self._expect, tell, at_end)
        self._tracers: dict[int, str] = {}  # by process: who traces it, in words
        self._unheld: dict[int, str] = {}  # those of them that opened files meanwhile
        self._waiting: set[int] = set()  # those of them that live and have no engine yet
        self._done: dict[int, int] = {}  # processes whose engine is probed: since when
        self._expecting_until = 0.0

    def seize(self, pid: int, program: str, environment: Mapping[str, str]) -> None:
        """Holds the program that is to be traced. When somebody else traces it already, it is only looked at."""
        try:
            self.holder.seize(pid)
        except PermissionError:
            self._traced(pid, _called(status_number(pid, "TracerPid")))
            self._placer.place_program(program, environment)

    def take(self, news: npt.NDArray[np.void], look: bool) -> None:
        """Follows the records EXEC, MAP_FILE, PTRACED and EXIT, in order of time; places probes for them if `look`."""
        changed: set[int] = set()
        for event in news:
            kind, pid, ts_ns = int(event["kind"]), int(event["pid"]), int(event["ts_ns"])
            if kind == TaskKind.PTRACED:
                name = event["text"].decode(errors="replace")
                self._traced(pid, f"{name} (process {event['value']})")
                if event["length"]:
                    self.holder.let_go(pid)  # for its next try
            elif kind == TaskKind.EXIT:
                if pid == int(event["tid"]):
                    self._waiting.discard(pid)
                    self._done.pop(pid, None)
                    self._tracers.pop(pid, None)
            elif self.holder.holds(pid):
                continue
            elif pid not in self._done or (kind == TaskKind.EXEC and ts_ns > self._done[pid]):
                changed.add(pid)
                self._note(pid)
        for pid in changed if look else ():
            self.look(pid)

    def look(self, pid: int) -> bool:
        """Probes what is new in a process; as ProbePlacer.look_at."""
        found = self._placer.look_at(pid)
        if found:
            self._done[pid] = time.monotonic_ns()
            self._waiting.discard(pid)
        else:
            self._done.pop(pid, None)
        return found

    @property
    def waiting(self) -> bool:
        """Whether the kernel's next word should be looked for soon."""
        return bool(self._waiting) or time.monotonic() < self._expecting_until

    @property
    def warnings(self) -> list[str]:
        """One line, or none."""
        if not self._unheld:
            return []
        tracers = list(dict.fromkeys(self._unheld.values()))
        by = ", ".join(tracers[:_NAMED]) + ", …" * (len(tracers) > _NAMED)
        missing = "libraries opened there could not be waited for, and the first calls in them may be missing"
        return [f"{_listed(list(self._unheld))} traced by {by}: {missing}"]

    def _expect(self, pid: int) -> None:
        self._expecting_until = time.monotonic() + _EXPECTING_S
        self._placer.look_ahead(pid)

    def _traced(self, pid: int, tracer: str) -> None:
        self._tracers[pid] = tracer
        if pid not in self._done:
            self._waiting.add(pid)

    def _note(self, pid: int) -> None:
        if pid not in self._tracers:
            # debuggers follow what their processes start, by no call of theirs
            tracer = status_number(pid, "TracerPid")
            if not tracer or tracer == os.getpid():
                return
            self._traced(pid, _called(tracer))
        self._unheld[pid] = self._tracers[pid]


def _called(pid: int | None) -> str:
    if not pid:
        return "another program"
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"{name} (process {pid})"


def _listed(pids: list[int]) -> str:
    if len(pids) == 1:
        return f"process {pids[0]} is"
    named, more = pids[:_NAMED], len(pids) - _NAMED
    words = [str(pid) for pid in named] + ([f"{more} more"] if more > 0 else [])
    return f"processes {', '.join(words[:-1])} and {words[-1]} are"

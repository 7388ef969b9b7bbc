"""Probes that cost too much to stay: attached for a few tokens, at random moments, as the governor allows.

A thread of its own, because to attach and to detach waits for the kernel's readers (10 and 45 ms on 6.18) and costs
hardly any CPU time meanwhile: the tracer's main loop has to answer stops and signals.
"""

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bitnet_trace.capture.cost import window_hit_ns
from bitnet_trace.capture.governor import Governor
from bitnet_trace.capture.mappings import mapped_files

# A thread that wakes up takes a CPU from the target: seldom, until there is something to do.
_LOOK_INTERVAL_S = 0.25
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.1, 5.0
_TOKENS_A_WINDOW = 2.2  # so that one is whole, wherever the window begins
_LEAST_OPEN_S, _MOST_OPEN_S = 0.003, 5.0
_LONG_CALL_OPEN_S = 0.05  # a part of a prefill, or of a token that takes longer

Key = tuple[str, int]


class Programs(Protocol):
    """Of capture.bpf.Programs, what is needed here."""

    def attach_barrier_probes(
        self, path: str, offsets: list[int], cookies: list[int], pid: int, links: list[int]
    ) -> None: ...
    def open_window(self, is_open: bool) -> None: ...
    def window_hits(self) -> tuple[int, int]: ...
    def computing(self) -> dict[int, bool]: ...
    def hits_of(self, cookies: list[int]) -> int: ...


@dataclass(frozen=True)
class WindowProbe:
    """A probe of a windowed role; `row` is its row of meta["probes"], `cookie` its number in the kernel."""

    cookie: int
    offset: int
    level: int
    row: dict[str, Any]


@dataclass
class WindowedFile:
    """A file that has such probes, kept open under its own descriptor."""

    descriptor: int
    probes: list[WindowProbe]


@dataclass
class _Process:
    """What is probed in a process: probes by level, lowest first, with their files."""

    levels: list[list[tuple[WindowedFile, list[WindowProbe]]]] = field(default_factory=list)
    level: int = 0


class Windows:
    """The windows of one run. `files` and `decode_cookies` may grow; `hit_ns`: of a hit, by cost class."""

    def __init__(
        self,
        programs: Programs,
        files: Mapping[Key, WindowedFile],
        decode_cookies: list[int],
        governor: Governor,
        hit_ns: Mapping[str, int],
    ) -> None:
        self._programs, self._files, self._decode_cookies = programs, files, decode_cookies
        self._hit_ns = hit_ns
        self.governor = governor
        self._processes: dict[int, _Process] = {}
        self._rows: list[dict[str, Any]] = []
        self._reason: str | None = "no decode call was under way when one could have been opened"
        self._opened = 0
        self._calls: tuple[float, int] | None = None  # (when, how many decode calls had begun)
        self._random = random.Random()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="windows")
        self.cpu_ns = 0
        self.warnings: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Closes a window that is open; returns when nothing of them is attached any more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def look_again(self, pid: int) -> None:
        """There may be more files with probes in a process than there were."""
        self._processes.pop(pid, None)

    def take_rows(self) -> list[dict[str, Any]]:
        """The windows that were closed since the last time: schema.WINDOW_SCHEMA.

        Those without a hit are left out: the functions of another level may be what is called.
        """
        rows, self._rows = self._rows, []
        return rows

    def meta(self) -> dict[str, Any]:
        """budget_pct, spent_ns, reason: why none could be opened, else None."""
        return {
            "budget_pct": self.governor.budget_pct,
            "spent_ns": self.governor.spent_ns,
            "reason": None if self._opened else self._reason,
        }

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = _LOOK_INTERVAL_S
        while not self._stopping.wait(pause_s):
            try:
                pause_s = self._turn()
            except ProcessLookupError:
                pause_s = _LOOK_INTERVAL_S  # it has ended meanwhile
            except Exception as error:  # BCC raises bare Exception
                self._reason = f"windows failed: {error}"
                self.warnings.append(self._reason)
                break
            self.cpu_ns = time.thread_time_ns()
        self.cpu_ns = time.thread_time_ns()

    def _turn(self) -> float:
        """Opens a window if one is due; returns for how many seconds there is nothing to do."""
        computing = self._programs.computing()
        if not computing:
            return _LOOK_INTERVAL_S
        pid, inside = self._random.choice(list(computing.items()))
        open_s = self._open_for_s(inside)
        probed = self._probed(pid)
        if probed is None or open_s is None:
            return _LOOK_INTERVAL_S
        left_ns = self.governor.left_ns(pid)
        share_pct = self.governor.share_left_pct or 0.0
        if share_pct <= 0:
            used_pct = self.governor.budget_pct - share_pct
            self._reason = f"what is always on costs {used_pct:.1f} % of a budget of {self.governor.budget_pct:g} %"
            return _MOST_PAUSE_S / 2
        cpus = len(os.sched_getaffinity(0))
        missing_ns = self.governor.forecast_ns(int(open_s * 1e9), cpus) - left_ns
        if missing_ns > 0:
            self._reason = "the run was too short for one to fit its budget"
            wait_s = missing_ns / (share_pct / 100 * cpus) / 1e9 * self._random.uniform(1.0, 1.5)
            return min(max(wait_s, _LEAST_PAUSE_S), _MOST_PAUSE_S)
        self._open(pid, probed, open_s, cpus)
        return _LEAST_PAUSE_S * self._random.uniform(0.5, 1.5)

    def _open_for_s(self, inside: bool) -> float | None:
        """For how long a window has to be open to hold a whole decode call; None: not known yet, or none is made.

        `inside`: in such a call now.
        """
        before, now = self._calls, (time.monotonic(), self._programs.hits_of(self._decode_cookies))
        if before is not None and now[0] - before[0] < _LEAST_PAUSE_S / 2:
            return None
        self._calls = now
        if before is None:
            return None
        n = now[1] - before[1]
        if not n:
            return _LONG_CALL_OPEN_S if inside else None
        return min(max(_TOKENS_A_WINDOW * (now[0] - before[0]) / n, _LEAST_OPEN_S), _MOST_OPEN_S)

    def _probed(self, pid: int) -> list[tuple[WindowedFile, list[WindowProbe]]] | None:
        """What is to be attached in a process: the functions of one level, or each barrier would count twice."""
        process = self._processes.get(pid)
        if process is None:
            process = self._processes[pid] = _Process(_levels(self._files, pid))
        if process.level < len(process.levels):
            return process.levels[process.level]
        none_there = "no barrier of a known kind was found" if not process.levels else "no known barrier is called"
        self._reason = f"{none_there} in the program"
        return None

    def _open(self, pid: int, probed: list[tuple[WindowedFile, list[WindowProbe]]], open_s: float, cpus: int) -> None:
        before_ns = time.thread_time_ns()
        hits_before, _ = self._programs.window_hits()
        calls_before = self._programs.hits_of(self._decode_cookies)
        links: list[int] = []
        try:
            for file, probes in probed:
                offsets, cookies = [one.offset for one in probes], [one.cookie for one in probes]
                self._programs.attach_barrier_probes(f"/proc/self/fd/{file.descriptor}", offsets, cookies, pid, links)
            _, recorded_before = self._programs.window_hits()
            self._programs.open_window(True)
            begin_ns = time.monotonic_ns()
            self._stopping.wait(open_s)
            end_ns = time.monotonic_ns()
        except OSError as error:
            self._reason = f"the kernel refused: {error.strerror}"
            self._next_level(pid)
            return
        finally:
            self._programs.open_window(False)
            for link in reversed(links):
                os.close(link)
        hits, recorded = self._programs.window_hits()
        self._opened += recorded > recorded_before
        for _, probes in probed:
            for one in probes:
                one.row.update(attached=True, reason=None)
        kinds = [one.row["cost_class"] for _, probes in probed for one in probes]
        hits_ns = round((hits - hits_before) * max(window_hit_ns(kind, self._hit_ns) for kind in kinds))
        cost_ns = self.governor.charge(hits_ns, time.thread_time_ns() - before_ns, end_ns - begin_ns, cpus)
        n_recorded = recorded - recorded_before
        if n_recorded:
            row = {"begin_ns": begin_ns, "end_ns": end_ns, "hits": n_recorded, "cost_ns": cost_ns}
            self._rows.append({"what": "barriers", **row})
        elif self._programs.hits_of(self._decode_cookies) - calls_before > 1:
            self._next_level(pid)  # a whole call went by without one: it waits elsewhere

    def _next_level(self, pid: int) -> None:
        process = self._processes.get(pid)
        if process is not None:
            process.level += 1


def _levels(files: Mapping[Key, WindowedFile], pid: int) -> list[list[tuple[WindowedFile, list[WindowProbe]]]]:
    keys = {(mapped.device, mapped.inode) for mapped in mapped_files(pid) if mapped.executable}
    mapped = [file for key, file in list(files.items()) if key in keys]
    levels = sorted({probe.level for file in mapped for probe in file.probes})
    return [list(_of_level(mapped, level)) for level in levels]


def _of_level(files: list[WindowedFile], level: int) -> Iterator[tuple[WindowedFile, list[WindowProbe]]]:
    for file in files:
        probes = [probe for probe in file.probes if probe.level == level]
        if probes:
            yield file, probes


def close_files(files: Mapping[Key, WindowedFile]) -> None:
    for file in files.values():
        with contextlib.suppress(OSError):
            os.close(file.descriptor)

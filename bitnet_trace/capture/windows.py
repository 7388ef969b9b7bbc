"""Probes that cost too much to stay: attached for a few tokens, at random moments, as the governor allows.

A thread of its own, because to attach and to detach waits for the kernel's readers (10 and 45 ms on 6.18) and costs
hardly any CPU time meanwhile: the tracer's main loop has to answer stops and signals.
"""

import math
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bitnet_trace.capture.cost import window_hit_ns
from bitnet_trace.capture.governor import Governor
from bitnet_trace.capture.window_probes import (
    BARRIERS,
    DURATIONS,
    FUNCTION,
    OPERATIONS,
    Key,
    Probed,
    WindowedFile,
    WindowProbe,
    by_program,
    levels_in,
    mapped_of,
)

# A thread that wakes up takes a CPU from the target: seldom, until there is something to do.
_LOOK_INTERVAL_S = 0.25
# what is left is an estimate that changes: it is looked at again soon
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.1, 1.0
_TOO_DEAR_PAUSE_S = 1.0
_TOKENS_A_WINDOW = 2.2  # so that one is whole, wherever the window begins
_LEAST_OPEN_S, _MOST_OPEN_S = 0.003, 5.0
_MOST_SLOWER = 64.0
_BURST_S = 0.01  # calls are timed in a part of a token
_LONG_CALL_OPEN_S = 0.05  # a part of a prefill, or of a token that takes longer

_NAMES = {BARRIERS: "barrier of a known kind", OPERATIONS: "function that computes an operation"}


class Programs(Protocol):
    """Of capture.bpf.Programs, what is needed here."""

    def attach_window_probes(
        self, program: str, path: str, offsets: list[int], cookies: list[int], pid: int, links: list[int]
    ) -> None: ...
    def take_window_durations(self) -> list[tuple[int, int, int, int, int]]: ...
    def take_window_calls(self) -> list[tuple[int, int, int]]: ...
    def open_window(self, is_open: bool) -> None: ...
    def set_tensor_layout(self, operation: int, name: int, first_source: int) -> None: ...
    def window_hits(self) -> tuple[int, int]: ...
    def computing(self) -> dict[int, bool]: ...
    def hits_of(self, cookies: list[int]) -> int: ...


class Windows:
    """The windows of one run. `files`, `decode_cookies` and `layouts` may grow; `hit_ns`: of a hit, by cost class;
    `layouts`: of the engine's tensors, by the file that tells (fields of engines.tensor_layout.TensorLayout)."""

    def __init__(
        self,
        programs: Programs,
        files: Mapping[Key, WindowedFile],
        decode_cookies: list[int],
        governor: Governor,
        hit_ns: Mapping[str, int],
        whats: Sequence[str] = (BARRIERS,),
        layouts: Mapping[Key, Mapping[str, Any]] | None = None,
    ) -> None:
        self._programs, self._files, self._decode_cookies = programs, files, decode_cookies
        self._hit_ns, self._layouts = hit_ns, {} if layouts is None else layouts
        self._layout_of: dict[int, Mapping[str, Any] | None] = {}
        self.governor = governor
        self._processes: dict[int, list[Probed]] = {}
        self._rows: list[dict[str, Any]] = []
        self._call_rows: list[dict[str, Any]] = []
        self._duration_rows: list[dict[str, Any]] = []
        self._reasons = dict.fromkeys(whats, "no decode call was under way when one could have been opened")
        self._opened: set[str] = set()
        self._calls: tuple[float, int] | None = None  # (when, how many decode calls had begun)
        self._random = random.Random()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="windows", daemon=True)
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

    def take_call_rows(self) -> list[dict[str, Any]]:
        """What windows have counted of functions since the last time: schema.CALL_SCHEMA."""
        rows, self._call_rows = self._call_rows, []
        return rows

    def take_duration_rows(self) -> list[dict[str, Any]]:
        """How long calls took in bursts since the last time: schema.DURATION_SCHEMA."""
        rows, self._duration_rows = self._duration_rows, []
        return rows

    def meta(self) -> dict[str, Any]:
        """budget_pct, spent_ns (of barriers), reason: why no window could be opened for barriers, else None.

        `functions` and `durations`: by name {spent_ns, reason}, likewise; `operations`, where they were asked for: the
        same, with the `names` of operations by process and number, and how the tensors' `layout` was known.
        """

        def state(what: str) -> dict[str, Any]:
            reason = None if what in self._opened else self._reasons[what]
            return {"spent_ns": self.governor.spent_ns.get(what, 0), "reason": reason}

        def by_name(kind: str) -> dict[str, Any]:
            return {what.removeprefix(kind): state(what) for what in self._reasons if what.startswith(kind)}

        found = {"budget_pct": self.governor.budget_pct, **state(BARRIERS)}
        found.update(functions=by_name(FUNCTION), durations=by_name(DURATIONS))
        if OPERATIONS in self._reasons:
            layouts = {str(pid): layout for pid, layout in self._layout_of.items() if layout is not None}
            names = {pid: list(layout["names"]) for pid, layout in layouts.items()}
            sources = sorted({layout["source"] for layout in layouts.values()})
            found["operations"] = {**state(OPERATIONS), "names": names, "layout": ", ".join(sources) or None}
        return found

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = _LOOK_INTERVAL_S
        while not self._stopping.wait(pause_s):
            try:
                pause_s = self._turn()
            except ProcessLookupError:
                pause_s = _LOOK_INTERVAL_S  # it has ended meanwhile
            except Exception as error:  # BCC raises bare Exception
                self._explain(f"windows failed: {error}")
                self.warnings.append(f"windows failed: {error}")
                break
            self.cpu_ns = time.thread_time_ns()
        self.cpu_ns = time.thread_time_ns()

    def _turn(self) -> float:
        """Opens a window if one is due; returns for how many seconds there is nothing to do."""
        computing = self._programs.computing()
        if not computing:
            return _LOOK_INTERVAL_S
        pid, inside = self._random.choice(list(computing.items()))
        open_s, whole = self._open_for_s(inside)
        groups = self._groups(pid)
        if open_s is None:
            return _LOOK_INTERVAL_S
        cpus = len(os.sched_getaffinity(0))
        waits_s = []
        for group in self._random.sample(groups, len(groups)):
            kind = group[0]
            left_ns = self.governor.left_ns(pid, kind.what, len(groups))
            length_s = min(open_s, _BURST_S) if kind.what.startswith(DURATIONS) else open_s
            share_pct = self.governor.share_left_pct or 0.0
            if share_pct <= 0:
                used_pct = self.governor.budget_pct - share_pct
                self._explain(f"what is always on costs {used_pct:.1f} % of a budget of {self.governor.budget_pct:g} %")
                return _TOO_DEAR_PAUSE_S
            missing_ns = self.governor.forecast_ns(kind.what, int(length_s * kind.slower * 1e9), cpus) - left_ns
            if missing_ns <= 0:
                # of operations and counts only whole calls are of use
                self._open(pid, group, length_s, whole or group[0].what != BARRIERS, cpus)
                return _LEAST_PAUSE_S * self._random.uniform(0.5, 1.5)
            credit_ns = missing_ns + max(left_ns, 0)
            text = (
                f"a window would cost {credit_ns / 1e6:.1f} ms of CPU time, and the run was too short to allow for that"
            )
            self._reasons.update(dict.fromkeys((one.what for one in group), text))
            waits_s.append(missing_ns / (share_pct / 100 * cpus / len(groups)) / 1e9)
        wait_s = min(waits_s, default=_LOOK_INTERVAL_S) * self._random.uniform(1.0, 1.5)
        return min(max(wait_s, _LEAST_PAUSE_S), _MOST_PAUSE_S)

    def _explain(self, reason: str) -> None:
        self._reasons = dict.fromkeys(self._reasons, reason)

    def _open_for_s(self, inside: bool) -> tuple[float | None, bool]:
        """For how long a window has to be open, and whether it holds a whole decode call then, or a part of one that
        lasts; None: not known yet, or none is made.

        `inside`: in such a call now.
        """
        before, now = self._calls, (time.monotonic(), self._programs.hits_of(self._decode_cookies))
        if before is not None and now[0] - before[0] < _LEAST_PAUSE_S / 2:
            return None, False
        self._calls = now
        if before is None:
            return None, False
        n = now[1] - before[1]
        if not n:
            return _LONG_CALL_OPEN_S if inside else None, False
        return min(max(_TOKENS_A_WINDOW * (now[0] - before[0]) / n, _LEAST_OPEN_S), _MOST_OPEN_S), True

    def _kinds(self, pid: int) -> list[Probed]:
        """What can be probed in a process."""
        if pid not in self._processes:
            self._processes[pid] = [Probed(what, levels_in(self._files, pid, what)) for what in self._reasons]
            if OPERATIONS in self._reasons:
                self._layout_of[pid] = next(iter(mapped_of(self._layouts, pid)), None)
        for kind in self._processes[pid]:
            timed = "such function whose returns can be probed"
            name = _NAMES.get(kind.what, timed if kind.what.startswith(DURATIONS) else "such function")
            if not kind.levels:
                self._reasons[kind.what] = f"no {name} was found in the program"
            elif kind.what == OPERATIONS and self._layout_of[pid] is None:
                self._reasons[kind.what] = "the layout of the engine's tensors is not known"
                kind.level = len(kind.levels)
            elif kind.placed is None:
                self._reasons[kind.what] = f"no {name} is called in the program"
        return [kind for kind in self._processes[pid] if kind.placed is not None]

    def _groups(self, pid: int) -> list[list[Probed]]:
        """What is probed at the same time: operations with the barriers between them."""
        kinds = {kind.what: kind for kind in self._kinds(pid)}
        if OPERATIONS in kinds:
            first = [kinds.pop(what) for what in (OPERATIONS, BARRIERS) if what in kinds]
            return [first, *([kind] for kind in kinds.values())]
        return [[kind] for kind in kinds.values()]

    def _attach(self, pid: int, kind: Probed, links: list[int]) -> None:
        layout = self._layout_of.get(pid)
        if kind.what == OPERATIONS and layout is not None:
            self._programs.set_tensor_layout(layout["operation"], layout["name"], layout["first_source"])
        for file, probes in kind.placed or []:
            path = f"/proc/self/fd/{file.descriptor}"
            for program, own in by_program(kind.what, probes).items():
                offsets, cookies = [one.offset for one in own], [one.cookie for one in own]
                self._programs.attach_window_probes(program, path, offsets, cookies, pid, links)

    def _recorded(self, group: list[Probed]) -> list[int]:
        return [self._programs.hits_of([one.cookie for one in kind.probes]) for kind in group]

    def _open(self, pid: int, group: list[Probed], open_s: float, whole: bool, cpus: int) -> None:
        before_ns = time.thread_time_ns()
        hits_before, _ = self._programs.window_hits()
        links: list[int] = []
        kind = group[0]
        try:
            for kind in group:
                self._attach(pid, kind, links)
            recorded_before = self._recorded(group)
            self._programs.open_window(True)
            calls_before = self._programs.hits_of(self._decode_cookies)
            begin_ns = time.monotonic_ns()
            self._wait_open(group[0], open_s, whole)
            whole_call = self._programs.hits_of(self._decode_cookies) - calls_before > 1
            end_ns = time.monotonic_ns()
        except OSError as error:
            self._reasons[kind.what] = f"the kernel refused: {error.strerror}"
            kind.level += 1
            return
        finally:
            self._programs.open_window(False)
            for link in reversed(links):
                os.close(link)
        hits, _ = self._programs.window_hits()
        probes = [one for kind in group for one in kind.probes]
        for one in probes:
            one.row.update(attached=True, reason=None)
        hits_ns = round((hits - hits_before) * self._mean_hit_ns(probes))
        spent_ns = time.thread_time_ns() - before_ns
        cost_ns = self.governor.charge(group[0].what, hits_ns, spent_ns, end_ns - begin_ns, cpus)
        recorded = [after - before for after, before in zip(self._recorded(group), recorded_before, strict=True)]
        hit = [kind.what for kind, n in zip(group, recorded, strict=True) if n]
        self._opened.update(hit)
        if hit:
            times = {"begin_ns": begin_ns, "end_ns": end_ns}
            self._rows.append({"what": hit[0], **times, "hits": sum(recorded), "cost_ns": cost_ns})
            if hit[0].startswith(FUNCTION):
                counted = self._programs.take_window_calls()
                self._call_rows += [{"probe": row, "phase": phase, "calls": n, **times} for phase, row, n in counted]
            elif hit[0].startswith(DURATIONS):
                names = ("phase", "probe", "bucket", "calls", "total_ns")
                timed = self._programs.take_window_durations()
                self._duration_rows += [{**dict(zip(names, row, strict=True)), **times} for row in timed]
        for kind, n in zip(group, recorded, strict=True):
            if not n and whole_call:
                kind.level += 1  # a whole call went by without one: it waits, or computes, elsewhere

    def _mean_hit_ns(self, probes: list[WindowProbe]) -> float:
        """Of a hit, at most: a call that is timed hits one probe of each sort."""
        costs: dict[bool, int] = {}
        for one in probes:
            costs[one.is_end] = max(costs.get(one.is_end, 0), window_hit_ns(one.row["cost_class"], self._hit_ns))
        return sum(costs.values()) / len(costs)

    def _wait_open(self, kind: Probed, open_s: float, whole: bool) -> None:
        """Until the window has been open for as long as it should, and, where a whole call is wanted, its kind of
        probes let one through.

        A hot kernel's make a token take many times as long: so many times was it paid for, and that is found out here.
        """
        if kind.what.startswith(DURATIONS) or not whole:
            self._stopping.wait(open_s)
            return
        calls = self._programs.hits_of(self._decode_cookies)
        paid_for = math.ceil(kind.slower)
        for turn in range(1, 2 * paid_for + 1):
            self._stopping.wait(open_s)
            begun = self._programs.hits_of(self._decode_cookies) - calls
            if self._stopping.is_set() or begun > 1:
                return
            if turn >= paid_for and not begun:
                break  # one that has begun is waited for: without the long ones a mean would be too small
        kind.slower = min(2 * kind.slower, _MOST_SLOWER)

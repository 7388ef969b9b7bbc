"""What each thread is doing: its name, whether it runs, and where, from its last switch."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.recording.layout import DURATION_ONLY, Kind, SwitchFlag

_MOST_ENDED = 256  # threads that have ended and are kept
_STATES = ((1, "S"), (2, "D"), (4, "T"), (8, "t"))  # include/linux/sched.h
_TAIL = 5_000
_STATE_SHIFT, _STATE_BITS = 8, 0x7FF
_POLICIES = {0: "other", 1: "fifo", 2: "rr", 3: "batch", 5: "idle", 6: "deadline"}


@dataclass
class Thread:
    """`since_ns`: in that state since; `state` None: not known yet."""

    tid: int
    pid: int
    comm: str = "?"
    state: str | None = None
    cpu: int | None = None
    since_ns: int = 0
    policy: str | None = None


class ThreadTable:
    """The threads of a run; of those that have ended the latest."""

    def __init__(self) -> None:
        self.by_tid: dict[int, Thread] = {}
        self._ended: deque[int] = deque()
        self._sampled: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # by thread: when, and on which CPU
        self.n_forgotten = 0

    def take_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of schema.THREAD_SCHEMA."""
        for row in rows:
            thread = self.by_tid.setdefault(int(row["tid"]), Thread(int(row["tid"]), int(row["pid"])))
            thread.pid, thread.comm = int(row["pid"]), row["comm"] or "?"
            if row["end_ns"] is not None:
                if thread.state != "X":
                    self._ended.append(thread.tid)
                thread.state, thread.cpu = "X", None
            elif thread.state == "X":
                thread.state = None  # its number was given again
        while len(self._ended) > _MOST_ENDED:
            tid = self._ended.popleft()
            if tid in self.by_tid and self.by_tid[tid].state == "X":
                del self.by_tid[tid]
                self.n_forgotten += 1

    def take_scheduling(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of schema.SCHEDULING_SCHEMA: what was asked for and granted."""
        for row in rows:
            thread = self.by_tid.get(int(row["tid"]))
            if thread is None or row.get("error") or row.get("policy") is None:
                continue
            self.set_policy(thread.tid, int(row["policy"]), int(row["priority"] or 0), row.get("nice"))

    def set_policy(self, tid: int, policy: int, priority: int, nice: int | None) -> None:
        """As sched(7) has them."""
        name = _POLICIES.get(policy, str(policy))
        detail = f" {priority}" if priority else f" {nice:+d}" if nice else ""
        if tid in self.by_tid:
            self.by_tid[tid].policy = name + detail

    def take_events(self, events: ByKind) -> None:
        """The last switch of each thread counts."""
        last = [event for kind in (Kind.SWITCH_OUT, Kind.SWITCH_IN) for event in _last_by_tid(events.of(kind)).tolist()]
        for ts_ns, tid, _phase, kind, cpu, arg0, _arg1, _arg2 in sorted(last):
            thread = self.by_tid.get(tid)
            if thread is None or thread.state == "X" or ts_ns < thread.since_ns:
                continue
            thread.since_ns, thread.cpu = ts_ns, cpu
            thread.state = "R" if kind == Kind.SWITCH_IN else _state(arg0)
        self._believe_samples()

    def take_samples(self, rows: npt.NDArray[np.void]) -> None:
        """SAMPLE_ROW_DTYPE, of the same time as the events that come next."""
        timer = rows[rows["reason"] == 0]
        self._sampled.clear()
        for tid, ts_ns, cpu in zip(*(timer[name].tolist() for name in ("tid", "ts_ns", "cpu")), strict=True):
            self._sampled[tid].append((ts_ns, cpu))
        self._believe_samples()

    def _believe_samples(self) -> None:
        """Who is sampled by the timer runs, also where the switch to it was not told: some guests' kernels hide some,
        which are put right when the thread leaves the CPU, a second later perhaps."""
        for tid, sampled in self._sampled.items():
            thread = self.by_tid.get(tid)
            if thread is None or thread.state in (None, "R", "X"):  # None: switches are not told, but counted only
                continue
            since = next(((ts_ns, cpu) for ts_ns, cpu in sampled if ts_ns > thread.since_ns), None)
            if since is not None:
                thread.state, (thread.since_ns, thread.cpu) = "R", since


def _last_by_tid(events: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Of each thread the last event, in any order; EVENT_DTYPE, in the order of time."""
    if len(events) > _TAIL:  # threads that switch often are among the last: the others are looked for
        often = np.unique(events["tid"][-_TAIL:])
        events = np.concatenate([events.compress(~np.isin(events["tid"], often)), events[-_TAIL:]])
    events = events[events["arg0"] < DURATION_ONLY]
    place, tids = pd.factorize(events["tid"])
    last = np.empty(len(tids), np.intp)
    last[place] = np.arange(len(events))  # of those with one place the last stays
    return events[last]


def _state(arg0: int) -> str:
    """Of a thread that has left its CPU; `r`: it wants one."""
    if arg0 & SwitchFlag.EXIT:
        return "X"
    bits = arg0 >> _STATE_SHIFT & _STATE_BITS
    return next((letter for bit, letter in _STATES if bits & bit), "S" if bits else "r")

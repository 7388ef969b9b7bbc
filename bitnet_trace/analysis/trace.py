"""A recording as tracks, slices, counters and arrows between them: what trace viewers show."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.report import Report
from bitnet_trace.analysis.split import as_time
from bitnet_trace.analysis.waits import reason_name
from bitnet_trace.printable import printable
from bitnet_trace.recording.layout import (
    DURATION_ONLY,
    EVENT_DTYPE,
    WAIT_REASON_SHIFT,
    FaultFlag,
    Kind,
    SwitchFlag,
    WaitReason,
)

RUNNING, RUN_QUEUE = "running", "waiting for a CPU"
_FAULT_STEP_NS = 1_000_000
_NAME_LIMIT = 200
_KINDS = (Kind.SWITCH_OUT, Kind.SWITCH_IN, Kind.WAKEUP, Kind.RSS, Kind.FAULT)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slices:
    """The slices of one track, in the order of time and never two at once: `names[name[i]]` from begin to end (ns)."""

    names: list[str]
    name: npt.NDArray[np.intp]
    begin_ns: Ints
    end_ns: Ints


@dataclass(frozen=True)
class Track:
    """One row of a viewer. `kind`: "phases" or "thread" (of process `pid`, thread `tid`), or "cpu" (number `tid`)."""

    kind: str
    pid: int
    tid: int
    name: str
    slices: Slices


@dataclass(frozen=True)
class Series:
    """A counter of process `pid`: `values[i]` from `ts_ns[i]` on."""

    pid: int
    name: str
    unit: str
    ts_ns: Ints
    values: Ints


@dataclass(frozen=True)
class Wakeups:
    """Thread `waker[i]` woke `woken[i]` at `ts_ns[i]`; it ran from `runs_ns[i]` on. Both have thread tracks."""

    ts_ns: Ints
    waker: Ints
    woken: Ints
    runs_ns: Ints


@dataclass(frozen=True)
class Trace:
    """All of a recording; times are CLOCK_MONOTONIC ns. `processes`: pid to name."""

    processes: dict[int, str]
    tracks: list[Track]
    series: list[Series]
    wakeups: Wakeups


def trace(report: Report) -> Trace:
    """The trace of a report's recording. Names are printable. Without an event stream it has phases only."""
    events = _chosen(report)
    threads = _threads(report, events)
    processes = {pid: _process_name(report, pid) for pid in sorted({pid for pid, _, _ in threads.values()})}
    tracks = list(_phase_tracks(report))
    by_tid = _Grouped(events[np.isin(events["kind"], (Kind.SWITCH_OUT, Kind.SWITCH_IN))], "tid")
    running: dict[int, Ints] = {}
    for tid, (pid, _, name) in threads.items():
        slices = _thread_slices(by_tid.rows(tid))
        running[tid] = slices.begin_ns[slices.name == 0]
        tracks.append(Track("thread", pid, tid, f"{name} {tid}", slices))
    tracks += _cpu_tracks(events[events["kind"] == Kind.SWITCH_OUT], threads)
    pid_of = {tid: pid for tid, (pid, _, _) in threads.items()}
    series = [*_resident(events[events["kind"] == Kind.RSS]), *_faults(events[events["kind"] == Kind.FAULT], pid_of)]
    return Trace(processes, tracks, series, _wakeups(events[events["kind"] == Kind.WAKEUP], running))


def _chosen(report: Report) -> npt.NDArray[np.void]:
    batches = [batch[np.isin(batch["kind"], _KINDS)] for batch in report.recording.event_batches(500_000)]
    events = np.concatenate([np.empty(0, EVENT_DTYPE), *batches])
    return events[np.argsort(events["ts_ns"], kind="stable")]


class _Grouped:
    """Rows of events by a field, with one sort."""

    def __init__(self, events: npt.NDArray[np.void], key: str) -> None:
        order = np.argsort(events[key], kind="stable")
        self._events = events[order]
        self._keys, first = np.unique(self._events[key], return_index=True)
        self._edges = np.append(first, len(events))

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys.tolist())

    def rows(self, key: int) -> npt.NDArray[np.void]:
        place = int(np.searchsorted(self._keys, key))
        if place >= len(self._keys) or self._keys[place] != key:
            return self._events[:0]
        return self._events[self._edges[place] : self._edges[place + 1]]


def _threads(report: Report, events: npt.NDArray[np.void]) -> dict[int, tuple[int, int, str]]:
    """tid to (pid, tid, name) of all threads that switched, or are in the recording's list."""
    table = report.by_thread[report.by_thread["pid"] >= 0]
    result: dict[int, tuple[int, int, str]] = {}
    for pid, tid, comm in zip(table["pid"], table["tid"], table["comm"], strict=True):
        result.setdefault(int(tid), (int(pid), int(tid), "-" if pd.isna(comm) else printable(str(comm), _NAME_LIMIT)))
    for tid in np.unique(events["tid"][np.isin(events["kind"], (Kind.SWITCH_OUT, Kind.SWITCH_IN))]).tolist():
        result.setdefault(tid, (tid, tid, "-"))
    return result


def _process_name(report: Report, pid: int) -> str:
    own = report.recording.threads
    own = own[(own["pid"] == pid) & own["comm"].notna()]
    leader = own[own["tid"] == pid]
    names = (leader if len(leader) else own)["comm"]
    return printable(str(names.iloc[-1]), _NAME_LIMIT) if len(names) else "-"


def _phase_tracks(report: Report) -> Iterator[Track]:
    """A track per process, and one more per thread whose calls ran beside those of another."""
    phases = report.phases
    pids = phases["pid"].to_numpy(dtype=np.int64)
    rows = np.where(phases["overlapped"].fillna(False), phases["tid"].to_numpy(dtype=np.int64), -1)
    for pid, tid in sorted(set(zip(pids.tolist(), rows.tolist(), strict=True))):
        own = phases[(pids == pid) & (rows == tid)]
        named = zip(own["name"], own["token"], strict=True)
        texts = [str(name) if pd.isna(token) else f"{name} {token}" for name, token in named]
        code, names = pd.factorize(np.array(texts, dtype=object))
        begin_ns = own["begin_ns"].to_numpy(dtype=np.int64)
        end_ns = begin_ns + own["dur_ns"].to_numpy(dtype=np.int64)
        title = "phases" if tid == -1 else f"phases of thread {tid}"
        yield Track("phases", pid, tid, title, Slices(list(names), code, begin_ns, end_ns))


def _thread_slices(switches: npt.NDArray[np.void]) -> Slices:
    """When the thread ran, waited for a CPU, and slept (by what it waited in): names 0, 1 and the rest."""
    end_ns = as_time(switches["ts_ns"])
    out = switches["kind"] == Kind.SWITCH_OUT
    ran_ns = np.minimum(as_time(switches["arg1"]), end_ns)
    waited_ns = np.where(out, 0, np.minimum(as_time(switches["arg2"]), ran_ns))
    counted = switches["arg0"] < DURATION_ONLY
    voluntary = (switches["arg0"] & SwitchFlag.VOLUNTARY) != 0
    reason = np.where(voluntary, (switches["arg0"] >> WAIT_REASON_SHIFT) & WaitReason.FAULT, -1).astype(np.int64)
    # of a switch in: the reason of the switch away before it
    last = np.maximum.accumulate(np.where(out & counted, np.arange(len(out)), -1))
    asleep = np.where(last >= 0, reason[last] if len(reason) else 0, 0)
    reasons, code = np.unique(asleep, return_inverse=True)
    names = [RUNNING, RUN_QUEUE, *(reason_name(int(one)) for one in reasons)]
    first = Slices(names, np.where(out, 0, code + 2), end_ns - ran_ns, end_ns - waited_ns)
    second = Slices(names, np.ones(len(out), dtype=np.intp), end_ns - waited_ns, end_ns)
    together = [np.column_stack(pair).ravel() for pair in zip(_columns(first), _columns(second), strict=True)]
    return _in_order(names, *together)


def _columns(slices: Slices) -> tuple[npt.NDArray[np.intp], Ints, Ints]:
    return slices.name, slices.begin_ns, slices.end_ns


def _in_order(names: list[str], name: npt.NDArray[np.intp], begin_ns: Ints, end_ns: Ints) -> Slices:
    """Without empty slices; one that would begin before the end of another begins there."""
    some = end_ns > begin_ns
    order = np.argsort(begin_ns[some], kind="stable")
    name, begin_ns, end_ns = name[some][order], begin_ns[some][order], end_ns[some][order]
    begin_ns[1:] = np.maximum(begin_ns[1:], np.maximum.accumulate(end_ns)[:-1])
    some = end_ns > begin_ns
    return Slices(names, name[some], begin_ns[some], end_ns[some])


def _cpu_tracks(switches: npt.NDArray[np.void], threads: dict[int, tuple[int, int, str]]) -> Iterator[Track]:
    by_cpu = _Grouped(switches, "cpu")
    for cpu in by_cpu:
        own = by_cpu.rows(cpu)
        end_ns = as_time(own["ts_ns"])
        tids, code = np.unique(own["tid"], return_inverse=True)
        names = [f"{threads[int(tid)][2]} {tid}" for tid in tids]
        slices = _in_order(names, code, end_ns - np.minimum(as_time(own["arg1"]), end_ns), end_ns)
        yield Track("cpu", 0, cpu, f"CPU {cpu}", slices)


def _resident(events: npt.NDArray[np.void]) -> Iterator[Series]:
    by_pid = _Grouped(events, "arg0")
    for pid in by_pid:
        own = by_pid.rows(pid)
        yield Series(pid, "resident memory", "bytes", as_time(own["ts_ns"]), as_time(own["arg1"]))


def _faults(events: npt.NDArray[np.void], pid_of: dict[int, int]) -> Iterator[Series]:
    """Page faults of each process so far, each millisecond in which there were any."""
    events = events[(events["arg0"] & FaultFlag.FAILED) == 0]
    pids = np.array([pid_of.get(int(tid), int(tid)) for tid in np.unique(events["tid"])], dtype=np.int64)
    pid = pids[np.unique(events["tid"], return_inverse=True)[1]] if len(events) else pids
    for one in np.unique(pid).tolist():
        step, counts = np.unique(as_time(events["ts_ns"][pid == one]) // _FAULT_STEP_NS, return_counts=True)
        yield Series(one, "page faults", "count", (step + 1) * _FAULT_STEP_NS, np.cumsum(counts))


def _wakeups(events: npt.NDArray[np.void], running: dict[int, Ints]) -> Wakeups:
    """Those of one known thread by another."""
    woken, waker = events["tid"].astype(np.int64), events["arg0"].astype(np.int64)
    ts_ns = as_time(events["ts_ns"])
    runs_ns = np.full(len(events), -1, dtype=np.int64)
    for tid in np.unique(woken).tolist():
        begins_ns = running.get(tid, np.empty(0, np.int64))
        own = np.flatnonzero(woken == tid)
        place = np.searchsorted(begins_ns, ts_ns[own])
        found = place < len(begins_ns)
        runs_ns[own[found]] = begins_ns[place[found]]
    # of several wake-ups before a thread runs the last is the one
    last = np.append((woken[1:] != woken[:-1]) | (runs_ns[1:] != runs_ns[:-1]), True)[: len(woken)]
    known = (runs_ns >= 0) & np.isin(waker, list(running)) & (waker != woken) & last
    return Wakeups(ts_ns[known], waker[known], woken[known], runs_ns[known])

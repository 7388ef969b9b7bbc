"""Folds streamed events to the counters that `--detail counts` keeps in the kernel: one row per phase and thread."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind, Columns
from bitnet_trace.analysis.spans import KEY_SHIFT, LOW_WORD, Spans
from bitnet_trace.analysis.split import PhaseEdges, as_time
from bitnet_trace.analysis.sums import MAXIMA, Sums, added, different_keys, sparse, to_int
from bitnet_trace.recording.layout import (
    COUNTER_FIELDS,
    DURATION_ONLY,
    FaultFlag,
    IoFlag,
    Kind,
    MemoryDetail,
    SwitchFlag,
    TlbEvent,
)

PAGE_SHIFT = np.uint64(12)

# futex(2): the operations that sleep (WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2) without their flags, and
# the numbers that the kernel side gives to the system calls futex_waitv and futex_wait.
FUTEX_WAITS = np.array([0, 6, 9, 11, 13], dtype=np.uint32)
FUTEX_OPERATION_MASK = 127
FUTEX_CALL_WAITS = np.array([200, 201], dtype=np.uint32)
_MEMORY_CALLS = {
    Kind.MMAP: "mmap",
    Kind.MUNMAP: "munmap",
    Kind.MREMAP: "mremap",
    Kind.BRK: "brk",
    Kind.MADVISE: "madvise",
    Kind.MPROTECT: "mprotect",
    Kind.MLOCK: "mlock",
}
# by 2 * kernel + major, each flag as the records have it: whole arrays are compared
_FAULTS = ("faults_user_minor", "faults_user_major", "faults_kernel_minor", "faults_kernel_major")
FAILED, MAJOR, KERNEL = (np.uint32(flag) for flag in (FaultFlag.FAILED, FaultFlag.MAJOR, FaultFlag.KERNEL))
FULL_FLUSH = np.uint64(0xFFFFFFFFFFFFFFFF)
_NUMBER = {name: number for number, name in enumerate(COUNTER_FIELDS)}
_SIZE_AT_LEAST = 12_000_000

Events = npt.NDArray[np.void]
Amounts = npt.NDArray[np.integer[Any]]


def no_counters() -> pd.DataFrame:
    """Counters of nothing: the columns and the index that all counters have."""
    index = pd.MultiIndex.from_arrays([np.empty(0, np.int64), np.empty(0, np.int64)], names=["phase", "tid"])
    return pd.DataFrame({name: np.empty(0, np.int64) for name in COUNTER_FIELDS}, index=index)


def fold_events(events: Events | Iterable[Events], phases: pd.DataFrame) -> pd.DataFrame:
    """The counters of `events`: one EVENT_DTYPE array, or several that are folded one at a time.

    `phases` has the columns of schema.PHASE_SCHEMA and should hold every phase that the events name; an event of a
    phase that it lacks keeps its phase number. The result has index (phase, tid) and the columns layout.COUNTER_FIELDS
    as int64: sums, and for rss_peak_bytes the maximum. A count bills to the event's own phase; time on and off the CPU,
    on the run queue and in futex, read and memory calls is split at the phase edges of its process.
    """
    folding = Folding(phases)
    for batch in [events] if isinstance(events, np.ndarray) else events:
        folding.add(ByKind(batch))
    return folding.sums().table()


class Folding:
    """`fold_events` of batches that come one by one."""

    def __init__(self, phases: pd.DataFrame) -> None:
        self._edges = PhaseEdges.of(phases)
        self._sums: list[Sums] = []
        self._size, self._limit = 0, _SIZE_AT_LEAST

    def add(self, events: ByKind) -> None:
        self._sums.append(fold_batch(events, self._edges))
        self._size += self._sums[-1].size
        if self._size > self._limit:  # so that each sum is added up a few times at most, however many batches there are
            self._sums = [added(self._sums)]
            self._size = self._sums[0].size
            self._limit = 2 * self._size + _SIZE_AT_LEAST

    def sums(self) -> Sums:
        return added(self._sums)


def fold_batch(events: ByKind, edges: PhaseEdges) -> Sums:
    """The same of one batch, as plain arrays."""
    edges.expect(len(events))
    return _Fold(events, edges).result()


def from_stored(stored: pd.DataFrame) -> Sums:
    """The counters of the deltas that the kernel kept (Recording.stored_counters)."""
    keys = stored["phase"].to_numpy(dtype=np.uint64) << KEY_SHIFT | stored["tid"].to_numpy(dtype=np.uint64)
    unique, place = np.unique(keys, return_inverse=True)
    columns = {}
    for name in COUNTER_FIELDS:
        values = as_time(stored[name].to_numpy(dtype=np.uint64))
        if values.any():
            sums = np.zeros(len(unique), dtype=np.int64)
            (np.maximum if name in MAXIMA else np.add).at(sums, place, values)
            columns[name] = sparse(sums)
    return Sums(unique, columns)


@dataclass(frozen=True)
class _Rows:
    """Events of one kind, and the number of each one's key."""

    events: Columns
    code: npt.NDArray[np.intp]

    def __getitem__(self, field: str) -> npt.NDArray[Any]:
        return self.events[field]

    def where(self, chosen: npt.NDArray[np.bool_]) -> "_Rows":
        return self if chosen.all() else _Rows(self.events.compress(chosen), self.code.compress(chosen))


class _Fold:
    """One batch while it is folded: keys of (phase, tid) as small numbers, and a column of sums for each counter."""

    def __init__(self, events: ByKind, edges: PhaseEdges) -> None:
        self._edges = edges
        counted = self._steps().keys()
        self._rows = {kind: events.columns_of(kind) for kind in events.kinds if kind in counted}
        keys = [rows["phase"].astype(np.uint64) << KEY_SHIFT | rows["tid"] for rows in self._rows.values()]
        self._code, self._keys = pd.factorize(np.concatenate([np.empty(0, np.uint64), *keys]), sort=True)
        self._begin_ns, self._pid = edges.lookup((self._keys >> KEY_SHIFT).astype(np.uint32))
        self._sums: dict[str, npt.NDArray[Any]] = {}  # of those that are not all 0
        # Parts of durations in other phases than their record's (counter, keys, amounts), and those that they fill.
        self._moved: list[tuple[str, npt.NDArray[np.uint64], npt.NDArray[np.float64]]] = []
        self._spans: dict[str, list[Spans]] = defaultdict(list)

    def _steps(self) -> dict[int, Callable[[_Rows], None]]:
        """What is done with each kind. Not kept: what refers to itself keeps its arrays until Python looks for such."""
        return {
            Kind.FAULT: self._faults,
            Kind.POPULATE: self._populate,
            Kind.SWITCH_OUT: self._switches_out,
            Kind.SWITCH_IN: self._switches_in,
            Kind.WAKEUP: partial(self._add, "wakeups"),
            Kind.MIGRATE: partial(self._add, "migrations"),
            Kind.FUTEX: self._futex,
            Kind.FUTEX_WAKES: lambda rows: self._add("futex_calls", rows, rows["arg0"]),
            Kind.READ: self._reads,
            Kind.YIELD: partial(self._add, "sched_yield_calls"),
            Kind.SYSTEM_TIME: lambda rows: self._add("cpu_system_ns", rows, rows["arg1"]),
            Kind.RSS: self._rss,
            Kind.IO_SUBMIT: partial(self._add, "io_uring_submitted"),
            Kind.IO_COMPLETE: self._io_completions,
            Kind.TLB: self._tlb,
            **{kind: partial(self._memory_calls, name) for kind, name in _MEMORY_CALLS.items()},
        }

    def result(self) -> Sums:
        begin, steps = 0, self._steps()
        for kind, events in self._rows.items():
            steps[kind](_Rows(events, self._code[begin : begin + len(events)]))
            begin += len(events)
        return self._gathered()

    def _gathered(self) -> Sums:
        keys = different_keys([self._keys, *(keys for _, keys, _ in self._moved)])
        place = np.searchsorted(keys, self._keys)
        columns = {}
        for name, own in self._sums.items():
            rows = np.flatnonzero(own != 0)
            columns[name] = place[rows], to_int(own[rows])
        for name, moved_keys, ns in self._moved:
            values = np.zeros(len(keys), np.int64)
            if name in columns:
                rows, amounts = columns[name]
                values[rows] = amounts
            values[np.searchsorted(keys, moved_keys)] += to_int(ns)
            columns[name] = sparse(values)
        some = np.zeros(len(keys), dtype=bool)
        for rows, _ in columns.values():
            some[rows] = True
        number = np.cumsum(some) - 1
        spans = {name: Spans.together(of_name) for name, of_name in self._spans.items()}
        return Sums(keys[some], {name: (number[rows], amounts) for name, (rows, amounts) in columns.items()}, spans)

    def _add(self, name: str, rows: _Rows, amount: Amounts | None = None) -> None:
        """Adds 1, or `amount`, for each of `rows` to the counter in the row's own phase."""
        if len(rows.code):
            weights = None if amount is None else amount.astype(np.float64)
            sums = np.bincount(rows.code, weights=weights, minlength=len(self._keys))
            self._sums[name] = self._sums.get(name, 0.0) + sums

    def _add_time(self, name: str, rows: _Rows, length_ns: Amounts) -> None:
        """Adds the durations that end at `rows`, split at phase edges."""
        end_ns = as_time(rows["ts_ns"])
        length = np.minimum(as_time(length_ns), end_ns)
        over_edge = end_ns - length < self._begin_ns[rows.code]
        if not over_edge.any():
            self._add(name, rows, length)
            return
        self._add(name, rows.where(~over_edge), length[~over_edge])
        crossing = rows.where(over_edge)
        phase, tid, pid = crossing["phase"], crossing["tid"], self._pid[crossing.code]
        for parts, fills in self._edges.split(end_ns[over_edge], length[over_edge], phase, pid):
            keys = parts.phase.astype(np.uint64) << KEY_SHIFT | tid[parts.event]
            code, unique = pd.factorize(keys)
            self._moved.append((name, unique, np.bincount(code, weights=parts.ns).astype(np.float64)))
            if len(fills.event):
                own = tid[fills.event].astype(np.int64)
                pids = np.full(len(own), fills.pid)
                self._spans[name].append(Spans(self._edges, own, pids, fills.first, fills.last))

    def _faults(self, rows: _Rows) -> None:
        rows = _counted(rows)
        flags = rows["arg0"]
        failed = (flags & FAILED) != 0
        self._add("faults_failed", rows.where(failed))
        handled = rows.where(~failed)
        flags = handled["arg0"]
        # all four in one pass: faults are many
        which = (flags & KERNEL != 0).astype(np.intp) << 1 | (flags & MAJOR != 0)
        counts = np.bincount(handled.code << 2 | which, minlength=4 * len(self._keys)).reshape(-1, 4).T
        for name, of_keys in zip(_FAULTS, counts, strict=True):
            if of_keys.any():
                self._sums[name] = self._sums.get(name, 0.0) + of_keys
        self._add("fault_ns", handled, handled["arg2"])

    def _populate(self, rows: _Rows) -> None:
        both = rows["arg1"]
        self._add("faults_populate_minor", rows, both & LOW_WORD)
        self._add("faults_populate_major", rows, both >> KEY_SHIFT)
        self._add("populated_bytes", rows, rows["arg2"])

    def _switches_out(self, rows: _Rows) -> None:
        self._add_time("cpu_ns", rows, rows["arg1"])
        in_kernel = rows.where((rows["arg0"] & SwitchFlag.IN_KERNEL) != 0)
        self._add_time("cpu_system_ns", in_kernel, in_kernel["arg1"])
        counted = _counted(rows)
        switches = counted.where((counted["arg0"] & SwitchFlag.EXIT) == 0)
        voluntary = (switches["arg0"] & SwitchFlag.VOLUNTARY) != 0
        self._add("switches_voluntary", switches.where(voluntary))
        self._add("switches_involuntary", switches.where(~voluntary))

    def _switches_in(self, rows: _Rows) -> None:
        self._add_time("offcpu_ns", rows, rows["arg1"])
        waited = rows.where(rows["arg2"] != 0)
        self._add_time("runq_wait_ns", waited, waited["arg2"])

    def _futex(self, rows: _Rows) -> None:
        self._add("futex_calls", _counted(rows))
        operation = rows["arg0"] & np.uint32(0xFFFF)
        plain = operation & np.uint32(FUTEX_OPERATION_MASK)
        waits = rows.where(np.isin(operation, FUTEX_CALL_WAITS) | np.isin(plain, FUTEX_WAITS))
        self._add_time("futex_wait_ns", waits, waits["arg2"])

    def _reads(self, rows: _Rows) -> None:
        counted = _counted(rows)
        self._add("read_calls", counted)
        moved = counted.where(counted["arg1"].view(np.int64) > 0)
        self._add("read_bytes", moved, moved["arg1"].view(np.int64))
        self._add_time("read_ns", rows, rows["arg2"])

    def _memory_calls(self, name: str, rows: _Rows) -> None:
        counted = _counted(rows)
        self._add(f"{name}_calls", counted)
        if f"{name}_bytes" in _NUMBER:
            done = counted.where((counted["arg1"] & np.uint64(MemoryDetail.FAILED)) == 0)
            self._add(f"{name}_bytes", done, done["arg0"].astype(np.uint64) << PAGE_SHIFT)
        self._add_time("memory_calls_ns", rows, rows["arg2"])

    def _io_completions(self, rows: _Rows) -> None:
        rows = rows.where((rows["arg0"] & IoFlag.MORE) == 0)
        self._add("io_uring_completed", rows)
        self._add("io_uring_ns", rows, as_time(rows["arg2"]))
        result = rows["arg1"].view(np.int64)
        moved = rows.where(((rows["arg0"] & IoFlag.BYTES) != 0) & (result > 0))
        self._add("io_uring_bytes", moved, moved["arg1"].view(np.int64))

    def _tlb(self, rows: _Rows) -> None:
        what = rows["arg0"]
        self._add("tlb_ipis_sent", rows.where(what == TlbEvent.IPI_SENT))
        self._add("tlb_shootdowns_received", rows.where(what == TlbEvent.RECEIVED))
        begun = rows.where(what == TlbEvent.BEGUN)
        full = begun["arg1"] == FULL_FLUSH
        self._add("tlb_flushes", begun)
        self._add("tlb_full_flushes", begun.where(full))
        counted = begun.where(~full)
        self._add("tlb_flush_pages", counted, as_time(counted["arg1"]))

    def _rss(self, rows: _Rows) -> None:
        peaks = self._sums.setdefault("rss_peak_bytes", np.zeros(len(self._keys)))
        np.maximum.at(peaks, rows.code, rows["arg1"].astype(np.float64))


def _counted(rows: _Rows) -> _Rows:
    """Those that are events themselves and not only a duration of one that was counted already."""
    return rows.where(rows["arg0"] < DURATION_ONLY)

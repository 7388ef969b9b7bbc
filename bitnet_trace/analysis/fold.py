"""Folds streamed events to the counters that `--detail counts` keeps in the kernel: one row per phase and thread."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.split import PhaseEdges, as_time
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

MAXIMA = frozenset({"rss_peak_bytes"})
PAGE_SHIFT = np.uint64(12)

# futex(2): the operations that sleep (WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2) without their flags, and
# the numbers that the kernel side gives to the system calls futex_waitv and futex_wait.
FUTEX_WAITS = np.array([0, 6, 9, 11, 13], dtype=np.uint32)
FUTEX_OPERATION_MASK = 127
FUTEX_CALL_WAITS = np.array([200, 201], dtype=np.uint32)
_KEY_SHIFT = np.uint64(32)
_LOW_WORD = np.uint64(0xFFFFFFFF)
_MEMORY_CALLS = {
    Kind.MMAP: "mmap",
    Kind.MUNMAP: "munmap",
    Kind.MREMAP: "mremap",
    Kind.BRK: "brk",
    Kind.MADVISE: "madvise",
    Kind.MPROTECT: "mprotect",
    Kind.MLOCK: "mlock",
}
FULL_FLUSH = np.uint64(0xFFFFFFFFFFFFFFFF)
_NUMBER = {name: number for number, name in enumerate(COUNTER_FIELDS)}
_LARGEST_SUM = float(1 << 62)
_SIZE_AT_LEAST = 4_000_000

Events = npt.NDArray[np.void]
Amounts = npt.NDArray[np.integer[Any]]
Rows = npt.NDArray[np.intp]


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
    edges = PhaseEdges.of(phases)
    batches = [events] if isinstance(events, np.ndarray) else events
    sums: list[Sums] = []
    size, limit = 0, _SIZE_AT_LEAST
    for batch in batches:
        sums.append(fold_batch(batch, edges))
        size += sums[-1].size
        if size > limit:  # so that each sum is added up a few times at most, however many batches there are
            sums = [_added(sums)]
            size = sums[0].size
            limit = 2 * size + _SIZE_AT_LEAST
    return _added(sums).table()


def fold_batch(events: Events, edges: PhaseEdges) -> "Sums":
    """The same of one batch, as plain arrays."""
    edges.expect(len(events))
    return _Fold(events, edges).result()


def from_stored(stored: pd.DataFrame) -> pd.DataFrame:
    """Counters, in the form of `fold_events`, of the deltas that the kernel kept (Recording.stored_counters)."""
    keys = stored["phase"].to_numpy(dtype=np.uint64) << _KEY_SHIFT | stored["tid"].to_numpy(dtype=np.uint64)
    unique, place = np.unique(keys, return_inverse=True)
    columns = {}
    for name in COUNTER_FIELDS:
        values = as_time(stored[name].to_numpy(dtype=np.uint64))
        if values.any():
            sums = np.zeros(len(unique), dtype=np.int64)
            (np.maximum if name in MAXIMA else np.add).at(sums, place, values)
            columns[name] = _sparse(sums)
    return Sums(unique, columns).table()


def add_counters(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Both together: sums, and of maxima the larger."""
    return _added([Sums.of(left), Sums.of(right)]).table()


@dataclass(frozen=True)
class Sums:
    """Counters while they are added up: of phase << 32 | tid, `keys` in ascending order.

    `columns`: of a counter the places in `keys` where it is not 0, and its values there; most counters of most keys
    are 0.
    """

    keys: npt.NDArray[np.uint64]
    columns: dict[str, tuple[Rows, npt.NDArray[np.int64]]]

    @staticmethod
    def of(table: pd.DataFrame) -> "Sums":
        """Of a table whose keys differ."""
        phase, tid = (table.index.get_level_values(name).to_numpy(dtype=np.uint64) for name in ("phase", "tid"))
        keys = phase << _KEY_SHIFT | tid
        order = np.argsort(keys)
        values = {name: table[name].to_numpy(dtype=np.int64)[order] for name in COUNTER_FIELDS}
        return Sums(keys[order], {name: _sparse(column) for name, column in values.items() if column.any()})

    @property
    def size(self) -> int:
        """How many numbers it consists of."""
        return len(self.keys) + sum(len(rows) for rows, _ in self.columns.values())

    def table(self) -> pd.DataFrame:
        phase, tid = (self.keys >> _KEY_SHIFT).astype(np.int64), (self.keys & _LOW_WORD).astype(np.int64)
        is_first = np.append(True, phase[1:] != phase[:-1])[: len(phase)]
        code, tids = pd.factorize(tid, sort=True)
        index = pd.MultiIndex(
            levels=[phase[is_first], np.asarray(tids)],  # type: ignore[list-item]
            codes=[np.cumsum(is_first) - 1, code],  # type: ignore[list-item]
            names=["phase", "tid"],
            verify_integrity=False,
        )
        nothing = np.zeros(len(self.keys), dtype=np.int64)
        values = dict.fromkeys(COUNTER_FIELDS, nothing)  # one array for all that are 0 everywhere
        for name, (rows, amounts) in self.columns.items():
            values[name] = np.zeros(len(self.keys), dtype=np.int64)
            values[name][rows] = amounts
        return pd.DataFrame(values, index=index, copy=False)


def _added(sums: list[Sums]) -> Sums:
    if len(sums) == 1:
        return sums[0]
    keys = _different([one.keys for one in sums])
    places = [np.searchsorted(keys, one.keys) for one in sums]
    columns = {}
    for name in COUNTER_FIELDS:  # one after the other: memory for one is enough
        parts = [(place, *one.columns[name]) for place, one in zip(places, sums, strict=True) if name in one.columns]
        if parts:
            values = np.zeros(len(keys), dtype=np.int64)
            for place, rows, amounts in parts:
                at = place[rows]  # each once
                values[at] = np.maximum(values[at], amounts) if name in MAXIMA else values[at] + amounts
            columns[name] = _sparse(values)
    return Sums(keys, columns)


def _different(keys: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    """The different ones, in ascending order: nearly in order already, for which this sort is made."""
    every = np.sort(np.concatenate([np.empty(0, np.uint64), *keys]), kind="stable")
    different: npt.NDArray[np.uint64] = every[np.append(True, every[1:] != every[:-1])[: len(every)]]
    return different


def _sparse(values: npt.NDArray[np.int64]) -> tuple[Rows, npt.NDArray[np.int64]]:
    rows = np.flatnonzero(values)
    return rows, values[rows]


class _Fold:
    """One batch while it is folded: keys of (phase, tid) as small numbers, and a column of sums for each counter."""

    def __init__(self, events: Events, edges: PhaseEdges) -> None:
        self._edges = edges
        self._events = events
        self._ts_ns = as_time(events["ts_ns"])
        keys = events["phase"].astype(np.uint64) << _KEY_SHIFT | events["tid"]
        self._code, self._keys = pd.factorize(keys)
        self._begin_ns, self._pid = edges.lookup((self._keys >> _KEY_SHIFT).astype(np.uint32))
        self._sums: dict[str, npt.NDArray[Any]] = {}  # of those that are not all 0
        # Parts of durations in other phases than their record's: counter, keys, amounts.
        self._moved: list[tuple[str, npt.NDArray[np.uint64], npt.NDArray[np.float64]]] = []

    def result(self) -> Sums:
        steps: dict[int, Callable[[Rows], None]] = {
            Kind.FAULT: self._faults,
            Kind.POPULATE: self._populate,
            Kind.SWITCH_OUT: self._switches_out,
            Kind.SWITCH_IN: self._switches_in,
            Kind.WAKEUP: lambda rows: self._add("wakeups", rows),
            Kind.MIGRATE: lambda rows: self._add("migrations", rows),
            Kind.FUTEX: self._futex,
            Kind.FUTEX_WAKES: lambda rows: self._add("futex_calls", rows, self._events["arg0"][rows]),
            Kind.READ: self._reads,
            Kind.YIELD: lambda rows: self._add("sched_yield_calls", rows),
            Kind.SYSTEM_TIME: lambda rows: self._add("cpu_system_ns", rows, self._events["arg1"][rows]),
            Kind.RSS: self._rss,
            Kind.IO_SUBMIT: lambda rows: self._add("io_uring_submitted", rows),
            Kind.IO_COMPLETE: self._io_completions,
            Kind.TLB: self._tlb,
        }
        kinds = np.ascontiguousarray(self._events["kind"])
        for kind in np.unique(kinds).tolist():
            rows = np.flatnonzero(kinds == kind)
            if kind in steps:
                steps[kind](rows)
            elif kind in _MEMORY_CALLS:
                self._memory_calls(_MEMORY_CALLS[kind], rows)
        return self._gathered()

    def _gathered(self) -> Sums:
        unique = _different([self._keys, *(keys for _, keys, _ in self._moved)])
        sums = {name: np.zeros(len(unique), np.int64) for name in [*self._sums, *(name for name, _, _ in self._moved)]}
        place = np.searchsorted(unique, self._keys)
        for name, own in self._sums.items():
            sums[name][place] = to_int(own)
        for name, moved_keys, amounts in self._moved:
            sums[name][np.searchsorted(unique, moved_keys)] += to_int(amounts)
        some = np.zeros(len(unique), dtype=bool)
        for values in sums.values():
            some |= values != 0
        return Sums(unique[some], {name: _sparse(values[some]) for name, values in sums.items()})

    def _counted(self, rows: Rows) -> Rows:
        """Those of `rows` that are events themselves and not only a duration of one that was counted already."""
        return rows[self._events["arg0"][rows] < DURATION_ONLY]

    def _add(self, name: str, rows: Rows, amount: Amounts | None = None) -> None:
        """Adds 1, or `amount`, for each of `rows` to the counter in the row's own phase."""
        if len(rows):
            weights = None if amount is None else amount.astype(np.float64)
            sums = np.bincount(self._code[rows], weights=weights, minlength=len(self._keys))
            self._sums[name] = self._sums.get(name, 0.0) + sums

    def _add_time(self, name: str, rows: Rows, length_ns: Amounts) -> None:
        """Adds the durations that end at `rows`, split at phase edges."""
        end_ns = self._ts_ns[rows]
        length = np.minimum(as_time(length_ns), end_ns)
        over_edge = end_ns - length < self._begin_ns[self._code[rows]]
        self._add(name, rows[~over_edge], length[~over_edge])
        crossing = rows[over_edge]
        if not len(crossing):
            return
        phase, tid = self._events["phase"][crossing], self._events["tid"][crossing]
        pid = self._pid[self._code[crossing]]
        for parts in self._edges.split(end_ns[over_edge], length[over_edge], phase, pid):
            keys = parts.phase.astype(np.uint64) << _KEY_SHIFT | tid[parts.event]
            code, unique = pd.factorize(keys)
            self._moved.append((name, unique, np.bincount(code, weights=parts.ns).astype(np.float64)))

    def _faults(self, rows: Rows) -> None:
        rows = self._counted(rows)
        flags = self._events["arg0"][rows]
        failed = (flags & FaultFlag.FAILED) != 0
        self._add("faults_failed", rows[failed])
        kernel, major = (flags & FaultFlag.KERNEL) != 0, (flags & FaultFlag.MAJOR) != 0
        for source, from_source in (("user", ~kernel), ("kernel", kernel)):
            for size, of_size in (("minor", ~major), ("major", major)):
                self._add(f"faults_{source}_{size}", rows[~failed & from_source & of_size])
        self._add("fault_ns", rows[~failed], self._events["arg2"][rows[~failed]])

    def _populate(self, rows: Rows) -> None:
        both = self._events["arg1"][rows]
        self._add("faults_populate_minor", rows, both & _LOW_WORD)
        self._add("faults_populate_major", rows, both >> _KEY_SHIFT)
        self._add("populated_bytes", rows, self._events["arg2"][rows])

    def _switches_out(self, rows: Rows) -> None:
        self._add_time("cpu_ns", rows, self._events["arg1"][rows])
        in_kernel = rows[(self._events["arg0"][rows] & SwitchFlag.IN_KERNEL) != 0]
        self._add_time("cpu_system_ns", in_kernel, self._events["arg1"][in_kernel])
        counted = self._counted(rows)
        flags = self._events["arg0"][counted]
        is_switch, voluntary = (flags & SwitchFlag.EXIT) == 0, (flags & SwitchFlag.VOLUNTARY) != 0
        self._add("switches_voluntary", counted[is_switch & voluntary])
        self._add("switches_involuntary", counted[is_switch & ~voluntary])

    def _switches_in(self, rows: Rows) -> None:
        self._add_time("offcpu_ns", rows, self._events["arg1"][rows])
        self._add_time("runq_wait_ns", rows, self._events["arg2"][rows])

    def _futex(self, rows: Rows) -> None:
        self._add("futex_calls", self._counted(rows))
        operation = self._events["arg0"][rows] & np.uint32(0xFFFF)
        plain = operation & np.uint32(FUTEX_OPERATION_MASK)
        waits = rows[np.isin(operation, FUTEX_CALL_WAITS) | np.isin(plain, FUTEX_WAITS)]
        self._add_time("futex_wait_ns", waits, self._events["arg2"][waits])

    def _reads(self, rows: Rows) -> None:
        counted = self._counted(rows)
        self._add("read_calls", counted)
        result = self._events["arg1"][counted].view(np.int64)
        self._add("read_bytes", counted[result > 0], result[result > 0])
        self._add_time("read_ns", rows, self._events["arg2"][rows])

    def _memory_calls(self, name: str, rows: Rows) -> None:
        counted = self._counted(rows)
        self._add(f"{name}_calls", counted)
        if f"{name}_bytes" in _NUMBER:
            done = counted[(self._events["arg1"][counted] & np.uint64(MemoryDetail.FAILED)) == 0]
            self._add(f"{name}_bytes", done, self._events["arg0"][done].astype(np.uint64) << PAGE_SHIFT)
        self._add_time("memory_calls_ns", rows, self._events["arg2"][rows])

    def _io_completions(self, rows: Rows) -> None:
        rows = rows[(self._events["arg0"][rows] & IoFlag.MORE) == 0]
        self._add("io_uring_completed", rows)
        self._add("io_uring_ns", rows, as_time(self._events["arg2"][rows]))
        result = self._events["arg1"][rows].view(np.int64)
        moved = ((self._events["arg0"][rows] & IoFlag.BYTES) != 0) & (result > 0)
        self._add("io_uring_bytes", rows[moved], result[moved])

    def _tlb(self, rows: Rows) -> None:
        what = self._events["arg0"][rows]
        self._add("tlb_ipis_sent", rows[what == TlbEvent.IPI_SENT])
        self._add("tlb_shootdowns_received", rows[what == TlbEvent.RECEIVED])
        begun = rows[what == TlbEvent.BEGUN]
        full = self._events["arg1"][begun] == FULL_FLUSH
        self._add("tlb_flushes", begun)
        self._add("tlb_full_flushes", begun[full])
        self._add("tlb_flush_pages", begun[~full], as_time(self._events["arg1"][begun[~full]]))

    def _rss(self, rows: Rows) -> None:
        peaks = self._sums.setdefault("rss_peak_bytes", np.zeros(len(self._keys)))
        np.maximum.at(peaks, self._code[rows], self._events["arg1"][rows].astype(np.float64))


def to_int(sums: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Sums are whole numbers below 2^53 (104 days in ns), so exact; damage is kept in the range of int64."""
    limited: npt.NDArray[np.int64] = np.minimum(sums, _LARGEST_SUM).astype(np.int64)
    return limited

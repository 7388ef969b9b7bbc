"""What a run that goes on has come to: folded from the very batches that its recording gets, in bounded memory.

Counters are kept by phase and thread for the newest phases, whose names may still change, and by name and thread for
all before. The counting itself is that of reports (analysis/fold.py).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.fold import fold_batch
from bitnet_trace.analysis.spans import KEY_SHIFT, LOW_WORD
from bitnet_trace.analysis.split import PhaseEdges
from bitnet_trace.live.happenings import Happenings
from bitnet_trace.live.phase_book import NAMES, PhaseBook
from bitnet_trace.live.places import Places
from bitnet_trace.live.samples import SampleSums
from bitnet_trace.live.stragglers import Stragglers
from bitnet_trace.live.sums import NOTHING, Sums, added, stored_sums
from bitnet_trace.live.threads import ThreadTable
from bitnet_trace.recording.layout import EVENT_DTYPE
from bitnet_trace.recording.phase_log import CALL_ROLES

HISTOGRAM_BINS = 24  # of durations, in powers of two of 1 µs
_FORMER, _FORMER_CALLERS = -2, -1  # in place of a process: all that are forgotten; those of them with the engine
_LATE = 1 << 14  # phases that have begun since: the word of one comes before, or was lost
_UNKNOWN = len(NAMES) - 1
_NO_EVENTS = np.empty(0, EVENT_DTYPE)
# Events at a time: the memory for a piece is used again for the next one, larger arrays are new pages each time.
_PIECE = 1 << 18

Events = npt.NDArray[np.void]
Row = dict[str, Any]


class PhaseTotals:
    """What phases of one name come to, of processes that called the engine or might yet."""

    def __init__(self) -> None:
        self.n = self.dur_ns = self.n_tokens = self.ended_ns = self.ended_tokens = 0
        self.tokens_known = True
        self.histogram = [0] * HISTOGRAM_BINS

    def add(self, row: Row, now_ns: int) -> None:
        ended = row["end_ns"] is not None
        dur_ns = max((row["end_ns"] if ended else max(now_ns, row["begin_ns"])) - row["begin_ns"], 0)
        self.n += 1
        self.dur_ns += dur_ns
        if ended:
            self.ended_ns += dur_ns
            self.tokens_known &= row["n_tokens"] is not None
            self.ended_tokens += row["n_tokens"] or (row["name"] == "decode")
            self.histogram[min(max(int(math.log2(max(dur_ns, 1000) / 1000)), 0), HISTOGRAM_BINS - 1)] += 1

    def plus(self, other: "PhaseTotals") -> "PhaseTotals":
        result = PhaseTotals()
        for key in ("n", "dur_ns", "ended_ns", "ended_tokens"):
            setattr(result, key, getattr(self, key) + getattr(other, key))
        result.tokens_known = self.tokens_known and other.tokens_known
        result.histogram = [a + b for a, b in zip(self.histogram, other.histogram, strict=True)]
        return result


class Fold:
    """`take` is a recording.writer.Sink; the properties say what has come so far."""

    def __init__(self) -> None:
        self.book = PhaseBook()
        self.threads = ThreadTable()
        self.samples = SampleSums(self.book)
        self.stragglers = Stragglers()
        self.happenings = Happenings(self.threads)
        self.places = Places(self.book, self.threads)
        self.n_events = 0
        self.latest_ns = 0
        self.callers: set[int] = set()  # processes that called the engine
        self.decoders: set[int] = set()  # threads that made decode calls
        self.attached = False
        self.first_ns: dict[int, int] = {}  # by process: its first phase's begin
        self._open, self._settled = NOTHING, NOTHING  # by (phase, tid); by (code of the name, tid)
        self._totals: dict[tuple[int, str], PhaseTotals] = {}  # of settled phases, by process and name
        self._held_back = _NO_EVENTS
        self._n_forgotten = 0
        self.model: str | None = None  # path of the first that was mapped
        self.first_result: Row | None = None  # the first prefill call with a mark after it

    def take(self, stream: str, rows: Any) -> None:
        if stream == "events":
            self._take_events(rows)
        elif stream == "phases":
            self._take_phases(rows)
        elif stream == "threads":
            self._take_threads(rows)
        elif stream == "scheduling":
            self.threads.take_scheduling(rows)
        elif stream == "counters":
            self._add(stored_sums(rows))
        elif stream == "windows":
            self.stragglers.take_windows(rows)
        elif stream == "maps":
            self._take_files(rows)
            self.places.take_maps(rows)
        elif stream == "areas":
            self._take_files(rows)
            self.places.take_areas(rows)
            self.happenings.take_areas(rows)
        elif stream == "tensors":
            self.places.take_tensors(rows)
        elif stream == "samples":
            self.samples.take(stream, rows)
            self.threads.take_samples(rows)
        elif stream in ("stacks", "symbols"):
            self.samples.take(stream, rows)

    def finish(self) -> None:
        """Nothing comes any more: what waited for the word of its phase is folded now."""
        self._take_events(_NO_EVENTS, all_of_it=True)
        self.places.finish()

    def settle(self) -> None:
        """To be called now and then: what is old is put together."""
        self.stragglers.update(self.book.named(), self.latest_ns)
        self.samples.settle()
        ids, codes, rows = self.book.settle()
        if len(ids):
            self._settle_phases(ids, codes, rows)
        self._forget()

    def _settle_phases(self, ids: npt.NDArray[np.uint32], codes: npt.NDArray[np.int8], rows: list[Row]) -> None:
        for row in rows:
            totals = self._totals.setdefault((int(row["pid"]), row["name"]), PhaseTotals())
            totals.add(row, row["end_ns"])
        self.samples.settled(ids, codes)
        phase = (self._open.keys >> KEY_SHIFT).astype(np.uint32)
        old = np.isin(phase, ids)
        if old.any():
            moved, self._open = self._open.where(old), self._open.where(~old)
            self._settle(moved, codes[np.searchsorted(ids, phase[old])])
        phase = (self._open.keys >> KEY_SHIFT).astype(np.uint32)
        lost = (phase < max(self.book.newest - _LATE, 0)) & ~self.book.is_open(phase)
        if lost.any():
            moved, self._open = self._open.where(lost), self._open.where(~lost)
            self._settle(moved, np.full(len(moved.keys), _UNKNOWN, np.int8))

    def _forget(self) -> None:
        """Processes and threads that ended long ago are counted, and no longer told apart."""
        if self.threads.n_forgotten == self._n_forgotten:
            return
        self._n_forgotten = self.threads.n_forgotten
        self.decoders &= self.threads.by_tid.keys()
        alive = {thread.pid for thread in self.threads.by_tid.values()}
        gone = {pid for pid in self.book.over if pid not in alive}
        self.samples.forget(gone)
        for pid in gone:
            self.book.forget(pid)
            self.places.forget(pid)
            if self.first_result is None or pid != self.first_result["pid"]:
                self.first_ns.pop(pid, None)
        for key in [key for key in self._totals if key[0] in gone]:
            former = _FORMER_CALLERS if key[0] in self.callers else _FORMER, key[1]
            self._totals[former] = self._totals.get(former, PhaseTotals()).plus(self._totals.pop(key))
        if gone & self.callers:
            self.callers = (self.callers - gone) | {_FORMER_CALLERS}
        known = np.isin(self._settled.keys & LOW_WORD, np.array(list(self.threads.by_tid), np.uint64))
        keys = np.where(known, self._settled.keys, self._settled.keys & ~LOW_WORD)
        self._settled = added(Sums(keys, self._settled.values))

    def totals(self, now_ns: int) -> dict[tuple[int, str], PhaseTotals]:
        """By process and name."""
        result = dict(self._totals)
        newest: dict[tuple[int, str], PhaseTotals] = {}
        for row in self.book.named():
            newest.setdefault((int(row["pid"]), row["name"]), PhaseTotals()).add(row, now_ns)
        for key, totals in newest.items():
            result[key] = result[key].plus(totals) if key in result else totals
        return result

    def by_name_and_tid(self) -> Sums:
        """Counters with keys of (code of the phase's name, tid)."""
        codes = self._codes((self._open.keys >> KEY_SHIFT).astype(np.uint32))
        keys = codes.astype(np.uint64) << KEY_SHIFT | (self._open.keys & LOW_WORD)
        return added(self._settled, Sums(keys, self._open.values))

    def cpu_ns(self) -> int:
        """What all threads have used of CPUs so far."""
        return int(self._open.counter("cpu_ns").sum() + self._settled.counter("cpu_ns").sum())

    def by_newest_phase(self) -> Sums:
        """Counters of the phases that are not settled: keys of (phase, tid)."""
        return self._open

    def _codes(self, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.int8]:
        """Of each phase the code of its name."""
        names = {int(row["id"]): NAMES.index(row["name"]) for row in self.book.named()}
        unique, place = np.unique(ids, return_inverse=True)
        codes = np.array([names.get(one, -1) for one in unique.tolist()], np.int8)
        codes[codes < 0] = self.book.codes_of(unique[codes < 0])
        codes[codes < 0] = _UNKNOWN
        return codes[place] if len(ids) else np.empty(0, np.int8)

    def _take_files(self, rows: list[Mapping[str, Any]]) -> None:
        if self.model is None:
            paths = (str(row["path"]) for row in rows if row["path"])
            self.model = next((path for path in paths if path.endswith(".gguf")), None)

    def _take_threads(self, rows: list[Mapping[str, Any]]) -> None:
        self.happenings.take_threads(rows)
        self.threads.take_rows(rows)
        self.places.take_threads(rows)
        for row in rows:
            if row["end_ns"] is None:
                self.book.begun(int(row["pid"]))
        alive = {thread.pid for thread in self.threads.by_tid.values() if thread.state != "X"}
        for pid in {int(row["pid"]) for row in rows if row["end_ns"] is not None} - alive:
            self.book.ended(pid)

    def _take_phases(self, rows: list[Mapping[str, Any]]) -> None:
        self.book.take(rows)
        for row in rows:
            pid = int(row["pid"])
            self.first_ns.setdefault(pid, int(row["begin_ns"]))
            self.attached |= row["role"] == "attached"
            if row["role"] in CALL_ROLES:
                self.callers.add(pid)
            if row["role"] == "decode":
                self.decoders.add(int(row["tid"]))
        if self.first_result is None and any(row["n_sampled"] or row["n_logits"] for row in rows):
            self.first_result = next(
                (
                    row
                    for row in self.book.named()
                    if row["name"] == "prefill" and row["end_ns"] is not None and row["n_sampled"] + row["n_logits"]
                ),
                None,
            )

    def _take_events(self, batch: Events, all_of_it: bool = False) -> None:
        self.n_events += len(batch)
        if len(batch):
            self.latest_ns = max(self.latest_ns, int(batch["ts_ns"].max()))
        if len(self._held_back):
            batch = np.concatenate([self._held_back, batch])
        # the word of a phase may come after that of what happened in it: durations are split at its edges
        late = batch["phase"] > self.book.newest
        self._held_back = _NO_EVENTS
        if not all_of_it and late.any():
            self._held_back, batch = batch[late], batch[~late]
        if not len(batch):
            return
        edges = self.book.edges()
        for begin in range(0, len(batch), _PIECE):
            self._fold(ByKind(batch[begin : begin + _PIECE]), edges)

    def _fold(self, events: ByKind, edges: PhaseEdges) -> None:
        self.threads.take_events(events)
        self.stragglers.take_events(events)
        self.places.take_events(events, edges)
        self._add(Sums.of(fold_batch(events, edges).spread()))

    def _add(self, sums: Sums) -> None:
        codes = self.book.codes_of((sums.keys >> KEY_SHIFT).astype(np.uint32))
        old = codes >= 0
        if old.any():
            self._settle(sums.where(old), codes[old])
            sums = sums.where(~old)
        self._open = added(self._open, sums)

    def _settle(self, sums: Sums, codes: npt.NDArray[np.int8]) -> None:
        keys = codes.astype(np.uint64) << KEY_SHIFT | (sums.keys & LOW_WORD)
        self._settled = added(self._settled, Sums(keys, sums.values))

"""Splits durations at the phase edges of their own process."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.phases import Timeline, groups, timelines
from bitnet_trace.errors import TraceError

# Parts that are held at a time.
_MAX_PARTS = 4_000_000
# A thread waits for one thing at a time, and one that waits through many phases has no other events in them. A damaged
# recording may claim that each event reaches over every phase: time and memory stay in proportion to the recording.
_PARTS_AT_LEAST, _PARTS_PER_EVENT = 250_000, 16
_LATEST_NS = np.uint64(1 << 62)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """`ns[i]` of the duration of event `event[i]` fell in `phase[i]`."""

    event: npt.NDArray[np.intp]
    phase: npt.NDArray[np.uint32]
    ns: Ints


class PhaseEdges:
    """The phase edges of all processes, for looking up many durations at once."""

    def __init__(self, lines: dict[int, Timeline], ids: npt.NDArray[np.uint32], pids: Ints, begin_ns: Ints) -> None:
        """`lines`: by process; of each phase, by `ids` in ascending order, its process and begin."""
        self._timelines, self._ids, self._pids, self._begin_ns = lines, ids, pids, begin_ns
        self._parts_left = _PARTS_AT_LEAST
        # What began earlier than this is looked up; a phase with several segments has no one begin.
        for timeline in self._timelines.values():
            ids, counts = np.unique(timeline.phase, return_counts=True)
            self._begin_ns[np.searchsorted(self._ids, ids[counts > 1])] = np.iinfo(np.int64).max

    @staticmethod
    def of(phases: pd.DataFrame) -> "PhaseEdges":
        """`phases` has the columns of schema.PHASE_SCHEMA."""
        unique = phases.drop_duplicates("id", keep="last").sort_values("id")
        return PhaseEdges(
            timelines(phases),
            unique["id"].to_numpy(dtype=np.uint32),
            unique["pid"].to_numpy(dtype=np.int64),
            unique["begin_ns"].to_numpy(dtype=np.int64, copy=True),
        )

    def lookup(self, phase: npt.NDArray[np.uint32]) -> tuple[Ints, Ints]:
        """Begin (ns) and pid of each of `phase`; of an unknown one the smallest int64 and -1."""
        if not len(self._ids):
            return np.full(len(phase), np.iinfo(np.int64).min), np.full(len(phase), -1)
        place = np.minimum(np.searchsorted(self._ids, phase), len(self._ids) - 1)
        known = self._ids[place] == phase
        begin_ns = np.where(known, self._begin_ns[place], np.iinfo(np.int64).min)
        return begin_ns, np.where(known, self._pids[place], -1)

    def split(self, end_ns: Ints, length_ns: Ints, phase: npt.NDArray[np.uint32], pid: Ints) -> Iterator[Parts]:
        """The parts of the intervals [end - length, end] per phase of process `pid`, some of them at a time.

        An interval that began in the phase of its record, `phase`, is that phase's alone: so does the kernel side
        bill it, which knows only the phase at both ends. Raises TraceError where there are more parts than any threads
        can have had.
        """
        gathered: list[Parts] = []
        n_gathered = 0
        for parts in self._split_by_process(end_ns, length_ns, phase, pid):
            gathered.append(parts)
            n_gathered += len(parts.event)
            if n_gathered > _MAX_PARTS:
                yield _joined(gathered)
                gathered, n_gathered = [], 0
        if gathered:
            yield _joined(gathered)

    def _split_by_process(
        self, end_ns: Ints, length_ns: Ints, phase: npt.NDArray[np.uint32], pid: Ints
    ) -> Iterator[Parts]:
        for one, events in groups(pid):
            timeline = self._timelines.get(one)
            if timeline is None:
                yield Parts(events, phase[events], length_ns[events])
                continue
            yield from self._split(timeline, events, end_ns[events], length_ns[events], phase[events])

    def expect(self, n_events: int) -> None:
        """Durations of so many events more may be split."""
        self._parts_left += _PARTS_PER_EVENT * n_events

    def _split(
        self,
        timeline: Timeline,
        events: npt.NDArray[np.intp],
        end_ns: Ints,
        length_ns: Ints,
        phase: npt.NDArray[np.uint32],
    ) -> Iterator[Parts]:
        begin_ns = end_ns - length_ns
        first = np.searchsorted(timeline.begin_ns, begin_ns, side="right") - 1
        # An interval that ends at an edge has no part in what begins there.
        last = np.maximum(np.searchsorted(timeline.begin_ns, end_ns, side="left") - 1, first)
        whole = timeline.phase[first] == phase
        yield Parts(events[whole], phase[whole], length_ns[whole])
        rest = np.flatnonzero(~whole)
        n_parts = (last - first)[rest] + 1
        self._parts_left -= int(n_parts.sum())
        if self._parts_left < 0:
            raise TraceError(
                "the recording is damaged: its waits reach over more phases than its threads can have seen",
                "record again; the .arrows files can be read with pyarrow",
            )
        bounds = np.searchsorted(np.cumsum(n_parts), np.arange(_MAX_PARTS, n_parts.sum() + _MAX_PARTS, _MAX_PARTS))
        segment_end_ns = timeline.end_ns
        for chunk in np.split(rest, np.unique(bounds)):
            n_parts = (last - first)[chunk] + 1
            owner = np.repeat(chunk, n_parts)
            nth = np.arange(len(owner)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
            segment = first[owner] + nth
            low = np.maximum(begin_ns[owner], timeline.begin_ns[segment])
            high = np.minimum(end_ns[owner], segment_end_ns[segment])
            yield Parts(events[owner], timeline.phase[segment], high - low)


def _joined(parts: list[Parts]) -> Parts:
    event, phase, ns = zip(*((one.event, one.phase, one.ns) for one in parts), strict=True)
    return Parts(np.concatenate(event), np.concatenate(phase), np.concatenate(ns))


def as_time(value: npt.NDArray[Any]) -> Ints:
    """Unsigned ns (uint64) as int64, limited to 2^62 so that sums and differences of damaged values stay in range."""
    limited: Ints = np.minimum(value, _LATEST_NS).astype(np.int64)
    return limited

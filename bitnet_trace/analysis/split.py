"""Splits durations at the phase edges of their own process."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.phases import Timeline, groups, timelines
from bitnet_trace.errors import TraceError

# A thread waits for one thing at a time, and one that waits through many phases has no other events in them. A damaged
# recording may claim that each event reaches over every phase: time and memory stay in proportion to the recording.
_PARTS_AT_LEAST, _PARTS_PER_EVENT = 250_000, 16
_LATEST_NS = np.uint64(1 << 62)

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Parts:
    """`ns[i]` of the duration of event `event[i]` fell in `phase[i]`."""

    event: Rows
    phase: npt.NDArray[np.uint32]
    ns: Ints


@dataclass(frozen=True)
class Fills:
    """Event `event[i]` lasted through all of the segments `first[i]` to `last[i]` of the timeline of process `pid`."""

    pid: int
    event: Rows
    first: Rows
    last: Rows

    @staticmethod
    def nothing(pid: int) -> "Fills":
        empty = np.empty(0, np.intp)
        return Fills(pid, empty, empty, empty)


class PhaseEdges:
    """The phase edges of all processes, for looking up many durations at once."""

    def __init__(self, lines: dict[int, Timeline], ids: npt.NDArray[np.uint32], pids: Ints, begin_ns: Ints) -> None:
        """`lines`: by process; of each phase, by `ids` in ascending order, its process and begin."""
        self.timelines, self._ids, self._pids, self._begin_ns = lines, ids, pids, begin_ns
        self._parts_left = _PARTS_AT_LEAST
        # What began earlier than this is looked up; a phase with several segments has no one begin.
        for timeline in self.timelines.values():
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

    def split(
        self, end_ns: Ints, length_ns: Ints, phase: npt.NDArray[np.uint32], pid: Ints
    ) -> Iterator[tuple[Parts, Fills]]:
        """The intervals [end - length, end] by phase of process `pid`: where each begins and ends, and what it fills.

        An interval that began in the phase of its record, `phase`, is that phase's alone: so does the kernel side
        bill it, which knows only the phase at both ends.
        """
        for one, events in groups(pid):
            timeline = self.timelines.get(one)
            if timeline is None:
                yield Parts(events, phase[events], length_ns[events]), Fills.nothing(one)
            else:
                yield _split(timeline, one, events, end_ns[events], length_ns[events], phase[events])

    def expect(self, n_events: int) -> None:
        """Durations of so many events more may be split."""
        self._parts_left += _PARTS_PER_EVENT * n_events

    def claim(self, n_parts: int) -> None:
        """So many phases are filled by durations. Raises TraceError where any threads can have had less."""
        self._parts_left -= n_parts
        if self._parts_left < 0:
            raise TraceError(
                "the recording is damaged: its waits reach over more phases than its threads can have seen",
                "record again; the .arrows files can be read with pyarrow",
            )


def _split(
    timeline: Timeline, pid: int, events: Rows, end_ns: Ints, length_ns: Ints, phase: npt.NDArray[np.uint32]
) -> tuple[Parts, Fills]:
    begin_ns = end_ns - length_ns
    first = np.searchsorted(timeline.begin_ns, begin_ns, side="right") - 1
    # An interval that ends at an edge has no part in what begins there.
    last = np.maximum(np.searchsorted(timeline.begin_ns, end_ns, side="left") - 1, first)
    alone = timeline.phase[first] == phase
    begun, ended = np.flatnonzero(~alone), np.flatnonzero(~alone & (last > first))
    begun_ns = np.minimum(end_ns[begun], timeline.end_ns[first[begun]]) - begin_ns[begun]
    ended_ns = end_ns[ended] - timeline.begin_ns[last[ended]]
    parts = Parts(
        np.concatenate([events[alone], events[begun], events[ended]]),
        np.concatenate([phase[alone], timeline.phase[first[begun]], timeline.phase[last[ended]]]),
        np.concatenate([length_ns[alone], begun_ns, ended_ns]),
    )
    filled = np.flatnonzero(~alone & (last > first + 1))
    return parts, Fills(pid, events[filled], first[filled] + 1, last[filled] - 1)


def as_time(value: npt.NDArray[Any]) -> Ints:
    """Unsigned ns (uint64) as int64, limited to 2^62 so that sums and differences of damaged values stay in range."""
    limited: Ints = np.minimum(value, _LATEST_NS).astype(np.int64)
    return limited

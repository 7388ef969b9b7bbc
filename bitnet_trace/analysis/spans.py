"""Durations that fill whole phases. A thread that sleeps while thousands of tokens are decoded has a part in each of
their phases; what its parts add up to is found without making them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis.phases import Timeline, groups
from bitnet_trace.analysis.split import PhaseEdges

# Parts that are made at a time.
_MAX_PARTS = 4_000_000
KEY_SHIFT = np.uint64(32)
LOW_WORD = np.uint64(0xFFFFFFFF)

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Spans:
    """`tid[i]` has the segments `first[i]` to `last[i]` of the timeline of process `pid[i]`, each in full."""

    edges: PhaseEdges
    tid: Ints
    pid: Ints
    first: Rows
    last: Rows

    @staticmethod
    def together(spans: "list[Spans]") -> "Spans":
        """Several of the same recording."""
        names = ("tid", "pid", "first", "last")
        tid, pid, first, last = (np.concatenate([getattr(one, name) for one in spans]) for name in names)
        return Spans(spans[0].edges, tid, pid, first, last)

    def __len__(self) -> int:
        return len(self.tid)

    def parts(self) -> Iterator[tuple[Keys, Ints]]:
        """(phase << 32 | tid, ns) of each thread in each phase, some at a time; a phase may come twice.

        Raises TraceError where there are more than any threads can have had.
        """
        self.edges.claim(int((self.last - self.first + 1).sum()))
        for timeline, rows in self._by_process():
            ends = np.cumsum(self.last[rows] - self.first[rows] + 1)
            bounds = np.searchsorted(ends, np.arange(_MAX_PARTS, ends[-1] + _MAX_PARTS, _MAX_PARTS))
            for chunk in np.split(rows, np.unique(bounds)):
                n_parts = self.last[chunk] - self.first[chunk] + 1
                nth = np.arange(n_parts.sum()) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
                segment = np.repeat(self.first[chunk], n_parts) + nth
                tid = np.repeat(self.tid[chunk], n_parts)
                yield _keys(timeline.phase[segment].astype(np.int64), tid), _lengths(timeline)[segment]

    def by_name(self, name_of: Callable[[Ints], Ints]) -> Iterator[tuple[Keys, Ints]]:
        """(name << 32 | tid, ns), where `name_of` gives the numbers that phases are called by: a few different ones."""
        for timeline, rows in self._by_process():
            names = name_of(timeline.phase.astype(np.int64))
            tids, thread = np.unique(self.tid[rows], return_inverse=True)
            for name in np.unique(names):
                until = np.append(0, np.cumsum(np.where(names == name, _lengths(timeline), 0)))
                ns = until[self.last[rows] + 1] - until[self.first[rows]]
                sums = np.bincount(thread, weights=ns, minlength=len(tids))
                yield _keys(np.full(len(tids), name), tids), sums.astype(np.int64)

    def of_phases(self, place_of: Callable[[Ints], Rows], n: int, tids: Collection[int] | None) -> Ints:
        """What all threads, or `tids`, have of phases: `place_of` gives the place in the result, of `n`, or -1."""
        result = np.zeros(n, np.int64)
        wanted = np.isin(self.tid, list(tids)) if tids is not None else np.ones(len(self), bool)
        for timeline, rows in self._by_process(np.flatnonzero(wanted)):
            n_segments = len(timeline.phase)
            edges = np.bincount(self.first[rows], minlength=n_segments + 1)
            edges -= np.bincount(self.last[rows] + 1, minlength=n_segments + 1)
            ns = np.cumsum(edges)[:n_segments] * _lengths(timeline)
            place = place_of(timeline.phase.astype(np.int64))
            np.add.at(result, place[place >= 0], ns[place >= 0])  # of many processes each has a few of them
        return result

    def _by_process(self, rows: Rows | None = None) -> Iterator[tuple[Timeline, Rows]]:
        rows = np.arange(len(self)) if rows is None else rows
        for pid, own in groups(self.pid[rows]):
            yield self.edges.timelines[pid], rows[own]


def _lengths(timeline: Timeline) -> Ints:
    """Of each segment; 0 of the first and the last, which reach out for ever and are no part of a span."""
    lengths = np.append(np.diff(timeline.begin_ns), 0)
    lengths[0] = 0
    return lengths


def _keys(phase: Ints, tid: Ints) -> Keys:
    return phase.astype(np.uint64) << KEY_SHIFT | tid.astype(np.uint64)

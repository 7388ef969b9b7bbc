"""What each thread did over time, in a number of equal spans: what a timeline is drawn from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.phases import PHASE_NAMES, UNKNOWN
from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.layout import FaultFlag, Kind
from bitnet_trace.recording.reader import Recording

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Activity:
    """Spans of `span_ns` from `start_ns` on. `on_cpu[i, n]`, `run_queue[i, n]`: share (0 to 1) of span n, of `tids[i]`.

    `faults[n]`: page faults of all threads in it.
    """

    start_ns: int
    span_ns: float
    tids: list[int]
    on_cpu: Shares
    run_queue: Shares
    faults: npt.NDArray[np.int64]


def activity(recording: Recording, tids: list[int], start_ns: int, end_ns: int, n_spans: int) -> Activity:
    """The activity of `tids` between two moments of CLOCK_MONOTONIC; reads the events once."""
    span_ns = max(end_ns - start_ns, 1) / n_spans
    known = np.array(sorted(tids), dtype=np.uint32)
    place = np.array([tids.index(int(tid)) for tid in known], dtype=np.intp)
    on_cpu, run_queue = (_Covered(len(tids), n_spans) for _ in range(2))
    faults = np.zeros(n_spans, dtype=np.int64)
    for events in recording.event_batches(500_000):
        kinds = events["kind"]
        for kind, argument, covered in ((Kind.SWITCH_OUT, "arg1", on_cpu), (Kind.SWITCH_IN, "arg2", run_queue)):
            chosen = events[kinds == kind]
            if not len(known):
                break
            found = np.minimum(np.searchsorted(known, chosen["tid"]), len(known) - 1)
            own = known[found] == chosen["tid"]
            end = as_time(chosen["ts_ns"][own]) - start_ns
            covered.add(place[found[own]], (end - as_time(chosen[argument][own])) / span_ns, end / span_ns)
        chosen = events[(kinds == Kind.FAULT) & ((events["arg0"] & FaultFlag.FAILED) == 0)]
        at = ((as_time(chosen["ts_ns"]) - start_ns) / span_ns).astype(np.int64)
        faults += np.bincount(at[(at >= 0) & (at < n_spans)], minlength=n_spans)
    return Activity(start_ns, span_ns, tids, on_cpu.shares(), run_queue.shares(), faults)


class _Covered:
    """How much of each span intervals cover: a step where one begins, less a step where it ends."""

    def __init__(self, n_rows: int, n_spans: int) -> None:
        self._shape = (n_rows, n_spans + 1)
        self._part = np.zeros(n_rows * (n_spans + 1))  # of the span in which it begins
        self._step = np.zeros(n_rows * (n_spans + 1))  # of all spans after it

    def add(self, row: npt.NDArray[np.intp], begin: Shares, end: Shares) -> None:
        """Intervals in units of spans."""
        n_rows, width = self._shape
        for edge, sign in ((begin, 1.0), (end, -1.0)):
            edge = edge.clip(0, width - 1)
            span = edge.astype(np.intp)
            index = row * width + span
            rest = sign * (1 - (edge - span))
            self._part += np.bincount(index, weights=rest, minlength=n_rows * width)
            self._step += np.bincount(index, minlength=n_rows * width) * sign

    def shares(self) -> Shares:
        part, step = self._part.reshape(self._shape), self._step.reshape(self._shape)
        before = np.cumsum(step, axis=1) - step
        shares: Shares = (part + before)[:, :-1].clip(0, 1)
        return shares


def phase_spans(phases: pd.DataFrame, start_ns: int, end_ns: int, n_spans: int) -> pd.DataFrame:
    """Stretches of one phase name: name, begin_ns since `start_ns`, dur_ns; at most `n_spans` of them.

    `phases`: of the process that is drawn, with name and begin_ns. Where phases are shorter than a span the name is
    that of the phase at its middle.
    """
    ordered = phases.sort_values("begin_ns", kind="stable")
    begins_ns = ordered["begin_ns"].to_numpy(dtype=np.int64)
    codes = np.asarray(pd.Categorical(ordered["name"], categories=[*PHASE_NAMES, UNKNOWN]).codes)
    if not len(ordered):
        return pd.DataFrame({"name": [], "begin_ns": [], "dur_ns": []})
    if len(ordered) > n_spans:
        edges = np.linspace(start_ns, end_ns, n_spans + 1)
        middle = (edges[:-1] + edges[1:]) / 2
        codes = codes[(np.searchsorted(begins_ns, middle, side="right") - 1).clip(min=0)]
        begins_ns = edges[:-1].astype(np.int64)
    changes = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
    begins_ns = begins_ns[changes] - start_ns
    names = [(*PHASE_NAMES, UNKNOWN)[code] for code in codes[changes]]
    return pd.DataFrame({"name": names, "begin_ns": begins_ns, "dur_ns": np.diff(begins_ns, append=end_ns - start_ns)})

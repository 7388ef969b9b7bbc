"""Barriers, from the entries of decode calls that lie wholly in a window: who arrives when, who waits, who is late.

Every thread enters each barrier once, so the k-th entries of a call's threads at one barrier are one instance of it. No
thread can enter an instance before the one before was complete. A call in which that is not so, or in which threads
entered a different number of times, is not used, and counted. Of long calls there are parts: barrier_parts.py.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.absences import Absences, join
from bitnet_trace.analysis.barrier_parts import parts_in_windows, whole_groups
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.lateness import CAUSES, Held, held_up
from bitnet_trace.analysis.split import Ints, as_time
from bitnet_trace.recording.layout import EVENT_DTYPE, FaultFlag, Kind

WHAT = "barriers"
WITH_BARRIERS = (WHAT, "operations")  # windows in which barriers are recorded
MOST_ENTRIES = 200_000  # enough for every share and quantile that is shown; they are matched in memory
_KINDS = (Kind.BARRIER, Kind.FAULT, Kind.MIGRATE)

Events = npt.NDArray[np.void]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Barriers:
    """The barrier instances of some decode calls.

    `arrivals`: a row per thread and instance, by instance and time: instance, phase (id), tid, arrival_ns, rank (0:
    first), wait_ns (until the last one arrived). `instances`: a row per instance, its number the index: phase,
    n_threads, first_ns, last_ns, skew_ns, last_tid, late_ns (how long only the last thread was missing; 0 with one
    thread), what that came of in a column of ns for each of CAUSES, the largest as `cause` (None: nobody was late), and
    of that, where it can be told, by_tid (who ran instead) or by_reason (the wait_reason that it slept in), else -1.

    `calls`: the rows of phases that have any; `n_uneven` and `n_disordered`: calls that were not used. `parts`: of
    other calls, id, begin_ns and end_ns of each part that has any; `n_unplaced`: parts that were not used.
    """

    arrivals: pd.DataFrame
    instances: pd.DataFrame
    calls: pd.DataFrame
    n_uneven: int
    n_disordered: int
    parts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["id", "begin_ns", "end_ns"]))
    n_unplaced: int = 0


class BarrierEvents:
    """The events of calls that lie wholly in a window, and of parts of long ones, gathered batch by batch."""

    def __init__(self, windows: pd.DataFrame, phases: pd.DataFrame) -> None:
        """`windows`: as windows_read has them. `phases` has id, role, begin_ns, end_ns, n_tokens and overlapped."""
        self.calls = calls_in_windows(windows, phases)
        self._parts = parts_in_windows(windows, phases)
        self._ids = np.union1d(self.calls["id"].to_numpy(dtype=np.int64), self._parts["id"].to_numpy(dtype=np.int64))
        self._events: dict[int, list[Events]] = {kind: [np.empty(0, EVENT_DTYPE)] for kind in _KINDS}
        self._absences: list[Absences] = []

    def add(self, events: ByKind, absences: Absences) -> None:
        """Takes events, and the absences that ended among them."""
        if not len(self._ids):
            return
        for kind, gathered in self._events.items():
            rows = events.of(kind)
            gathered.append(rows[among(rows["phase"].astype(np.int64), self._ids)])
        self._absences.append(absences[among(absences.phase, self._ids)])

    def result(self) -> Barriers:
        """All instances. Where no switches were recorded (`--detail counts`) all lateness counts as slower."""
        entries, faults, moves = (np.concatenate(self._events[kind]) for kind in _KINDS)
        timed = (faults["arg0"] & (FaultFlag.NO_LATENCY | FaultFlag.FAILED)) == 0
        held_by = join(self._absences), faults[timed], moves
        parts = whole_groups(entries, self._parts)
        # each part is matched as a call of its own, under a number that no call has
        whole_ids, n = self.calls["id"].to_numpy(dtype=np.int64), len(parts.table)
        own = np.setdiff1d(np.arange(len(whole_ids) + n), whole_ids)[:n]
        numbered = parts.entries.copy()
        numbered["phase"] = own[parts.number]
        calls = pd.concat([self.calls, parts.table.assign(id=own)]) if n else self.calls
        in_call = entries[np.isin(entries["phase"], whole_ids)]
        found = match(np.concatenate([in_call, numbered]), calls, *held_by)
        of_part = pd.Series(parts.table["id"].to_numpy(), index=own)

        def named(table: pd.DataFrame) -> pd.DataFrame:
            return table.assign(phase=table["phase"].map(of_part).fillna(table["phase"]).astype(np.int64))

        return replace(
            found,
            arrivals=named(found.arrivals),
            instances=named(found.instances),
            calls=found.calls[~found.calls["id"].isin(own)],
            parts=parts.table,
            n_unplaced=parts.n_unplaced,
        )


def windows_read(windows: pd.DataFrame) -> pd.DataFrame:
    """Of schema.WINDOW_SCHEMA, those whose barriers are looked at: of a long recording each n-th, so that they have
    MOST_ENTRIES or about as many."""
    ordered = windows[windows["what"].isin(WITH_BARRIERS)].sort_values("begin_ns", kind="stable")
    return ordered.iloc[:: max(1, math.ceil(float(ordered["hits"].astype("float64").sum()) / MOST_ENTRIES))]


def calls_in_windows(windows: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """The decode calls, as rows of `phases`, that lie wholly in one of some windows. Not those of several threads at
    the same time, which cannot be told apart by their phase."""
    spans = windows.sort_values("begin_ns")
    calls = phases[(phases["role"] == "decode") & phases["end_ns"].notna() & ~phases["overlapped"].astype(bool)]
    if not len(spans) or not len(calls):
        return calls.head(0)
    begin_ns, end_ns = (calls[key].to_numpy(dtype=np.int64) for key in ("begin_ns", "end_ns"))
    place = np.searchsorted(spans["begin_ns"].to_numpy(dtype=np.int64), begin_ns, side="right") - 1
    return calls[(place >= 0) & (end_ns <= spans["end_ns"].to_numpy(dtype=np.int64)[place])]


def match(entries: Events, calls: pd.DataFrame, absences: Absences, faults: Events, moves: Events) -> Barriers:
    """The barrier instances of `entries`, with what kept each one's last thread.

    `calls` has id and begin_ns; `absences`, `faults` (FAULT events with a latency) and `moves` (MIGRATE) are of the
    same calls.
    """
    ts_ns, tid, phase = as_time(entries["ts_ns"]), entries["tid"].astype(np.int64), entries["phase"].astype(np.int64)
    barrier = _barrier_of(entries, phase)
    nth, uneven = _nth_entries(barrier, tid, ts_ns, phase)
    order = np.lexsort((ts_ns, nth, barrier))
    order = order[~np.isin(phase[order], uneven)]
    starts = _starts(barrier[order], nth[order])
    first, last = starts, np.append(starts[1:], len(order)) - 1
    overtaken = (barrier[order][first[1:]] == barrier[order][first[:-1]]) & (
        ts_ns[order][last[:-1]] > ts_ns[order][first[1:]]
    )
    disordered = np.unique(phase[order][first[1:][overtaken]])
    order = order[~np.isin(phase[order], disordered)]
    ts_ns, tid, phase, barrier, nth = (values[order] for values in (ts_ns, tid, phase, barrier, nth))
    starts = _starts(barrier, nth)
    # a call without any entry was looked at where its engine does not wait
    used = calls[calls["id"].isin(phase)]
    origin_ns = _origins(ts_ns, phase, starts, used)
    sizes = np.diff(np.append(starts, len(ts_ns)))
    number = np.repeat(np.arange(len(starts)), sizes)
    held = held_up(tid, ts_ns, origin_ns[number], absences, faults, moves)
    last_ns = ts_ns[starts + sizes - 1] if len(starts) else ts_ns
    arrivals = pd.DataFrame(
        {
            "instance": number,
            "phase": phase,
            "tid": tid,
            "arrival_ns": ts_ns,
            "rank": np.arange(len(ts_ns)) - starts[number],
            "wait_ns": last_ns[number] - ts_ns,
        }
    )
    instances = pd.DataFrame(
        {
            "phase": phase[starts],
            "n_threads": sizes,
            "first_ns": ts_ns[starts],
            "last_ns": last_ns,
            "skew_ns": last_ns - ts_ns[starts],
            "last_tid": tid[starts + sizes - 1],
            **_lateness(ts_ns, starts, sizes, held),
        }
    )
    return Barriers(arrivals, instances, used, len(uneven), len(disordered))


def _barrier_of(entries: Events, phase: Ints) -> Ints:
    """A number for each barrier object of each call (without objects: each probe of each call)."""
    place = np.where(entries["arg1"] > 0, entries["arg1"], entries["arg0"].astype(np.uint64))
    places, n_places = pd.factorize(place)[0], len(np.unique(place))
    return phase * max(n_places, 1) + places


def _nth_entries(barrier: Ints, tid: Ints, ts_ns: Ints, phase: Ints) -> tuple[Ints, Ints]:
    """The how-manieth entry of its thread at its barrier each one is, and the calls whose threads' numbers differ."""
    order = np.lexsort((ts_ns, tid, barrier))
    runs = _starts(barrier[order], tid[order])
    sizes = np.diff(np.append(runs, len(order)))
    nth = np.empty(len(order), np.int64)
    nth[order] = np.arange(len(order)) - np.repeat(runs, sizes)
    differs = (barrier[order][runs[1:]] == barrier[order][runs[:-1]]) & (sizes[1:] != sizes[:-1])
    return nth, np.unique(phase[order][runs[1:][differs]])


def _starts(*keys: Ints) -> npt.NDArray[np.intp]:
    """Where a new run of equal keys begins, in sorted arrays."""
    if not len(keys[0]):
        return np.empty(0, np.intp)
    changes = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def _origins(ts_ns: Ints, phase: Ints, starts: npt.NDArray[np.intp], calls: pd.DataFrame) -> Ints:
    """When the threads of each instance were let go to it: as the one before was complete, or as the call began."""
    if not len(starts):
        return np.empty(0, np.int64)
    first_ns, last_ns = ts_ns[starts], ts_ns[np.append(starts[1:], len(ts_ns)) - 1]
    of_phase = phase[starts]
    begins = calls.drop_duplicates("id").set_index("id")["begin_ns"].astype("Int64")
    origin_ns = begins.reindex(of_phase).to_numpy(dtype=np.int64, na_value=0)
    order = np.lexsort((last_ns, of_phase))
    follows = of_phase[order][1:] == of_phase[order][:-1]
    origin_ns[order[1:][follows]] = last_ns[order[:-1][follows]]
    return np.minimum(origin_ns, first_ns)  # of two teams at the same time the other's may be later


def _lateness(ts_ns: Ints, starts: npt.NDArray[np.intp], sizes: Ints, held: Held) -> dict[str, npt.NDArray[Any]]:
    """How long each instance's last thread alone was missing, and what of that came of what.

    All threads set out at the same time, so what the last one needed more than the last but one is the sum of what it
    was kept longer by each cause, less what the other was: the first are scaled to that sum.
    """
    last = starts + sizes - 1
    before = np.maximum(last - 1, starts)
    late_ns = ts_ns[last] - ts_ns[before]
    longer = np.maximum(held.ns[last] - held.ns[before], 0)
    total = longer.sum(axis=1)
    longer[total == 0, CAUSES.index("slower")] = 1  # all that is left, when the same time was told by two causes
    total = longer.sum(axis=1)
    share = np.divide(late_ns, total, out=np.zeros(len(last)), where=total > 0)
    of_cause = np.floor(longer * share[:, None]).astype(np.int64)
    cause = longer.argmax(axis=1)
    of_cause[np.arange(len(last)), cause] += late_ns - of_cause.sum(axis=1)  # what rounding left
    names = np.array(CAUSES, dtype=object)[cause]
    names[late_ns == 0] = None
    return {
        "late_ns": late_ns,
        **{name: of_cause[:, number] for number, name in enumerate(CAUSES)},
        "cause": names,
        "by_tid": np.where(names == "preempted", held.preempted_by[last], -1),
        "by_reason": np.where(names == "asleep", held.slept_in[last], -1),
    }


def among(values: Ints, sorted_ids: Ints) -> Bools:
    """Which of the values are among the ids, of which there are some."""
    place = np.minimum(np.searchsorted(sorted_ids, values), len(sorted_ids) - 1)
    found: Bools = sorted_ids[place] == values
    return found

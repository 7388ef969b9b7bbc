"""What kept threads on their way to a barrier: preempted, waiting for a CPU, asleep, faulting, moved, just slower."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis.absences import PREEMPTED, Absences
from bitnet_trace.analysis.phases import groups
from bitnet_trace.analysis.split import Ints, as_time
from bitnet_trace.recording.layout import WaitReason

# preempted    another thread took its CPU
# run_queue    it had been asleep, was woken, and no CPU was free
# asleep       it slept: in a system call
# fault        page faults
# migrated     it needed more time on the CPU, and had been moved to another one meanwhile, whose caches lack its data
# slower       it needed more time on the CPU: more work, or less speed
CAUSES = ("preempted", "run_queue", "asleep", "fault", "migrated", "slower")
# As long as a CPU needs to fill its caches (2 MiB at 10 GB/s): what a move can cost. More has another reason.
MOST_NS_A_MOVE = 200_000
_PREEMPTED, _RUN_QUEUE, _ASLEEP, _FAULT, _MIGRATED, _SLOWER = range(len(CAUSES))

Events = npt.NDArray[np.void]


@dataclass(frozen=True)
class Held:
    """What the ways of threads to barriers were made of.

    `ns`: float64, a row per way and a column for each of CAUSES; they add up to the way's time. `preempted_by`: the
    thread that ran instead in the longest preemption, `slept_in`: the wait_reason of the longest sleep, -1: none.
    """

    ns: npt.NDArray[np.float64]
    preempted_by: Ints
    slept_in: Ints


def held_up(tid: Ints, arrival_ns: Ints, origin_ns: Ints, absences: Absences, faults: Events, moves: Events) -> Held:
    """Of ways of threads `tid` from `origin_ns` to `arrival_ns`; those of one thread do not overlap.

    `absences` by thread and time, `faults` with their latencies in arg2, `moves` to another CPU.
    """
    ns = np.zeros((len(tid), len(CAUSES)))
    preempted_by, slept_in = np.full(len(tid), -1), np.full(len(tid), -1)
    n_moves = np.zeros(len(tid), np.int64)
    fault_tid, fault_ns = faults["tid"].astype(np.int64), as_time(faults["ts_ns"])
    latency_ns = as_time(faults["arg2"])
    move_tid, move_ns = moves["tid"].astype(np.int64), as_time(moves["ts_ns"])
    of_absences, of_faults, of_moves = (dict(groups(one)) for one in (absences.tid, fault_tid, move_tid))
    for one, rows in groups(tid):
        rows = rows[np.argsort(arrival_ns[rows], kind="stable")]
        ways = _Ways(rows, origin_ns[rows], arrival_ns[rows])
        if one in of_absences:
            own = absences[of_absences[one]]
            chosen, way, overlap_ns = ways.overlaps(own.end_ns, own.offcpu_ns)
            own = own[chosen]
            preempted = own.reason == PREEMPTED
            # a fault's latency has the sleep in it
            asleep = ~preempted & (own.reason != WaitReason.FAULT)
            queued_ns = np.minimum(own.runq_ns, overlap_ns)
            np.add.at(ns[:, _PREEMPTED], way[preempted], overlap_ns[preempted])
            np.add.at(ns[:, _RUN_QUEUE], way[asleep], queued_ns[asleep])
            np.add.at(ns[:, _ASLEEP], way[asleep], (overlap_ns - queued_ns)[asleep])
            _set_longest(preempted_by, way[preempted], own.next[preempted], overlap_ns[preempted])
            _set_longest(slept_in, way[asleep], own.reason[asleep], (overlap_ns - queued_ns)[asleep])
        if one in of_faults:
            own_faults = of_faults[one]
            _, way, overlap_ns = ways.overlaps(fault_ns[own_faults], latency_ns[own_faults])
            np.add.at(ns[:, _FAULT], way, overlap_ns)
        if one in of_moves:
            at_ns = move_ns[of_moves[one]]
            np.add.at(n_moves, ways.overlaps(at_ns, np.ones(len(at_ns), np.int64))[1], 1)
    rest = np.maximum(arrival_ns - origin_ns - ns.sum(axis=1), 0)
    ns[:, _MIGRATED] = np.minimum(rest, MOST_NS_A_MOVE * n_moves)
    ns[:, _SLOWER] = rest - ns[:, _MIGRATED]
    return Held(ns, preempted_by, slept_in)


@dataclass(frozen=True)
class _Ways:
    """Ways of one thread, by time: `rows` are their numbers among all."""

    rows: npt.NDArray[np.intp]
    begin_ns: Ints
    end_ns: Ints

    def overlaps(self, until_ns: Ints, length_ns: Ints) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Ints]:
        """Of spans of the same thread: which lie on a way, on which, and how much of each. A thread arrives nowhere in
        the middle of one, so each is on one way at most."""
        place = np.minimum(np.searchsorted(self.end_ns, until_ns), len(self.end_ns) - 1)
        overlap_ns = np.minimum(until_ns, self.end_ns[place]) - np.maximum(until_ns - length_ns, self.begin_ns[place])
        chosen = np.flatnonzero((overlap_ns > 0) & (until_ns <= self.end_ns[place]))
        return chosen, self.rows[place[chosen]], overlap_ns[chosen]


def _set_longest(target: Ints, way: npt.NDArray[np.intp], value: Ints, ns: Ints) -> None:
    """For each way the value of its longest span."""
    order = np.argsort(ns, kind="stable")
    target[way[order]] = value[order]  # of several for one way the last holds

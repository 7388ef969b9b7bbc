"""Where threads waited, from the stacks that are taken at the end of waits of 0.2 ms and more."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.absences import Absences
from bitnet_trace.recording.reader import Recording

BARRIER = -2  # beside absences.PREEMPTED and the wait_reasons of bpf/record.h
LEAST_WAIT_NS = 200_000  # of bpf/profile.bpf.c
_FUTEXES = (203, 450, 456)  # system calls futex, futex_waitv, futex_wait, and 1
_COLUMNS = ("ts_ns", "tid", "reason", "stack", "period_ns")
_BARRIER_ROLES = frozenset({"barrier", "OpenMP runtime"})


class WaitStacks:
    """The wait stacks of one recording; `frames` are all of its frames, as profile.frames_of gives them."""

    def __init__(self, recording: Recording, frames: pd.DataFrame) -> None:
        samples = recording.samples[recording.samples["reason"] != 0]
        self._frames = frames
        self._waits = pd.DataFrame({name: samples[name].to_numpy(dtype=np.int64) for name in _COLUMNS})
        futexes = self._waits[self._waits["reason"].isin(_FUTEXES)].sort_values("ts_ns", kind="stable")
        barriers = set(frames["stack"][frames["role"].isin(_BARRIER_ROLES)])
        self._futexes = futexes.assign(barrier=futexes["stack"].isin(barriers))

    def told_apart(self, absences: Absences) -> Any:
        """The reasons of `absences`, BARRIER for those in futexes whose stack is in a barrier or in OpenMP.

        Of a wait below 0.2 ms there is no stack: it remains a futex.
        """
        long = np.isin(absences.reason, _FUTEXES) & (absences.offcpu_ns >= LEAST_WAIT_NS)
        if not long.any() or not len(self._futexes):
            return absences.reason
        ended = pd.DataFrame({"row": np.flatnonzero(long), "ts_ns": absences.end_ns[long], "tid": absences.tid[long]})
        # the stack is taken when the call returns: the thread's next one is this wait's
        own = pd.merge_asof(
            ended.sort_values("ts_ns", kind="stable"), self._futexes, on="ts_ns", by="tid", direction="forward"
        )
        reasons: npt.NDArray[np.int64] = absences.reason.copy()
        reasons[own["row"][own["barrier"].eq(True)].to_numpy()] = BARRIER
        return reasons

    def by_function(self) -> "pd.Series[int]":
        """Nanoseconds off the CPU by (module, function): of waits with it in the stack, as far as that goes."""
        each = self._frames[["stack", "module", "function"]].dropna().drop_duplicates()
        waited = each["stack"].map(self._waits.groupby("stack")["period_ns"].sum())
        known = waited.notna()
        result: pd.Series[int] = (
            waited[known].astype(np.int64).groupby([each["module"][known], each["function"][known]]).sum()
        )
        return result

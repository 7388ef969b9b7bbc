"""Who took the CPU from whom, by phase."""

import numpy as np
import pandas as pd

from bitnet_trace.analysis.absences import PREEMPTED, Absences, join
from bitnet_trace.analysis.phases import names_of

_KEYS = ["phase", "tid", "next"]
_MAX_PENDING = 1_000_000


class Preemptions:
    """Sums of absences that the thread did not want; they belong to the phase in which they began."""

    def __init__(self) -> None:
        self._sums = pd.DataFrame(columns=[*_KEYS, "count", "offcpu_ns"], dtype="int64")
        self._pending: list[Absences] = []

    def add(self, absences: Absences) -> None:
        self._pending.append(absences[absences.reason == PREEMPTED])
        if sum(map(len, self._pending)) > _MAX_PENDING:
            self._add_up()

    def _add_up(self) -> None:
        own = join(self._pending)
        self._pending = []
        table = pd.DataFrame(
            {"phase": own.phase, "tid": own.tid, "next": own.next, "count": 1, "offcpu_ns": own.offcpu_ns}
        )
        self._sums = pd.concat([self._sums, table]).groupby(_KEYS, as_index=False).sum()

    def by_phase(self, phases: pd.DataFrame) -> pd.DataFrame:
        """A row per phase name, thread and thread that ran instead: name, tid, next, count, offcpu_ns.

        `phases` has id and name.
        """
        self._add_up()
        table = self._sums.assign(name=names_of(self._sums["phase"].to_numpy(dtype=np.int64), phases))
        sums: pd.DataFrame = table.groupby(["name", "tid", "next"], as_index=False)[["count", "offcpu_ns"]].sum()
        return sums

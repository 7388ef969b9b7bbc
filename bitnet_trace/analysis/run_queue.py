"""How long threads waited for a CPU each time, by phase."""

import numpy as np
import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.phases import PHASE_NAMES, UNKNOWN
from bitnet_trace.analysis.split import as_time
from bitnet_trace.columns import RUN_QUEUE
from bitnet_trace.recording.layout import DURATION_ONLY, Kind

_NAMES = (*PHASE_NAMES, UNKNOWN)


class RunQueueWaits:
    """Waits for a CPU, gathered batch by batch. A wait bills whole to the phase in which it ended."""

    def __init__(self, phases: pd.DataFrame) -> None:
        """`phases` has the columns id and name."""
        ordered = phases.drop_duplicates("id", keep="last").sort_values("id")
        self._ids = ordered["id"].to_numpy(dtype=np.uint32)
        self._codes = pd.Categorical(ordered["name"], categories=list(_NAMES)).codes
        self._waits: dict[int, Distribution] = {}

    def add(self, events: ByKind) -> None:
        back = events.of(Kind.SWITCH_IN)
        chosen = back.compress((back["arg2"] > 0) & (back["arg0"] < DURATION_ONLY))
        if not len(self._ids) or not len(chosen):
            return
        place = np.minimum(np.searchsorted(self._ids, chosen["phase"]), len(self._ids) - 1)
        codes = np.where(self._ids[place] == chosen["phase"], self._codes[place], len(PHASE_NAMES))
        for code in np.unique(codes).tolist():
            self._waits.setdefault(code, Distribution()).add(as_time(chosen["arg2"][codes == code]))

    def by_phase(self) -> pd.DataFrame:
        """A row per phase name with waits, columns.RUN_QUEUE, in the order of an inference."""
        rows = [
            {"phase": _NAMES[code], "n": waits.n, **(waits.quantiles() or {})}
            for code, waits in sorted(self._waits.items())
        ]
        types = {column.key: "string" if column.format == "text" else "Int64" for column in RUN_QUEUE}
        return pd.DataFrame(rows, columns=[column.key for column in RUN_QUEUE]).astype(types)

    def histogram(self) -> dict[str, list[tuple[int, int]]]:
        """{phase name: [(2^n ns, waits from there up to twice that), ...]}, without empty ones."""
        return {_NAMES[code]: waits.by_powers_of_two() for code, waits in sorted(self._waits.items())}

"""Huge pages that the kernel made of small ones, by phase and outcome."""

from collections import Counter

import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.phases import UNKNOWN
from bitnet_trace.columns import COLLAPSES
from bitnet_trace.recording.layout import COLLAPSE_FILE, Kind

# enum scan_result of the kernel; it grows at its end and in the middle, so the recording brings the names
_SUCCEEDED = "SCAN_SUCCEED"


class Collapses:
    """Records COLLAPSE, gathered batch by batch."""

    def __init__(self) -> None:
        self._found: Counter[tuple[int, int]] = Counter()

    def add(self, events: ByKind) -> None:
        rows = events.of(Kind.COLLAPSE)
        if len(rows):
            self._found.update(zip(rows["phase"].tolist(), rows["arg0"].tolist(), strict=True))

    def table(self, phases: pd.DataFrame, results: list[str]) -> pd.DataFrame:
        """columns.COLLAPSES, by phase, most first. `phases`: named; `results`: names of enum scan_result by number."""
        names = dict(zip(phases["id"].tolist(), phases["name"].tolist(), strict=True))
        sums: Counter[tuple[str, str, str]] = Counter()
        for (phase, word), n in self._found.items():
            number = word & ~COLLAPSE_FILE
            result = results[number] if number < len(results) else str(number)
            what = "file" if word & COLLAPSE_FILE else "anonymous"
            sums[str(names.get(phase, UNKNOWN)), what, _in_words(result)] += n
        rows = [(*key, n) for key, n in sums.most_common()]
        return pd.DataFrame(rows, columns=[column.key for column in COLLAPSES])


def _in_words(result: str) -> str:
    return "made" if result == _SUCCEEDED else result.removeprefix("SCAN_").lower().replace("_", " ")

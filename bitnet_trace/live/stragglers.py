"""Who came last at barriers: of the newest window in which they were probed."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.absences import join
from bitnet_trace.analysis.barriers import WITH_BARRIERS, calls_in_windows, match
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.recording.layout import EVENT_DTYPE, Kind

_NOTHING = np.empty(0, EVENT_DTYPE)

Row = Mapping[str, Any]


class Stragglers:
    """`last`: by tid, at how many of `barriers` it came last, where others had to wait; both of the newest window."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.barriers = 0
        self._entries: list[npt.NDArray[np.void]] = []  # since the end of that window
        self._windows: list[Row] = []  # whose entries may still come

    def take_events(self, events: ByKind) -> None:
        entries = events.of(Kind.BARRIER)
        if len(entries):
            self._entries.append(entries)

    def take_windows(self, rows: Iterable[Row]) -> None:
        """Rows of schema.WINDOW_SCHEMA: windows that are over."""
        self._windows += [row for row in rows if row["what"] in WITH_BARRIERS]

    def update(self, phases: list[dict[str, Any]], latest_ns: int) -> None:
        """Looks at the windows that ended before `latest_ns`; `phases`: the newest, rows of schema.PHASE_SCHEMA."""
        over = [row for row in self._windows if row["end_ns"] < latest_ns]
        if not over:
            return
        self._windows = [row for row in self._windows if row["end_ns"] >= latest_ns]
        newest = max(over, key=lambda row: int(row["end_ns"]))
        entries = np.concatenate([_NOTHING, *self._entries])
        self._entries = [entries[entries["ts_ns"] > newest["end_ns"]]]
        columns = ["id", "role", "begin_ns", "end_ns", "overlapped"]
        calls = calls_in_windows(pd.DataFrame([newest]), pd.DataFrame(phases, columns=columns))
        entries = entries[np.isin(entries["phase"], calls["id"].to_numpy(dtype=np.uint32))]
        instances = match(entries, calls, join([]), _NOTHING, _NOTHING).instances
        if len(instances):
            waited = instances[(instances["n_threads"] > 1) & (instances["late_ns"] > 0)]
            tids, times = np.unique(waited["last_tid"].to_numpy(dtype=np.int64), return_counts=True)
            self.last = dict(zip(tids.tolist(), times.tolist(), strict=True))
            self.barriers = len(instances)

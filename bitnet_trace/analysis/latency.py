"""Exact quantiles of page-fault latencies, in memory bounded by how many different values there are."""

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.layout import FaultFlag, Kind

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class FaultLatencies:
    """Latencies of handled faults whose exception was seen, gathered batch by batch."""

    def __init__(self) -> None:
        self._values: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._counts: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def add(self, events: npt.NDArray[np.void]) -> None:
        """Takes the FAULT events of an EVENT_DTYPE array."""
        flags = events["arg0"]
        timed = (events["kind"] == Kind.FAULT) & ((flags & (FaultFlag.FAILED | FaultFlag.NO_LATENCY)) == 0)
        values = np.concatenate([self._values, as_time(events["arg2"][timed])])
        weights = np.concatenate([self._counts, np.ones(len(values) - len(self._values), dtype=np.int64)])
        self._values, place = np.unique(values, return_inverse=True)
        self._counts = np.bincount(place, weights=weights, minlength=len(self._values)).astype(np.int64)

    def quantiles(self) -> dict[str, int] | None:
        """p50, p90, p99 and max in ns (nearest rank: each is a latency that occurred); None without faults."""
        if not len(self._values):
            return None
        ranks = np.cumsum(self._counts)
        result = {
            name: int(self._values[np.searchsorted(ranks, int(np.ceil(share * ranks[-1])))])
            for name, share in _QUANTILES.items()
        }
        return {**result, "max": int(self._values[-1])}

"""Exact quantiles of many whole numbers, in memory bounded by how many different values there are."""

from typing import Any

import numpy as np
import numpy.typing as npt

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class Distribution:
    """How often each value occurred, gathered batch by batch."""

    def __init__(self) -> None:
        self._values: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._counts: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def add(self, values: npt.NDArray[np.integer[Any]]) -> None:
        values, counts = np.unique(values.astype(np.int64), return_counts=True)
        both = np.concatenate([self._values, values])
        weights = np.concatenate([self._counts, counts])
        self._values, place = np.unique(both, return_inverse=True)
        self._counts = np.bincount(place, weights=weights, minlength=len(self._values)).astype(np.int64)

    def quantiles(self) -> dict[str, int] | None:
        """p50, p90, p99 and max (nearest rank: each is a value that occurred); None when there are none."""
        if not len(self._values):
            return None
        ranks = np.cumsum(self._counts)
        result = {
            name: int(self._values[np.searchsorted(ranks, int(np.ceil(share * ranks[-1])))])
            for name, share in _QUANTILES.items()
        }
        return {**result, "max": int(self._values[-1])}

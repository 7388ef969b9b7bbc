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

    @property
    def n(self) -> int:
        """How many values there are."""
        return int(self._counts.sum())

    def by_powers_of_two(self) -> list[tuple[int, int]]:
        """(2^n, how many positive values are there from it up to twice that), ascending, without empty ones."""
        exponents = np.frexp(self._values.astype(np.float64))[1] - 1
        unique, place = np.unique(exponents, return_inverse=True)
        counts = np.bincount(place, weights=self._counts, minlength=len(unique))
        return [(1 << int(one), int(n)) for one, n in zip(unique, counts, strict=True)]

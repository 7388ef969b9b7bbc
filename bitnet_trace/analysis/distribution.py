"""Exact quantiles of many whole numbers, in memory bounded by how many different values there are."""

from typing import Any

import numpy as np
import numpy.typing as npt

# Values below are counted in an array of their own: most latencies in ns are (131 µs), and need no sorting.
_SMALL = 1 << 17
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Ints = npt.NDArray[np.int64]


class Distribution:
    """How often each value occurred, gathered batch by batch."""

    def __init__(self) -> None:
        self._small: Ints = np.zeros(0, dtype=np.int64)  # how often each of the values below _SMALL occurred
        self._values: Ints = np.empty(0, dtype=np.int64)
        self._counts: Ints = np.empty(0, dtype=np.int64)

    def add(self, values: npt.NDArray[np.integer[Any]]) -> None:
        values = values.astype(np.int64)
        is_small = (values >= 0) & (values < _SMALL)
        small = np.bincount(values[is_small], minlength=len(self._small))
        small[: len(self._small)] += self._small
        self._small = small
        rest, counts = np.unique(values[~is_small], return_counts=True)
        if len(rest):
            both = np.concatenate([self._values, rest])
            weights = np.concatenate([self._counts, counts])
            self._values, place = np.unique(both, return_inverse=True)
            self._counts = np.bincount(place, weights=weights, minlength=len(self._values)).astype(np.int64)

    def quantiles(self) -> dict[str, int] | None:
        """p50, p90, p99 and max (nearest rank: each is a value that occurred); None when there are none."""
        values, counts = self._all()
        if not len(values):
            return None
        ranks = np.cumsum(counts)
        result = {
            name: int(values[np.searchsorted(ranks, int(np.ceil(share * ranks[-1])))])
            for name, share in _QUANTILES.items()
        }
        return {**result, "max": int(values[-1])}

    @property
    def n(self) -> int:
        """How many values there are."""
        return int(self._small.sum() + self._counts.sum())

    def _all(self) -> tuple[Ints, Ints]:
        """The different values in ascending order, and how often each occurred."""
        below = int(np.searchsorted(self._values, 0))
        small = np.flatnonzero(self._small)
        values = np.concatenate([self._values[:below], small, self._values[below:]])
        return values, np.concatenate([self._counts[:below], self._small[small], self._counts[below:]])

    def by_powers_of_two(self) -> list[tuple[int, int]]:
        """(2^n, how many positive values are there from it up to twice that), ascending, without empty ones."""
        values, of_values = self._all()
        exponents = np.frexp(values.astype(np.float64))[1] - 1
        unique, place = np.unique(exponents, return_inverse=True)
        counts = np.bincount(place, weights=of_values, minlength=len(unique))
        return [(1 << int(one), int(n)) for one, n in zip(unique, counts, strict=True)]

"""Sums by a key, gathered batch by batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.sums import to_int

Ints = npt.NDArray[np.int64]

_MAX_PARTS = 64


class KeyedSums:
    """What values of some columns add up to for each key; sums are below 2^53, as those of the fold."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._parts: list[tuple[Ints, dict[str, Ints]]] = []

    def add(self, keys: Ints, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """`values[column][i]` is of `keys[i]`; columns that are left out are 0."""
        if len(keys):
            self._parts.append(_summed(keys, values))
        if len(self._parts) > _MAX_PARTS:
            self._parts = [self._total()]

    def table(self) -> pd.DataFrame:
        """The columns, all of them, by `key`, in ascending order of keys."""
        keys, sums = self._total()
        nothing = np.zeros(len(keys), np.int64)
        table = pd.DataFrame({"key": keys, **{name: sums.get(name, nothing) for name in self._columns}})
        return table.sort_values("key", ignore_index=True)

    def _total(self) -> tuple[Ints, dict[str, Ints]]:
        keys = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in self._parts)])
        sums = {}
        for name in self._columns:
            if any(name in values for _, values in self._parts):
                of_parts = (values.get(name, np.zeros(len(own), np.int64)) for own, values in self._parts)
                sums[name] = np.concatenate(list(of_parts))
        return _summed(keys, sums)


def _summed(keys: Ints, values: Mapping[str, npt.NDArray[Any]]) -> tuple[Ints, dict[str, Ints]]:
    place, different = pd.factorize(keys)
    n = len(different)
    return different, {name: to_int(np.bincount(place, weights=of, minlength=n)) for name, of in values.items()}

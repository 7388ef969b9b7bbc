"""Counters by key in one array: what the live view adds to again and again."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis import sums as analysis
from bitnet_trace.analysis.spans import KEY_SHIFT
from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.layout import COUNTER_FIELDS

_NUMBER = {name: number for number, name in enumerate(COUNTER_FIELDS)}
_MAXIMA = np.array([name in analysis.MAXIMA for name in COUNTER_FIELDS])


@dataclass(frozen=True)
class Sums:
    """`values[i, n]` is counter COUNTER_FIELDS[i] of `keys[n]`, which is a number << 32 | tid; each key once."""

    keys: npt.NDArray[np.uint64]
    values: npt.NDArray[np.int64]

    @staticmethod
    def of(sums: analysis.Sums) -> "Sums":
        values = np.zeros((len(COUNTER_FIELDS), len(sums.keys)), np.int64)
        for name, (rows, amounts) in sums.columns.items():
            values[_NUMBER[name], rows] = amounts
        return Sums(sums.keys, values)

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Sums":
        return Sums(self.keys[chosen], self.values[:, chosen])

    def counter(self, name: str) -> Any:
        """The values of one counter."""
        return counter(self.values, name)


NOTHING = Sums(np.empty(0, np.uint64), np.zeros((len(COUNTER_FIELDS), 0), np.int64))


def stored_sums(stored: npt.NDArray[np.void]) -> Sums:
    """Of an array of schema.COUNTER_DTYPE: what the kernel kept, by phase and thread."""
    keys = stored["phase"].astype(np.uint64) << KEY_SHIFT | stored["tid"]
    return added(Sums(keys, np.stack([as_time(stored[name]) for name in COUNTER_FIELDS])))


def added(*sums: Sums) -> Sums:
    """All of them, with each key once, in ascending order."""
    keys = np.concatenate([one.keys for one in sums])
    unique, group = np.unique(keys, return_inverse=True)
    return Sums(unique, by_group(np.concatenate([one.values for one in sums], axis=1), group, len(unique)))


def by_group(values: npt.NDArray[np.int64], groups: npt.NDArray[np.intp], n: int) -> npt.NDArray[np.int64]:
    """`result[i, g]`: counter i of all that are of group g: sums, and of maxima the largest."""
    result = np.zeros((len(COUNTER_FIELDS), n), np.int64)
    if len(groups):
        order = np.argsort(groups, kind="stable")
        first = np.flatnonzero(np.append(True, np.diff(groups[order]) != 0))
        values = values[:, order]
        sums = np.add.reduceat(values, first, axis=1)
        sums[_MAXIMA] = np.maximum.reduceat(values[_MAXIMA], first, axis=1)
        result[:, groups[order][first]] = sums
    return result


def counter(values: npt.NDArray[np.int64], name: str) -> Any:
    """The row of a counter."""
    return values[_NUMBER[name]]

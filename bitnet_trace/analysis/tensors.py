"""Which tensor lies at which bytes of a model file."""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.phases import groups

Ints = npt.NDArray[np.int64]

# llama.cpp's names: `blk.7.ffn_down.weight`, also behind a prefix (`enc.blk.7...`)
_LAYER = re.compile(r"(?:^|\.)blk\.(\d{1,9})\.")


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to; None: embedding, output, and names of another kind."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


class Coverage:
    """Which bytes of a file were read at least once."""

    def __init__(self) -> None:
        self._begins: Ints = np.empty(0, np.int64)
        self._ends: Ints = np.empty(0, np.int64)

    def add(self, begins: Ints, ends: Ints) -> None:
        begins, ends = np.concatenate([self._begins, begins]), np.concatenate([self._ends, ends])
        order = np.argsort(begins, kind="stable")
        begins, reach = begins[order], np.maximum.accumulate(ends[order])
        first = np.append(True, begins[1:] > reach[:-1])
        self._begins = begins[first]
        self._ends = reach[np.append(np.flatnonzero(first)[1:] - 1, len(reach) - 1)]

    def within(self, begins: Ints, ends: Ints) -> Ints:
        """How many bytes of each [begin, end) it covers."""
        return self._below(ends) - self._below(begins)

    def total(self) -> int:
        return int((self._ends - self._begins).sum())

    def _below(self, places: Ints) -> Ints:
        if not len(self._begins):
            return np.zeros(len(places), np.int64)
        sums = np.append(0, np.cumsum(self._ends - self._begins))
        number = np.searchsorted(self._begins, places, side="right")
        last = np.maximum(number - 1, 0)
        in_last = np.clip(np.minimum(places, self._ends[last]) - self._begins[last], 0, None)
        return np.where(number > 0, sums[last] + in_last, 0)


class TensorTable:
    """The tensors of all model files of a recording, each with a number: its place in `names`, `types` and `sizes`."""

    def __init__(self, tensors: pd.DataFrame) -> None:
        """`tensors`: Recording.tensors."""
        self.names: list[str] = []
        self.types: list[str] = []
        self.sizes = self._begins = self._ends = np.empty(0, np.int64)
        self._of_path: dict[str, npt.NDArray[np.intp]] = {}
        self.add(tensors)

    def add(self, tensors: pd.DataFrame) -> None:
        """Those of files that are not known yet: numbers stay as they are."""
        table = tensors[~tensors["path"].isin(list(self._of_path))]
        table = table.sort_values(["path", "offset"], kind="stable").reset_index(drop=True)
        codes, paths = pd.factorize(table["path"])
        for code, rows in groups(codes.astype(np.int64)):
            self._of_path[str(paths[code])] = rows + len(self.names)
        self.names += [str(name) for name in table["name"]]
        types = zip(table["type_name"].tolist(), table["type"].tolist(), strict=True)
        self.types += [str(number) if pd.isna(name) else str(name) for name, number in types]
        sizes, begins = _whole(table["size_bytes"]), _whole(table["offset"])
        self.sizes = np.append(self.sizes, sizes)
        self._begins, self._ends = np.append(self._begins, begins), np.append(self._ends, begins + sizes)

    def __len__(self) -> int:
        return len(self.names)

    def at(self, path: str, offsets: Ints) -> Ints:
        """The number of the tensor at each offset of a file; -1 where there is none (the header, padding)."""
        rows = self._of_path.get(path)
        if rows is None:
            return np.full(len(offsets), -1)
        place = np.maximum(np.searchsorted(self._begins[rows], offsets, side="right") - 1, 0)
        number = rows[place]
        return np.where((offsets >= self._begins[number]) & (offsets < self._ends[number]), number, -1)

    def covered(self, path: str, read: Coverage) -> Iterator[tuple[int, int]]:
        """(number, bytes that were read at least once) of each tensor of a file."""
        rows = self._of_path.get(path)
        if rows is not None:
            yield from zip(rows.tolist(), read.within(self._begins[rows], self._ends[rows]).tolist(), strict=True)

    def overlaps(self, path: str, begin: int, length: int) -> Iterator[tuple[int, int]]:
        """(number, bytes) of each tensor that has bytes in [begin, begin + length) of a file; the rest as -1."""
        rows = self._of_path.get(path)
        rest = length
        if rows is not None:
            first = max(int(np.searchsorted(self._begins[rows], begin, side="right")) - 1, 0)
            last = int(np.searchsorted(self._begins[rows], begin + length))
            for number in rows[first:last].tolist():
                shared = min(int(self._ends[number]), begin + length) - max(int(self._begins[number]), begin)
                if shared > 0:
                    rest -= shared
                    yield number, shared
        if rest > 0:
            yield -1, rest


def _whole(values: "pd.Series[int]") -> Ints:
    """As int64; a damaged value beyond that range is its end."""
    return np.minimum(values.to_numpy(dtype=np.uint64), np.uint64(1 << 62)).astype(np.int64)

"""The events of a batch by kind: sorted once, so that who needs a few kinds need not look at all the others."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bitnet_trace.recording.layout import EVENT_DTYPE

Events = npt.NDArray[np.void]


class Gatherer(Protocol):
    """Takes the events of a recording, some at a time, in the order of recording."""

    def add(self, events: "ByKind") -> None: ...


class Columns:
    """Some events, field by field: each is taken when it is asked for first, and lies in one piece."""

    def __init__(self, n: int, take: Callable[[str], npt.NDArray[Any]]) -> None:
        self._n, self._take = n, take
        self._known: dict[str, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, field: str) -> npt.NDArray[Any]:
        found = self._known.get(field)
        if found is None:
            found = self._known[field] = self._take(field)
        return found

    def compress(self, chosen: npt.NDArray[np.bool_]) -> "Columns":
        return Columns(int(np.count_nonzero(chosen)), lambda field: self[field].compress(chosen))


class ByKind:
    """Events, and those of some kinds among them, in the order of recording.

    May be read by several threads at a time.
    """

    def __init__(self, batch: Events | Mapping[str, npt.NDArray[Any]]) -> None:
        """An EVENT_DTYPE array, or the columns of one."""
        self._columns = batch
        self._whole = Columns(len(batch["kind"]), lambda field: np.ascontiguousarray(batch[field]))
        kinds = self._whole["kind"]
        self._order = np.argsort(kinds, kind="stable")  # of 16 bits: numpy's radix sort
        self._edges = np.append(0, np.cumsum(np.bincount(kinds, minlength=1)))
        self._known: dict[tuple[int, ...], Events] = {}
        self._known_columns: dict[int, Columns] = {}

    def __len__(self) -> int:
        return len(self._order)

    @cached_property
    def kinds(self) -> list[int]:
        """The kinds that there are."""
        different: list[int] = np.flatnonzero(np.diff(self._edges)).tolist()
        return different

    @cached_property
    def latest_ns(self) -> int:
        """Of all events; 0 without any."""
        return int(self._columns["ts_ns"].max()) if len(self) else 0

    def of(self, *kinds: int) -> Events:
        """The events of these kinds, as an EVENT_DTYPE array."""
        found = self._known.get(kinds)
        if found is None:
            rows = [self._rows(kind) for kind in kinds]
            found = self._known[kinds] = self._taken(rows[0] if len(rows) == 1 else np.sort(np.concatenate(rows)))
        return found

    def columns_of(self, kind: int) -> Columns:
        """Those of one kind: in place of `of` where they are many and only some fields are looked at."""
        found = self._known_columns.get(kind)
        if found is None:
            found = self._known_columns[kind] = self._taken_columns(kind)
        return found

    def _taken_columns(self, kind: int) -> Columns:
        if isinstance(self._columns, np.ndarray):
            records = self.of(kind)
            return Columns(len(records), lambda field: np.ascontiguousarray(records[field]))
        rows, whole = self._rows(kind), self._whole  # `self` in it would be a cycle, and keep a batch's arrays alive
        return Columns(len(rows), lambda field: whole[field].take(rows))

    def _taken(self, rows: npt.NDArray[np.intp]) -> Events:
        if isinstance(self._columns, np.ndarray):
            return self._columns.take(rows)  # whole records: a field's take copies that field of all records first
        taken = np.empty(len(rows), EVENT_DTYPE)
        for name in EVENT_DTYPE.names or ():
            taken[name] = self._columns[name].take(rows)
        return taken

    def _rows(self, kind: int) -> npt.NDArray[np.intp]:
        return (
            self._order[self._edges[kind] : self._edges[kind + 1]] if kind < len(self._edges) - 1 else self._order[:0]
        )

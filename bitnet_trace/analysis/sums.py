"""Counters while they are added up: of each phase and thread those that are not 0."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.spans import KEY_SHIFT, LOW_WORD, Ints, Keys, Rows, Spans
from bitnet_trace.recording.layout import COUNTER_FIELDS

MAXIMA = frozenset({"rss_peak_bytes"})
_LARGEST_SUM = float(1 << 62)


@dataclass(frozen=True)
class Sums:
    """`keys`: phase << 32 | tid, in ascending order; `columns`: of a counter the places in `keys` where it is not 0,
    and its values there; `spans`: of a counter the phases that durations fill, which are not in `columns`.

    There may be millions of keys, and most counters of most are 0: a table would take ten times as much memory.
    """

    keys: Keys
    columns: dict[str, tuple[Rows, Ints]]
    spans: dict[str, Spans] = field(default_factory=dict)

    @staticmethod
    def of(table: pd.DataFrame) -> "Sums":
        """Of a table with index (phase, tid), each once, and columns layout.COUNTER_FIELDS."""
        phase, tid = (table.index.get_level_values(name).to_numpy(dtype=np.uint64) for name in ("phase", "tid"))
        keys = phase << KEY_SHIFT | tid
        order = np.argsort(keys)
        values = {name: table[name].to_numpy(dtype=np.int64)[order] for name in COUNTER_FIELDS}
        return Sums(keys[order], {name: sparse(column) for name, column in values.items() if column.any()})

    @property
    def size(self) -> int:
        """How many numbers it consists of."""
        in_columns = sum(len(rows) for rows, _ in self.columns.values())
        return len(self.keys) + in_columns + sum(len(spans) for spans in self.spans.values())

    @cached_property
    def _phases(self) -> Ints:
        """The phases that there are, in ascending order."""
        phase = (self.keys >> KEY_SHIFT).astype(np.int64)
        return phase[self._is_first]

    @cached_property
    def _is_first(self) -> npt.NDArray[np.bool_]:
        """Of each key whether it is the first of its phase."""
        phase = self.keys >> KEY_SHIFT
        first: npt.NDArray[np.bool_] = np.append(True, phase[1:] != phase[:-1])[: len(phase)]
        return first

    @cached_property
    def _code(self) -> Rows:
        """Of each key the place of its phase in `_phases`."""
        return np.cumsum(self._is_first) - 1

    def table(self) -> pd.DataFrame:
        """Index (phase, tid), columns layout.COUNTER_FIELDS as int64. Raises TraceError as `spread`."""
        if self.spans:
            return self.spread().table()
        tid = (self.keys & LOW_WORD).astype(np.int64)
        code, tids = pd.factorize(tid, sort=True)
        index = pd.MultiIndex(
            levels=[self._phases, np.asarray(tids)],  # type: ignore[list-item]
            codes=[self._code, code],  # type: ignore[list-item]
            names=["phase", "tid"],
            verify_integrity=False,
        )
        nothing = np.zeros(len(self.keys), dtype=np.int64)
        values = dict.fromkeys(COUNTER_FIELDS, nothing)  # one array for all that are 0 everywhere
        for name, (rows, amounts) in self.columns.items():
            values[name] = np.zeros(len(self.keys), dtype=np.int64)
            values[name][rows] = amounts
        return pd.DataFrame(values, index=index, copy=False)

    def spread(self) -> "Sums":
        """The same without spans: what these add up to in each phase. Raises TraceError as Spans.parts."""
        parts = [_of_keys(name, *part) for name, spans in self.spans.items() for part in spans.parts()]
        return added([Sums(self.keys, self.columns), *parts])

    def called(self, phases: Ints, names: Ints) -> "Sums":
        """The same with each of `phases` called by its number in `names`: those that are called alike are added up."""
        index = pd.Index(phases)

        def name_of(ids: Ints) -> Ints:
            place = index.get_indexer(pd.Index(ids))
            return np.where(place >= 0, np.append(names, -1)[place], ids)

        keys = name_of(self._phases).astype(np.uint64)[self._code] << KEY_SHIFT | self.keys & LOW_WORD
        group, different = pd.factorize(keys, sort=True)
        columns = {}
        for name, (rows, amounts) in self.columns.items():
            values = np.zeros(len(different), dtype=np.int64)
            if name in MAXIMA:
                np.maximum.at(values, group[rows], amounts)
            else:
                values = to_int(np.bincount(group[rows], weights=amounts, minlength=len(different)))
            columns[name] = sparse(values)
        parts = [_of_keys(name, *part) for name, spans in self.spans.items() for part in spans.by_name(name_of)]
        return added([Sums(np.asarray(different), columns), *parts])

    def of_phases(self, ids: Ints, names: Sequence[str], tids: Collection[int] | None = None) -> pd.DataFrame:
        """A row for each of `ids`: the sums of counters over all threads, or over `tids`. Not for maxima."""
        different, place_of_id = np.unique(ids, return_inverse=True)
        index = pd.Index(different)

        def place_of(phases: Ints) -> Rows:
            return index.get_indexer(pd.Index(phases))

        place = place_of(self._phases)[self._code]
        if tids is not None:
            place = np.where(np.isin(self.keys & LOW_WORD, np.array(list(tids), np.uint64)), place, -1)
        columns = {}
        for name in names:
            rows, amounts = self.columns.get(name, _NOTHING)
            chosen = place[rows] >= 0
            sums = to_int(np.bincount(place[rows[chosen]], weights=amounts[chosen], minlength=len(different)))
            if name in self.spans:
                sums += self.spans[name].of_phases(place_of, len(different), tids)
            columns[name] = sums[place_of_id]
        return pd.DataFrame(columns, columns=list(names))


_NOTHING = np.empty(0, np.intp), np.empty(0, np.int64)


def added(sums: list[Sums]) -> Sums:
    """All together: sums, and of maxima the larger."""
    sums = [one for one in sums if one.size]
    if len(sums) == 1:
        return sums[0]
    keys = different_keys([one.keys for one in sums])
    places = [np.searchsorted(keys, one.keys) for one in sums]
    columns, all_spans = {}, {}
    values = np.zeros(len(keys), dtype=np.int64)  # of one counter at a time: fresh memory costs more than the sums
    for name in COUNTER_FIELDS:
        parts = [(place, *one.columns[name]) for place, one in zip(places, sums, strict=True) if name in one.columns]
        for place, rows, amounts in parts:
            at = place[rows]  # each once
            values[at] = np.maximum(values[at], amounts) if name in MAXIMA else values[at] + amounts
        if parts:
            rows, amounts = columns[name] = sparse(values)
            values[rows] = 0
        if spans := [one.spans[name] for one in sums if name in one.spans]:
            all_spans[name] = Spans.together(spans)
    return Sums(keys, columns, all_spans)


def _of_keys(name: str, keys: Keys, amounts: Ints) -> Sums:
    """Of one counter; a key may come several times."""
    place, different = pd.factorize(keys, sort=True)
    sums = to_int(np.bincount(place, weights=amounts, minlength=len(different)))
    return Sums(np.asarray(different), {name: sparse(sums)})


def different_keys(keys: list[Keys]) -> Keys:
    """The different ones, in ascending order: nearly in order already, for which this sort is made."""
    every = np.sort(np.concatenate([np.empty(0, np.uint64), *keys]), kind="stable")
    different: Keys = every[np.append(True, every[1:] != every[:-1])[: len(every)]]
    return different


def sparse(values: Ints) -> tuple[Rows, Ints]:
    """The places where they are not 0, and what they are there."""
    rows = np.flatnonzero(values != 0)  # of truths: numpy looks for those much faster than for numbers
    return rows, values[rows]


def to_int(sums: npt.NDArray[Any]) -> Ints:
    """Sums are whole numbers below 2^53 (104 days in ns), so exact; damage is kept in the range of int64."""
    limited: Ints = np.minimum(sums, _LARGEST_SUM).astype(np.int64)
    return limited

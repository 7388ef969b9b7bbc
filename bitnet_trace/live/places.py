"""Where faults fall while a program runs: by region of memory, and in model files by tensor."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.phases import runs
from bitnet_trace.analysis.place_sums import KINDS, SUMS, PlaceSums
from bitnet_trace.analysis.regions import MODEL, Regions, area_changes, fork_changes
from bitnet_trace.analysis.split import PhaseEdges
from bitnet_trace.analysis.tensors import TensorTable
from bitnet_trace.live.phase_book import PhaseBook
from bitnet_trace.live.threads import ThreadTable
from bitnet_trace.recording.schema import AREA_SCHEMA, MAP_SCHEMA, TENSOR_SCHEMA, THREAD_SCHEMA

_MOST_HELD = 500_000  # records that wait for the tensors of a model
_MOST_MAPPED = 10_000  # files that were told to be mapped and are not yet

Ints = npt.NDArray[np.int64]
Row = Mapping[str, Any]


class Places:
    """The sums of analysis/place_sums.py, without phases: memory of no file is one region, whenever it was mapped."""

    def __init__(self, book: PhaseBook, threads: ThreadTable) -> None:
        self._book, self._threads = book, threads
        self._regions = Regions(_table(AREA_SCHEMA), _table(MAP_SCHEMA), _table(TENSOR_SCHEMA))
        self._tensors = TensorTable(_table(TENSOR_SCHEMA))
        self._processes = _Processes()
        self._sums = PlaceSums(self._regions, self._tensors, self._processes)
        self._started: dict[int, int | None] = {}  # by process, when
        self._models: set[str] = set()  # paths of files that were mapped
        self._is_waiting = True  # for their tensors
        self._held: list[npt.NDArray[np.void]] = []  # meanwhile

    def take_threads(self, rows: Iterable[Row]) -> None:
        """Rows of schema.THREAD_SCHEMA that the table of threads has by now."""
        new = [row for row in rows if row["tid"] == row["pid"] and self._started.get(row["pid"], -1) != row["start_ns"]]
        if new:
            self._started.update({row["pid"]: row["start_ns"] for row in new})
            known, parents = self._threads.by_tid, {row.get("parent_tid") for row in new}
            process_of = {tid: known[tid].pid for tid in parents if tid in known}
            self._sums.know(fork_changes(_table(THREAD_SCHEMA, new), process_of))

    def take_maps(self, rows: list[Row]) -> None:
        """Rows of schema.MAP_SCHEMA."""
        self._regions.learn_maps(_table(MAP_SCHEMA, rows))
        self._regions.forget_mapped(_MOST_MAPPED)
        self._wait_for_models(rows)

    def take_areas(self, rows: list[Row]) -> None:
        """Rows of schema.AREA_SCHEMA."""
        areas = _table(AREA_SCHEMA, rows)
        self._regions.learn_libraries(areas)
        self._sums.know(area_changes(self._regions, areas))
        self._wait_for_models(rows)

    def take_tensors(self, rows: list[Row]) -> None:
        """Rows of schema.TENSOR_SCHEMA, of all models that were mapped or read and are new."""
        tensors = _table(TENSOR_SCHEMA, rows)
        self._regions.learn_models(tensors)
        self._tensors.add(tensors)
        self._go_on()

    def take_events(self, events: ByKind, edges: PhaseEdges) -> None:
        """In the order of recording; `edges` know the phases of these events."""
        if self._is_waiting:
            self._held.append(events.of(*KINDS))
            if sum(map(len, self._held)) > _MOST_HELD:
                self._go_on()
        else:
            self._add(events, edges)

    def finish(self) -> None:
        """Nothing comes any more."""
        self._go_on()
        self._sums.finish()

    def forget(self, pid: int) -> None:
        """Nothing comes of that process any more."""
        self._sums.spaces.forget(pid)
        self._started.pop(pid, None)

    def rows(self) -> Iterator[tuple[str, str | None, bool, dict[str, int]]]:
        """Name, path, whether it is a tensor, and columns.PLACE_SUMS: of regions, then of tensors."""
        table = self._sums.table()
        models = set(self._regions.model_paths.values())
        for number, of_region in _sums_by(table, "region"):
            region, path = self._regions.known[number]
            name = MODEL if path in models else region  # it was mapped before it was known to be one
            yield name, path, False, of_region
        in_tensors = table[table["tensor"] >= 0]
        region_of = dict(zip(in_tensors["tensor"].tolist(), in_tensors["region"].tolist(), strict=True))
        for number, of_tensor in _sums_by(in_tensors, "tensor"):
            yield self._tensors.names[number], self._regions.known[region_of[number]].path, True, of_tensor

    def _wait_for_models(self, rows: Iterable[Row]) -> None:
        new = {row["path"] for row in rows if str(row["path"] or "").endswith(".gguf")} - self._models
        self._models |= new
        self._is_waiting |= bool(new)

    def _go_on(self) -> None:
        self._is_waiting = False
        if self._held:
            held, self._held = np.concatenate(self._held), []
            self._add(ByKind(held), self._book.edges())

    def _add(self, events: ByKind, edges: PhaseEdges) -> None:
        self._processes.edges = edges
        self._sums.add(events)
        self._sums.spaces.advised.clear()  # a report's


class _Processes:
    """A place_sums.Phases of one name."""

    names = (None,)
    edges: PhaseEdges

    def __call__(self, ids: npt.NDArray[np.uint32]) -> tuple[Ints, Ints]:
        # records of one phase come one after the other
        different, times = runs(ids)
        _, pids = self.edges.lookup(different)
        return np.repeat(pids, times), np.zeros(len(ids), np.int64)


def _sums_by(table: pd.DataFrame, key: str) -> Iterator[tuple[int, dict[str, int]]]:
    """Each number in the column `key`, in ascending order, with its sums."""
    sums = table.groupby(key)[SUMS].sum()
    of_each: list[Any] = sums.to_dict("records")
    return zip(sums.index.tolist(), of_each, strict=True)


def _table(schema: pa.Schema, rows: list[Row] | tuple[()] = ()) -> pd.DataFrame:
    """With the columns of a schema; what is missing is None."""
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in schema.names}, dtype=object)

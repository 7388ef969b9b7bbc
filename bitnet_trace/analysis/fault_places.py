"""Page faults, populated and read bytes by region of memory, and in model files by tensor and layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.numa import pages_by_node
from bitnet_trace.analysis.page_sizes import PageSizes, page_sizes
from bitnet_trace.analysis.phases import UNKNOWN as UNKNOWN_PHASE
from bitnet_trace.analysis.phases import runs
from bitnet_trace.analysis.place_sums import SUMS, PlaceSums
from bitnet_trace.analysis.regions import Regions, known_changes
from bitnet_trace.analysis.tensors import TensorTable, layer_of
from bitnet_trace.recording.reader import Recording

Events = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FaultPlaces:
    """A row per region, layer or tensor with the columns of columns.PLACES_*, most faults first.

    `pages`: what was resident; `nodes`: on which NUMA nodes (numa.pages_by_node).
    `phases`: {phase name: {column: value}} of what is not 0. `by_region` sums up to the counters of the recording.
    """

    by_region: pd.DataFrame
    by_layer: pd.DataFrame
    by_tensor: pd.DataFrame
    pages: PageSizes
    nodes: pd.DataFrame


class PlaceGatherer:
    """Takes the events of a recording in the order of recording, and says at the end where its faults fell."""

    def __init__(self, recording: Recording, phases: pd.DataFrame) -> None:
        """`phases`: named (name_phases)."""
        buffers = recording.meta.get("buffers_reported", ())
        self._regions = Regions(recording.areas, recording.maps, recording.tensors, buffers)
        self._residency, self._numa = recording.residency, recording.numa
        looked_at = pd.concat([one[["ts_ns", "pid", "begin", "end"]] for one in (self._residency, self._numa)])
        self._tensors = TensorTable(recording.tensors)
        self._phases = _NamedPhases(phases)
        self._places = PlaceSums(self._regions, self._tensors, self._phases)
        self._places.know(known_changes(self._regions, recording.areas, recording.threads, looked_at))

    def add(self, events: ByKind) -> None:
        self._places.add(events)

    def result(self) -> FaultPlaces:
        """The tables; to be called once, after all events."""
        self._places.finish()
        sums, spaces = self._places.table(), self._places.spaces
        regions = pd.DataFrame(self._regions.known, columns=["region", "path"])
        place = sums["region"].to_numpy(np.int64)
        named = sums.assign(
            region=regions["region"].to_numpy(object)[place],
            path=regions["path"].to_numpy(object)[place],
            phase=np.array(self._phases.names, object)[sums["phase"].to_numpy(np.int64)],
        )
        in_tensors = named[named["tensor"] >= 0].copy()
        number = in_tensors["tensor"].to_numpy(np.int64)
        in_tensors["tensor"] = np.array(self._tensors.names, object)[number]
        in_tensors["type"] = np.array(self._tensors.types, object)[number]
        in_tensors["tensor_bytes"] = self._tensors.sizes[number]
        once = {
            number: n for path, read in self._places.read.items() for number, n in self._tensors.covered(path, read)
        }
        in_tensors["read_once_bytes"] = [once.get(one, 0) for one in number.tolist()]
        in_tensors["layer"] = [layer_of(name) for name in in_tensors["tensor"]]
        return FaultPlaces(
            by_region=_summed(named, ["region", "path"]),
            by_layer=_summed(in_tensors, ["path", "layer"]),
            pages=page_sizes(self._residency, spaces, self._regions),
            nodes=pages_by_node(self._numa, len(self._residency), spaces, self._regions),
            by_tensor=_summed(in_tensors, ["path", "tensor", "layer", "type", "tensor_bytes", "read_once_bytes"]),
        )


class _NamedPhases:
    """A place_sums.Phases of the phases of a recording."""

    def __init__(self, phases: pd.DataFrame) -> None:
        """`phases`: named (name_phases)."""
        unique = phases.drop_duplicates("id", keep="last").sort_values("id")
        self._ids = unique["id"].to_numpy(dtype=np.int64)
        self._pids = np.append(unique["pid"].to_numpy(dtype=np.int64), -1)
        names = [str(name) for name in unique["name"]]
        self.names: Sequence[str] = list(dict.fromkeys([*names, UNKNOWN_PHASE]))
        codes = {name: code for code, name in enumerate(self.names)}
        self._codes = np.array([codes[name] for name in [*names, UNKNOWN_PHASE]], np.int64)

    def __call__(self, ids: npt.NDArray[np.uint32]) -> tuple[Ints, Ints]:
        place = self._place(ids)
        return self._pids[place], self._codes[place]

    def _place(self, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
        """Its place in `_ids`, or behind them. Records of one phase come one after the other."""
        different, times = runs(ids)
        different = different.astype(np.int64)
        place = np.searchsorted(self._ids, different)
        known = place < len(self._ids)
        known[known] = self._ids[place[known]] == different[known]
        place = np.where(known, place, len(self._ids))
        return np.repeat(place, times)


def _summed(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row per `keys`, with the sums and what of them fell in which phase; most faults first."""
    sums = table.groupby(keys, as_index=False, dropna=False, sort=False)[SUMS].sum()
    by_phase = table.groupby([*keys, "phase"], as_index=False, dropna=False, sort=False)[SUMS].sum()
    phases: dict[tuple[Any, ...], dict[str, dict[str, int]]] = {}
    for row in by_phase.to_dict("records"):
        key = tuple(_key(row[name]) for name in keys)
        phases.setdefault(key, {})[row["phase"]] = {name: int(row[name]) for name in SUMS if row[name]}
    values = zip(*(sums[name].tolist() for name in keys), strict=True)
    of_rows = [phases.get(tuple(_key(value) for value in row), {}) for row in values]
    sums["phases"] = pd.Series(of_rows, dtype=object, index=sums.index)
    if "layer" in sums:
        sums["layer"] = sums["layer"].astype("Int64")
    order = sums.assign(all=sums["faults_minor"] + sums["faults_major"] + sums["faults_populate"])
    order = order.sort_values(["all", "populated_bytes", "read_bytes"], ascending=False, kind="stable")
    return sums.loc[order.index].reset_index(drop=True)


def _key(value: Any) -> Any:
    return None if pd.isna(value) else value

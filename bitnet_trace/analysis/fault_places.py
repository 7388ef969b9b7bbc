"""Page faults, populated and read bytes by region of memory, and in model files by tensor and layer."""

from collections import defaultdict
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.keyed_sums import KeyedSums
from bitnet_trace.analysis.numa import pages_by_node
from bitnet_trace.analysis.page_sizes import PageSizes, page_sizes
from bitnet_trace.analysis.phases import UNKNOWN as UNKNOWN_PHASE
from bitnet_trace.analysis.phases import groups
from bitnet_trace.analysis.regions import (
    MODEL,
    PAGE_SHIFT,
    Region,
    Regions,
    Spaces,
    event_changes,
    known_changes,
)
from bitnet_trace.analysis.split import as_time
from bitnet_trace.analysis.tensors import Coverage, TensorTable, layer_of
from bitnet_trace.columns import PLACE_SUMS
from bitnet_trace.recording.layout import DURATION_ONLY, EVENT_DTYPE, READ_DIRECT, FaultFlag, Kind
from bitnet_trace.recording.reader import Recording

# Records reach the recording nearly by time: what is older than this has been overtaken by nothing.
_SETTLED_NS = 100_000_000
_CALLS = (Kind.MMAP, Kind.MUNMAP, Kind.MREMAP, Kind.MREMAP_FROM, Kind.BRK, Kind.MADVISE, Kind.MLOCK)
_OTHERS = (*_CALLS, Kind.POPULATE, Kind.READ, Kind.FILE_READ)
_CHANGING = np.array([Kind.MMAP, Kind.MUNMAP, Kind.MREMAP, Kind.MREMAP_FROM, Kind.BRK, Kind.MADVISE])
_SUMS = [column.key for column in PLACE_SUMS]
_ADDRESSED = np.array([Kind.MMAP, Kind.MREMAP, Kind.MADVISE, Kind.MLOCK])
_PAGE_MASK = ~0xFFF
_NO_ADDRESS = 1
_OF_CALLS = "by execve and other calls"
_LARGEST_READ = 1 << 31  # MAX_RW_COUNT: a call returns no more
# as the records have them: whole arrays are compared
_FAILED, _MAJOR, _KERNEL = (np.uint32(flag) for flag in (FaultFlag.FAILED, FaultFlag.MAJOR, FaultFlag.KERNEL))

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
        self._spaces = Spaces(self._regions)
        self._residency, self._numa = recording.residency, recording.numa
        looked_at = pd.concat([one[["ts_ns", "pid", "begin", "end"]] for one in (self._residency, self._numa)])
        self._tensors = TensorTable(recording.tensors)
        changes = known_changes(self._regions, recording.areas, recording.threads, looked_at)
        self._known = sorted(changes, key=lambda change: change.ts_ns)
        self._known_at = 0
        unique = phases.drop_duplicates("id", keep="last").sort_values("id")
        self._phase_ids = unique["id"].to_numpy(dtype=np.int64)
        self._phase_pids = np.append(unique["pid"].to_numpy(dtype=np.int64), -1)
        names = [str(name) for name in unique["name"]]
        self._phase_names = list(dict.fromkeys([*names, UNKNOWN_PHASE]))
        codes = {name: code for code, name in enumerate(self._phase_names)}
        self._phase_codes = np.array([codes[name] for name in [*names, UNKNOWN_PHASE]], np.int64)
        # records that have not settled: faults, and all else of _OTHERS
        self._pending = np.empty(0, EVENT_DTYPE)
        self._others = np.empty(0, EVENT_DTYPE)
        self._sums = KeyedSums(tuple(_SUMS))
        self._read: dict[str, Coverage] = defaultdict(Coverage)

    def add(self, events: ByKind) -> None:
        settled_ns = np.uint64(max(events.latest_ns - _SETTLED_NS, 0))
        others = _in_order(np.concatenate([self._others, events.of(*_OTHERS)]))
        n_settled = int(np.searchsorted(others["ts_ns"], settled_ns, side="right"))
        self._others = others[n_settled:].copy()
        self._take_others(others[:n_settled], int(settled_ns))
        faults = events.of(Kind.FAULT)
        flags = np.ascontiguousarray(faults["arg0"])
        faults = faults.compress((flags < DURATION_ONLY) & ((flags & _FAILED) == 0))
        faults = np.concatenate([self._pending, faults])
        is_settled = faults["ts_ns"] <= settled_ns
        self._take_faults(faults.compress(is_settled))
        self._pending = faults.compress(~is_settled)
        self._spaces.forget_past()

    def result(self) -> FaultPlaces:
        """The tables; to be called once, after all events."""
        self._take_others(self._others, 1 << 62)
        self._take_faults(self._pending)
        sums = self._table()
        regions = pd.DataFrame(self._regions.known, columns=["region", "path"])
        place = sums["region"].to_numpy(np.int64)
        named = sums.assign(
            region=regions["region"].to_numpy(object)[place],
            path=regions["path"].to_numpy(object)[place],
            phase=np.array(self._phase_names, object)[sums["phase"].to_numpy(np.int64)],
        )
        in_tensors = named[named["tensor"] >= 0].copy()
        number = in_tensors["tensor"].to_numpy(np.int64)
        in_tensors["tensor"] = np.array(self._tensors.names, object)[number]
        in_tensors["type"] = np.array(self._tensors.types, object)[number]
        in_tensors["tensor_bytes"] = self._tensors.sizes[number]
        once = {number: n for path, read in self._read.items() for number, n in self._tensors.covered(path, read)}
        in_tensors["read_once_bytes"] = [once.get(one, 0) for one in number.tolist()]
        in_tensors["layer"] = [layer_of(name) for name in in_tensors["tensor"]]
        return FaultPlaces(
            by_region=_summed(named, ["region", "path"]),
            by_layer=_summed(in_tensors, ["path", "layer"]),
            pages=page_sizes(self._residency, self._spaces, self._regions),
            nodes=pages_by_node(self._numa, len(self._residency), self._spaces, self._regions),
            by_tensor=_summed(in_tensors, ["path", "tensor", "layer", "type", "tensor_bytes", "read_once_bytes"]),
        )

    # ---- one piece of time ----------------------------------------------------------------------------------------

    def _take_others(self, rows: Events, until_ns: int) -> None:
        """Those of `rows`, in the order of time, that change address spaces, and what else they tell."""
        pids, phases = self._processes(rows["phase"])
        self._change(rows, pids, phases, until_ns)
        populates = rows["kind"] == Kind.POPULATE
        self._populates(rows, populates, pids[populates], phases[populates])
        self._reads(rows, phases)

    def _processes(self, ids: npt.NDArray[np.uint32]) -> tuple[Ints, Ints]:
        """Process and number of the name of each phase."""
        place = self._phase_place(ids)
        return self._phase_pids[place], self._phase_codes[place]

    def _phase_place(self, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
        """Its place in `_phase_ids`, or behind them. Records of one phase come one after the other."""
        first = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])[: len(ids)])
        different = ids[first].astype(np.int64)
        place = np.searchsorted(self._phase_ids, different)
        known = place < len(self._phase_ids)
        known[known] = self._phase_ids[place[known]] == different[known]
        place = np.where(known, place, len(self._phase_ids))
        return np.repeat(place, np.diff(np.append(first, len(ids))))

    def _change(self, rows: Events, pids: Ints, phases: Ints, until_ns: int) -> None:
        """Makes the changes of the memory calls among `rows`, and what is known of the same time."""
        calls = np.isin(rows["kind"], _CHANGING, kind="table")
        names = [self._phase_names[code] for code in phases[calls].tolist()]
        changes = list(event_changes(self._regions, rows.compress(calls), pids[calls].tolist(), names))
        while self._known_at < len(self._known) and self._known[self._known_at].ts_ns <= until_ns:
            changes.append(self._known[self._known_at])
            self._known_at += 1
        changes.sort(key=itemgetter(0))
        for change in changes:
            self._spaces.apply(change)

    def _lookup(self, times_ns: Ints, pids: Ints, addresses: Ints) -> tuple[Ints, Ints]:
        """(region, shift) of each address at its time."""
        regions, shifts = np.empty(len(times_ns), np.int64), np.empty(len(times_ns), np.int64)
        for pid, rows in groups(pids):
            regions[rows], shifts[rows] = self._spaces.of(pid).lookup(times_ns[rows], addresses[rows])
        regions[regions < 0] = self._regions.unknown
        return regions, shifts

    # ---- what is added up -----------------------------------------------------------------------------------------

    def _take_faults(self, faults: Events) -> None:
        if not len(faults):
            return
        flags, addresses = np.ascontiguousarray(faults["arg0"]), faults["arg1"].astype(np.int64)
        pids, phases = self._processes(np.ascontiguousarray(faults["phase"]))
        regions, shifts = self._lookup(as_time(faults["ts_ns"]), pids, addresses)
        major = (flags & _MAJOR) != 0
        sums = {
            "faults_minor": ~major,
            "faults_major": major,
            "faults_kernel": (flags & _KERNEL) != 0,
            "fault_ns": as_time(faults["arg2"]),
            "bytes": np.full(len(faults), 1 << PAGE_SHIFT),
        }
        self._add(regions, self._tensors_at(regions, addresses - shifts), phases, sums)

    def _populates(self, rows: Events, is_populate: npt.NDArray[np.bool_], pids: Ints, phases: Ints) -> None:
        populates = rows.compress(is_populate)
        addresses = _populated_addresses(rows, is_populate)
        # what a call brings in lies in what it has mapped: after the change of the same moment
        regions, shifts = self._lookup(as_time(populates["ts_ns"]) + 1, pids, addresses)
        offsets = addresses - shifts
        regions[addresses == _NO_ADDRESS] = self._regions.number(Region(_OF_CALLS))
        both = populates["arg1"]
        counts = (both & np.uint64(0xFFFFFFFF)).astype(np.int64) + (both >> np.uint64(32)).astype(np.int64)
        self._add(regions, np.full(len(regions), -1), phases, {"faults_populate": counts})
        parts = []
        lengths = as_time(populates["arg2"])
        for region, offset, length, phase in zip(
            regions.tolist(), offsets.tolist(), lengths.tolist(), phases.tolist(), strict=True
        ):
            parts += [(region, number, phase, size) for number, size in self._parts(region, offset, length)]
        self._add_parts(parts, "populated_bytes")

    def _reads(self, rows: Events, phases: Ints) -> None:
        """Of model files: each FILE_READ stands before the READ of the same call."""
        reads = np.flatnonzero((rows["kind"] == Kind.READ) | (rows["kind"] == Kind.FILE_READ))
        of_thread = reads[np.argsort(rows["tid"][reads], kind="stable")]
        where, what = of_thread[:-1], of_thread[1:]
        paired = (
            (rows["kind"][where] == Kind.FILE_READ)
            & (rows["kind"][what] == Kind.READ)
            & (rows["tid"][where] == rows["tid"][what])
            & (rows["ts_ns"][where] == rows["ts_ns"][what])
        )
        files = self._regions.model_paths
        paired &= np.isin(rows["arg2"][where], np.array([inode for _, inode in files], np.uint64))
        parts = []
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        where, what = where[paired], what[paired]
        of_reads = zip(rows.take(where).tolist(), rows["arg1"][what].tolist(), phases[what].tolist(), strict=True)
        for (_, _, _, _, _, device, place, inode), length, phase in of_reads:
            path = files.get((device, inode))
            if path is not None and length < _LARGEST_READ:
                region = self._regions.number(Region(MODEL, path))
                offset = place & ~READ_DIRECT
                spans[path].append((offset, offset + length))
                parts += [(region, number, phase, size) for number, size in self._parts(region, offset, length)]
        self._add_parts(parts, "read_bytes")
        for path, found in spans.items():
            edges = np.array(found, np.int64)
            self._read[path].add(edges[:, 0], edges[:, 1])

    def _parts(self, region: int, offset: int, length: int) -> list[tuple[int, int]]:
        """(tensor or -1, bytes) of bytes of a region."""
        known = self._regions.known[region]
        if known.region == MODEL and known.path is not None:
            return list(self._tensors.overlaps(known.path, offset, length))
        return [(-1, length)] if length else []

    def _tensors_at(self, regions: Ints, offsets: Ints) -> Ints:
        found = np.full(len(regions), -1)
        for number in np.flatnonzero(np.bincount(regions)).tolist():
            region = self._regions.known[number]
            if region.region == MODEL and region.path is not None:
                rows = regions == number
                found[rows] = self._tensors.at(region.path, offsets[rows])
        return found

    def _add_parts(self, parts: list[tuple[int, int, int, int]], column: str) -> None:
        regions, tensors, phases, sizes = (
            np.array([part[place] for part in parts], dtype=np.int64) for place in range(4)
        )
        self._add(regions, tensors, phases, {column: sizes})

    def _add(self, regions: Ints, tensors: Ints, phases: Ints, sums: dict[str, Ints]) -> None:
        if not len(regions):
            return
        keys = (regions * (len(self._tensors) + 1) + tensors + 1) * len(self._phase_names) + phases
        self._sums.add(keys, sums)

    def _table(self) -> pd.DataFrame:
        """region, tensor (-1: none) and phase, as numbers, and all of _SUMS; by these three."""
        table = self._sums.table()
        place, phase = np.divmod(table["key"].to_numpy(), len(self._phase_names))
        region, tensor = np.divmod(place, len(self._tensors) + 1)
        return table.assign(region=region, tensor=tensor - 1, phase=phase)


def _in_order(rows: Events) -> Events:
    if (rows["ts_ns"][1:] < rows["ts_ns"][:-1]).any():
        return rows.take(np.argsort(rows["ts_ns"], kind="stable"))
    return rows


def _populated_addresses(rows: Events, populates: npt.NDArray[np.bool_]) -> Ints:
    """Where the call lay that brought pages in: its record has the same thread and time. _NO_ADDRESS: other calls."""
    if not populates.any():
        return np.empty(0, np.int64)
    calls = rows.compress(np.isin(rows["kind"], _ADDRESSED, kind="table"))
    calls = calls.compress(np.isin(calls["ts_ns"], rows["ts_ns"][populates]))
    places = {
        (tid, ts_ns): word & _PAGE_MASK if word & _PAGE_MASK else _NO_ADDRESS
        for tid, ts_ns, word in zip(calls["tid"].tolist(), calls["ts_ns"].tolist(), calls["arg1"].tolist(), strict=True)
    }
    own = zip(rows["tid"][populates].tolist(), rows["ts_ns"][populates].tolist(), strict=True)
    return np.array([places.get(key, _NO_ADDRESS) for key in own], dtype=np.uint64).astype(np.int64)


def _summed(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row per `keys`, with the sums and what of them fell in which phase; most faults first."""
    sums = table.groupby(keys, as_index=False, dropna=False, sort=False)[_SUMS].sum()
    by_phase = table.groupby([*keys, "phase"], as_index=False, dropna=False, sort=False)[_SUMS].sum()
    phases: dict[tuple[Any, ...], dict[str, dict[str, int]]] = {}
    for row in by_phase.to_dict("records"):
        key = tuple(_key(row[name]) for name in keys)
        phases.setdefault(key, {})[row["phase"]] = {name: int(row[name]) for name in _SUMS if row[name]}
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

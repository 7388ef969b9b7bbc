"""Sums of faults, populated and read bytes by region, tensor and phase: gathered batch by batch."""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind, Columns
from bitnet_trace.analysis.fold import FAILED, KERNEL, MAJOR
from bitnet_trace.analysis.keyed_sums import KeyedSums
from bitnet_trace.analysis.phases import groups
from bitnet_trace.analysis.regions import MODEL, PAGE_SHIFT, Change, Region, Regions, Spaces, event_changes
from bitnet_trace.analysis.split import as_time
from bitnet_trace.analysis.tensors import Coverage, TensorTable
from bitnet_trace.columns import PLACE_SUMS
from bitnet_trace.recording.layout import DURATION_ONLY, EVENT_DTYPE, READ_DIRECT, Kind

SUMS = [column.key for column in PLACE_SUMS]
# Records reach the recording nearly by time: what is older than this has been overtaken by nothing.
_SETTLED_NS = 100_000_000
_CALLS = (Kind.MMAP, Kind.MUNMAP, Kind.MREMAP, Kind.MREMAP_FROM, Kind.BRK, Kind.MADVISE, Kind.MLOCK)
_OTHERS = (*_CALLS, Kind.POPULATE, Kind.READ, Kind.FILE_READ)
KINDS = (Kind.FAULT, *_OTHERS)
_CHANGING = np.array([Kind.MMAP, Kind.MUNMAP, Kind.MREMAP, Kind.MREMAP_FROM, Kind.BRK, Kind.MADVISE])
_ADDRESSED = np.array([Kind.MMAP, Kind.MREMAP, Kind.MADVISE, Kind.MLOCK])
_PAGE_MASK = ~0xFFF
_NO_ADDRESS = 1
_OF_CALLS = "by execve and other calls"
_LARGEST_READ = 1 << 31  # MAX_RW_COUNT: a call returns no more
_NO_FAULTS = {name: np.empty(0, EVENT_DTYPE[name]) for name in ("ts_ns", "phase", "arg0", "arg1", "arg2")}
_PHASE_BITS, _TENSOR_BITS = 6, 28  # of a key of the sums

Events = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]


class Phases(Protocol):
    """What is to be known of phases: `names`, and of each of `ids` its process and the number of its name.

    The name None: memory that is mapped in the phase is not told apart by it.
    """

    @property
    def names(self) -> Sequence[str | None]: ...

    def __call__(self, ids: npt.NDArray[np.uint32]) -> tuple[Ints, Ints]: ...


class PlaceSums:
    """Takes events in the order of recording. `regions`, `tensors`, and what is known of changes may grow meanwhile."""

    def __init__(self, regions: Regions, tensors: TensorTable, phases: Phases) -> None:
        self.spaces = Spaces(regions)
        self.read: dict[str, Coverage] = defaultdict(Coverage)  # by path of a model
        self._regions, self._tensors, self._phases = regions, tensors, phases
        self._known: list[Change] = []  # that are still to be made, in the order of time
        # what has not settled: faults, and records of all else of _OTHERS
        self._pending = _NO_FAULTS
        self._others = np.empty(0, EVENT_DTYPE)
        self._sums = KeyedSums(tuple(SUMS))

    def know(self, changes: Iterable[Change]) -> None:
        """Changes that no event tells of (regions.known_changes): before the events of their time."""
        self._known = sorted([*self._known, *changes], key=itemgetter(0))

    def add(self, events: ByKind) -> None:
        settled_ns = np.uint64(max(events.latest_ns - _SETTLED_NS, 0))
        others = _in_order(np.concatenate([self._others, events.of(*_OTHERS)]))
        n_settled = int(np.searchsorted(others["ts_ns"], settled_ns, side="right"))
        self._others = others[n_settled:].copy()
        self._take_others(others[:n_settled], int(settled_ns))
        faults = self._handled(events.columns_of(Kind.FAULT))
        n_settled = int(np.searchsorted(faults["ts_ns"], settled_ns, side="right"))
        self._take_faults({name: values[:n_settled] for name, values in faults.items()})
        self._pending = {name: values[n_settled:].copy() for name, values in faults.items()}
        self.spaces.forget_past()

    def finish(self) -> None:
        """There are no more events."""
        self._take_others(self._others, 1 << 62)
        self._take_faults(self._pending)
        self._others, self._pending = np.empty(0, EVENT_DTYPE), _NO_FAULTS

    def _handled(self, faults: Columns) -> dict[str, npt.NDArray[Any]]:
        """Those that count, and those pending before them, in the order of time."""
        flags = faults["arg0"]
        handled = (flags < DURATION_ONLY) & ((flags & FAILED) == 0)
        faults = faults if handled.all() else faults.compress(handled)
        together = {name: np.concatenate([pending, faults[name]]) for name, pending in self._pending.items()}
        times_ns = together["ts_ns"]
        if (times_ns[1:] < times_ns[:-1]).any():
            order = np.argsort(times_ns, kind="stable")
            together = {name: values.take(order) for name, values in together.items()}
        return together

    # ---- one piece of time ----------------------------------------------------------------------------------------

    def _take_others(self, rows: Events, until_ns: int) -> None:
        """Those of `rows`, in the order of time, that change address spaces, and what else they tell."""
        pids, phases = self._phases(rows["phase"])
        self._change(rows, pids, phases, until_ns)
        populates = rows["kind"] == Kind.POPULATE
        self._populates(rows, populates, pids[populates], phases[populates])
        self._reads(rows, phases)

    def _change(self, rows: Events, pids: Ints, phases: Ints, until_ns: int) -> None:
        """Makes the changes of the memory calls among `rows`, and what is known of the same time."""
        calls = np.isin(rows["kind"], _CHANGING, kind="table")
        names = [self._phases.names[code] for code in phases[calls].tolist()]
        changes = list(event_changes(self._regions, rows.compress(calls), pids[calls].tolist(), names))
        n_known = bisect.bisect_right(self._known, until_ns, key=itemgetter(0))
        changes += self._known[:n_known]
        del self._known[:n_known]
        changes.sort(key=itemgetter(0))
        for change in changes:
            self.spaces.apply(change)

    def _lookup(self, times_ns: Ints, pids: Ints, addresses: Ints) -> tuple[Ints, Ints]:
        """(region, shift) of each address at its time."""
        regions, shifts = np.empty(len(times_ns), np.int64), np.empty(len(times_ns), np.int64)
        if len(pids) and (pids == pids[0]).all():  # nothing to put together
            regions, shifts = self.spaces.of(int(pids[0])).lookup(times_ns, addresses)
        else:
            for pid, rows in groups(pids):
                regions[rows], shifts[rows] = self.spaces.of(pid).lookup(times_ns[rows], addresses[rows])
        regions[regions < 0] = self._regions.unknown
        return regions, shifts

    # ---- what is added up -----------------------------------------------------------------------------------------

    def _take_faults(self, faults: Mapping[str, npt.NDArray[Any]]) -> None:
        addresses = faults["arg1"].astype(np.int64)
        if not len(addresses):
            return
        pids, phases = self._phases(faults["phase"])
        regions, shifts = self._lookup(as_time(faults["ts_ns"]), pids, addresses)
        major = (faults["arg0"] & MAJOR) != 0
        sums = {
            "faults_minor": ~major,
            "faults_major": major,
            "faults_kernel": (faults["arg0"] & KERNEL) != 0,
            "fault_ns": as_time(faults["arg2"]),
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
            self.read[path].add(edges[:, 0], edges[:, 1])

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
        keys = regions << (_TENSOR_BITS + _PHASE_BITS) | (tensors + 1) << _PHASE_BITS | phases
        self._sums.add(keys, sums)

    def table(self) -> pd.DataFrame:
        """region, tensor (-1: none) and phase, as numbers, and all of SUMS; by these three."""
        table = self._sums.table()
        table["bytes"] = (table["faults_minor"] + table["faults_major"]) * (1 << PAGE_SHIFT)
        keys = table["key"].to_numpy()
        tensor = (keys >> _PHASE_BITS & (1 << _TENSOR_BITS) - 1) - 1
        phase = keys & (1 << _PHASE_BITS) - 1
        return table.assign(region=keys >> (_TENSOR_BITS + _PHASE_BITS), tensor=tensor, phase=phase)


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

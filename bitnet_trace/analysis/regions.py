"""What parts of address spaces are for, and how they change: from memory calls, mapped files, forks and execs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.address_space import AddressSpace
from bitnet_trace.recording.layout import DURATION_ONLY, Kind, MemoryDetail

UNKNOWN = "unknown"
MODEL = "model"
ANONYMOUS = "anonymous"

PAGE_SHIFT = 12
_DETAIL_MASK = 0xFFF
_LARGEST_ADDRESS = 1 << 47
_LATEST_NS = 1 << 62
_MREMAP, _MREMAP_FROM, _MUNMAP = int(Kind.MREMAP), int(Kind.MREMAP_FROM), int(Kind.MUNMAP)
_MMAP, _BRK, _MADVISE = int(Kind.MMAP), int(Kind.BRK), int(Kind.MADVISE)
_STACK_BYTES = 8 << 20  # it grows downwards, up to this by default
_ARENA_BYTES = 128 << 20  # glibc's malloc reserves this for the heap of a thread (HEAP_MAX_SIZE, twice)
# An engine's buffer is a mapping of its own from the size on at which malloc makes one, and is told by its size:
# printed to a hundredth of a MiB (5,243 bytes up or down), mapped with malloc's head and alignment, in whole pages.
_LEAST_BUFFER, _BUFFER_HEAD, _BUFFER_ROUNDING = 1 << 18, 2200, 5243 + 2200
_MOST_CALLS = 10_000  # different ones whose region is remembered
_LIBRARY = re.compile(r"\.so(?:\.[0-9.]+)?$")
_OF_LIBRARIES = ("code", "library data")
_KERNELS_OWN = re.compile(r"\[(?:vdso|vvar|vvar_vclock|vsyscall|uprobes)\]")
# plain numbers: there are many calls
_ACCESS = int(MemoryDetail.READ | MemoryDetail.WRITE | MemoryDetail.EXEC)
_HUGETLB, _STACK, _SHARED = int(MemoryDetail.HUGETLB), int(MemoryDetail.STACK), int(MemoryDetail.SHARED)
_EXEC, _FAILED = int(MemoryDetail.EXEC), int(MemoryDetail.FAILED)
_ANONYMOUS, _FIXED = int(MemoryDetail.ANONYMOUS), int(MemoryDetail.FIXED)

Events = npt.NDArray[np.void]
FileKey = tuple[int, int]


class Region(NamedTuple):
    """`region` says what it is for, `path` which file it is of."""

    region: str
    path: str | None = None


class Change(NamedTuple):
    """At `ts_ns` the address space of a process changed; `arguments` are of the method `how` of Spaces."""

    ts_ns: int
    pid: int
    how: str
    arguments: tuple[int, ...]


class Regions:
    """Numbers of regions, and which region a mapping is."""

    def __init__(self, areas: pd.DataFrame, maps: pd.DataFrame, tensors: pd.DataFrame, buffers: Any = ()) -> None:
        """`areas`, `maps`, `tensors`: tables of the recording; `buffers`: [what for, bytes] that the engine printed."""
        self._buffers = [
            (str(what), size)
            for what, size in (pair for pair in buffers if isinstance(pair, list) and len(pair) == 2)
            if isinstance(size, int) and size >= _LEAST_BUFFER
        ]
        self.known: list[Region] = []
        self._of_calls: dict[tuple[int, int, str | None], int] = {}  # what `anonymous` has said before
        self._numbers: dict[Region, int] = {}
        self.unknown = self.number(Region(UNKNOWN))
        self.model_paths: dict[FileKey, str] = {}
        self._libraries: set[FileKey] = set()
        self._mapped: dict[tuple[int, int], tuple[int, FileKey, str | None]] = {}
        self.learn_models(tensors)
        self.learn_libraries(areas)
        self.learn_maps(maps)

    def learn_models(self, tensors: pd.DataFrame) -> None:
        """More rows of Recording.tensors."""
        for device, inode, path in _rows(tensors.drop_duplicates(["device", "inode"]), "device", "inode", "path"):
            self.model_paths[device, inode] = path

    def learn_libraries(self, areas: pd.DataFrame) -> None:
        """More rows of Recording.areas."""
        executable = areas[(areas["protection"].to_numpy(np.int64) & _EXEC) != 0]
        self._libraries |= {(device, inode) for device, inode in _rows(executable, "device", "inode") if inode}

    def learn_maps(self, maps: pd.DataFrame) -> None:
        """More rows of Recording.maps."""
        for pid, ts_ns, offset, device, inode, path in _rows(maps, "pid", "ts_ns", "offset", "device", "inode", "path"):
            self._mapped[pid, ts_ns] = offset, (device, inode), path

    def forget_mapped(self, n: int) -> None:
        """Keeps the newest `n` of what mmap calls were told to map."""
        for key in list(self._mapped)[: max(len(self._mapped) - n, 0)]:
            del self._mapped[key]

    def number(self, region: Region) -> int:
        found = self._numbers.get(region)
        if found is None:
            found = self._numbers[region] = len(self.known)
            self.known.append(region)
        return found

    def of_file(self, key: FileKey, path: str | None, protection: int) -> int:
        if key in self.model_paths:
            return self.number(Region(MODEL, self.model_paths[key]))
        if path is not None and path.endswith(".gguf"):
            return self.number(Region(MODEL, path))
        if key in self._libraries or protection & _EXEC or _LIBRARY.search(path or ""):
            return self.number(Region("code" if protection & _EXEC else "library data", path))
        return self.number(Region("file", path))

    def mapped_file(self, pid: int, begin_ns: int) -> tuple[int, FileKey, str | None] | None:
        """(offset, file, path) of the file that the mmap call of that begin was told to map."""
        return self._mapped.get((pid, begin_ns))

    def anonymous(self, detail: int, length: int, phase: str | None) -> int:
        """Memory of no file, mapped by a call in a phase of that name; None: whatever the phase."""
        key = detail, length, phase
        found = self._of_calls.get(key)
        if found is None:
            if len(self._of_calls) >= _MOST_CALLS:
                self._of_calls.clear()
            found = self._of_calls[key] = self.number(self._anonymous(*key))
        return found

    def _anonymous(self, detail: int, length: int, phase: str | None) -> Region:
        if detail & _HUGETLB:
            return Region("hugetlb memory")
        if detail & _STACK:
            return Region("thread stack")
        if detail & _SHARED:
            return Region("shared memory")
        if length == _ARENA_BYTES and not detail & _ACCESS:
            return Region("heap of a thread")
        far, what = min(
            ((abs(length - size - _BUFFER_HEAD), what) for what, size in self._buffers), default=(length, "")
        )
        if far <= _BUFFER_ROUNDING:
            return Region(what)
        return Region(ANONYMOUS if phase is None else f"{ANONYMOUS}, mapped in {phase}")


class Spaces:
    """The address spaces of all processes at one moment; each method is a kind of change."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._spaces: dict[int, AddressSpace] = {}
        # (row of Recording.residency, region, bytes), and (region, advice, bytes) of madvise
        self.resident: list[tuple[int, int, int]] = []
        self.advised: list[tuple[int, int, int]] = []
        self._breaks: dict[int, int] = {}  # where the heap of a process begins

    def of(self, pid: int) -> AddressSpace:
        space = self._spaces.get(pid)
        if space is None:
            space = self._spaces[pid] = AddressSpace()
        return space

    def apply(self, change: Change) -> None:
        ts_ns, pid, how, arguments = change
        space = self.of(pid)
        if space.now_ns < ts_ns:
            space.now_ns = ts_ns if ts_ns < _LATEST_NS else _LATEST_NS
        getattr(self, how)(pid, *arguments)

    def forget(self, pid: int) -> None:
        """That process is over."""
        self._spaces.pop(pid, None)
        self._breaks.pop(pid, None)

    def forget_past(self) -> None:
        """No time before now will be looked up."""
        for space in self._spaces.values():
            space.forget_past()

    def fork(self, pid: int, parent: int) -> None:
        self.of(pid).take_over(self.of(parent))
        if parent in self._breaks:
            self._breaks[pid] = self._breaks[parent]

    def clear(self, pid: int) -> None:
        self.of(pid).clear()
        self._breaks.pop(pid, None)

    def fill(self, pid: int, begin: int, end: int, region: int, shift: int) -> None:
        self.of(pid).fill(begin, end, region, shift)

    def heap(self, pid: int, begin: int, end: int) -> None:
        self._breaks[pid] = begin
        self.of(pid).put(begin, end, self._regions.number(Region("heap")))

    def put(self, pid: int, begin: int, end: int, region: int, shift: int) -> None:
        self.of(pid).put(begin, end, region, shift)

    def put_over(self, pid: int, begin: int, end: int, region: int) -> None:
        """Anonymous memory at a fixed place: over a library it is that library's (.bss)."""
        space = self.of(pid)
        before, _ = space.at(begin)
        if before >= 0 and self._regions.known[before].region in _OF_LIBRARIES:
            region = self._regions.number(Region("library data", self._regions.known[before].path))
        space.put(begin, end, region)

    def remove(self, pid: int, begin: int, end: int) -> None:
        self.of(pid).remove(begin, end)

    def move(self, pid: int, begin: int, end: int, to: int, to_end: int) -> None:
        self.of(pid).move(begin, end, to, to_end)

    def note_resident(self, pid: int, row: int, begin: int, end: int) -> None:
        """No change: what was resident then, by region."""
        for region, size in self.of(pid).parts(begin, end):
            self.resident.append((row, region if region >= 0 else self._regions.unknown, size))

    def note_advice(self, pid: int, advice: int, begin: int, end: int) -> None:
        """No change: what madvise was told about, by region."""
        for region, size in self.of(pid).parts(begin, end):
            if region >= 0:
                self.advised.append((region, advice, size))

    def set_break(self, pid: int, address: int) -> None:
        """The first tells where the heap begins."""
        begin = self._breaks.setdefault(pid, address)
        space = self.of(pid)
        if address > begin:
            space.put(begin, address, self._regions.number(Region("heap")))


def known_changes(
    regions: Regions, areas: pd.DataFrame, threads: pd.DataFrame, residency: pd.DataFrame
) -> list[Change]:
    """Changes that are in tables of their own: forks, execs, what processes held and had resident at some moments."""
    rows = zip(*(residency[name].tolist() for name in ("ts_ns", "pid", "begin", "end")), strict=True)
    changes = [
        Change(ts_ns, pid, "note_resident", (row, begin, end))
        for row, (ts_ns, pid, begin, end) in enumerate(rows)
        if begin < end <= _LARGEST_ADDRESS
    ]
    changes += fork_changes(threads, dict(_rows(threads, "tid", "pid")))
    return changes + area_changes(regions, areas)


def fork_changes(threads: pd.DataFrame, process_of: Mapping[int, int]) -> list[Change]:
    """Of rows of schema.THREAD_SCHEMA; `process_of` threads."""
    forks = threads[(threads["tid"] == threads["pid"]) & threads["parent_tid"].notna() & threads["start_ns"].notna()]
    return [
        Change(start_ns, pid, "fork", (process_of.get(parent, parent),))
        for pid, parent, start_ns in _rows(forks, "pid", "parent_tid", "start_ns")
    ]


def area_changes(regions: Regions, areas: pd.DataFrame) -> list[Change]:
    """Of rows of schema.AREA_SCHEMA."""
    changes = []
    before = (0, 0, regions.unknown)  # process, end, region of the area before
    columns = ("pid", "ts_ns", "moment", "begin", "end", "offset", "device", "inode", "protection", "path")
    for pid, ts_ns, moment, begin, end, offset, device, inode, protection, path in _rows(areas, *columns):
        if moment == "exec":
            changes.append(Change(ts_ns, pid, "clear", ()))
            continue
        if end > _LARGEST_ADDRESS:
            continue
        shift = 0
        if inode:
            region, shift = regions.of_file((device, inode), path, protection), begin - offset
        elif path == "[heap]":
            changes.append(Change(ts_ns, pid, "heap", (begin, end)))
            continue
        elif path == "[stack]":
            begin, region = max(end - _STACK_BYTES, 0), regions.number(Region("stack"))
        elif path is not None and _KERNELS_OWN.fullmatch(path):
            region = regions.number(Region("of the kernel", path))
        elif (
            path is None and before[:2] == (pid, begin) and regions.known[before[2]].region in ("code", "library data")
        ):
            region = regions.number(Region("library data", regions.known[before[2]].path))
        else:
            region = regions.number(Region(ANONYMOUS, path))
        before = (pid, end, region)
        changes.append(Change(ts_ns, pid, "fill", (begin, end, region, shift)))
    return changes


def event_changes(regions: Regions, calls: Events, pids: list[int], phases: Sequence[str | None]) -> Iterator[Change]:
    """The changes that memory calls of an EVENT_DTYPE array make, given with their processes and phases' names.

    Unmapping takes effect at the begin of its call, or another thread could have been given the same place before its
    end; all else at the end.
    """
    moved_from: dict[int, tuple[int, int]] = {}
    for (ts_ns, tid, _, kind, _, pages, word, duration), pid, phase in zip(calls.tolist(), pids, phases, strict=True):
        detail, begin = word & _DETAIL_MASK, word & ~_DETAIL_MASK
        end = begin + (pages << PAGE_SHIFT)
        if detail & _FAILED or pages >= DURATION_ONLY or end > _LARGEST_ADDRESS:
            continue
        if kind == _MREMAP_FROM:
            moved_from[tid] = begin, end
        elif kind == _MREMAP:
            if tid in moved_from:
                yield Change(ts_ns, pid, "move", (*moved_from.pop(tid), begin, end))
        elif kind == _MUNMAP:
            yield Change(ts_ns - duration, pid, "remove", (begin, end))
        elif kind == _MADVISE:
            yield Change(ts_ns, pid, "note_advice", (detail, begin, end))
        elif kind == _BRK:
            yield Change(ts_ns, pid, "set_break", (begin,))
        elif kind == _MMAP and detail & _ANONYMOUS:
            region = regions.anonymous(detail, end - begin, phase)
            how = "put_over" if detail & _FIXED else "put"
            yield Change(ts_ns, pid, how, (begin, end, region) if how == "put_over" else (begin, end, region, 0))
        elif kind == _MMAP:
            mapped = regions.mapped_file(pid, ts_ns - duration)
            if mapped is None:
                yield Change(ts_ns, pid, "put", (begin, end, regions.number(Region("file")), 0))
            else:
                offset, key, path = mapped
                yield Change(ts_ns, pid, "put", (begin, end, regions.of_file(key, path, detail), begin - offset))


def _rows(table: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Values of those columns, None for what is missing."""
    lists = [[None if pd.isna(value) else value for value in table[column].tolist()] for column in columns]
    return zip(*lists, strict=True)

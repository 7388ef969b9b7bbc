"""Which pages of a process are resident, and how large: PAGEMAP_SCAN (since Linux 6.7), else smaps.

Root is needed for the sizes of folios only. Sources: Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/fs.h.
"""

import ctypes
import fcntl
import itertools
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_trace.capture.mappings import MappedFile, areas

Row = dict[str, Any]

PAGE = 4096
HUGE = 2 << 20  # what one entry of the second level of page tables maps, on x86-64

_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_FILE, _PRESENT, _ZERO, _HUGE = 4, 8, 32, 64  # PAGE_IS_...
_REGIONS = 8192
_LARGEST_ADDRESS = (1 << 47) - PAGE  # more is refused as no address
_PFN_MASK = (1 << 55) - 1
_HEAD, _TAIL = 1 << 15, 1 << 16  # KPF_COMPOUND_...
_BLOCK = HUGE // PAGE


class Run(NamedTuple):
    """[begin, end) is resident in pages of `page_bytes`, of a file or anonymous."""

    begin: int
    end: int
    page_bytes: int
    is_file: bool


def resident_rows(pid: int, moment: str, folios: bool) -> list[Row]:
    """Rows of schema.RESIDENCY_SCHEMA of a process as it is now; none when it is gone.

    `folios`: look up the folio behind each page, so that sizes between 4 KiB and 2 MiB are told apart: some ms for each
    100 MB; without it those pages count as 4 KiB.
    """
    now_ns = time.monotonic_ns()
    try:
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
            found = list(_runs(pid, _scan(pagemap.fileno())))
            if folios:
                found = [part for run in found for part in _by_folio(pagemap.fileno(), run)]
    except FileNotFoundError:
        return []
    except OSError:  # ENOTTY: an older kernel
        found = list(_from_smaps(pid))
    return [
        {
            "pid": pid,
            "ts_ns": now_ns,
            "moment": moment,
            "begin": run.begin,
            "end": run.end,
            "page_bytes": run.page_bytes,
            "file": run.is_file,
        }
        for run in found
    ]


def huge_pages_allowed(pid: int) -> Row | None:
    """What was asked for all of a process: {"thp_enabled": False where prctl forbids them, "glibc_tunables": text}."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    allowed = re.search(r"^THP_enabled:\s*(\d)", status, re.MULTILINE)
    tunables = re.search(rb"(?:^|\0)GLIBC_TUNABLES=([^\0]*)", environment)
    return {
        "thp_enabled": None if allowed is None else allowed[1] == "1",
        "glibc_tunables": None if tunables is None else os.fsdecode(tunables[1])[:1000],
    }


def _scan(pagemap: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, categories) of all that is present, the zero pages left out."""
    vector = (ctypes.c_uint64 * (3 * _REGIONS))()
    start = 0
    while start < _LARGEST_ADDRESS:
        wanted = 0, _PRESENT, 0, _FILE | _HUGE | _ZERO
        walk = 96, 0, start, _LARGEST_ADDRESS, 0
        request = bytearray(struct.pack("<12Q", *walk, ctypes.addressof(vector), _REGIONS, 0, *wanted))
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, request)
        start = struct.unpack_from("<Q", request, 32)[0] if count == _REGIONS else _LARGEST_ADDRESS
        for number in range(count):
            begin, end, categories = vector[3 * number : 3 * number + 3]
            if not categories & _ZERO:
                yield begin, end, categories


def _runs(pid: int, scanned: Iterator[tuple[int, int, int]]) -> Iterator[Run]:
    """Cut at the edges of areas whose pages have a size of their own (hugetlbfs)."""
    pools = [(area.begin, area.end, size) for area, size in _pools(pid)]
    for begin, end, categories in scanned:
        page_bytes = HUGE if categories & _HUGE else PAGE
        for pool_begin, pool_end, size in pools:
            if begin < pool_end and pool_begin < end:
                page_bytes = size
        yield Run(begin, end, page_bytes, bool(categories & _FILE))


def _pools(pid: int) -> Iterator[tuple[MappedFile, int]]:
    """Areas of hugetlbfs with their page size."""
    held = {(area.begin, area.end): area for area in areas(pid)}
    places = ("/anon_hugepage", *_hugetlb_mounts(pid))
    if not any(area.path.startswith(places) for area in held.values()):
        return
    for begin, end, fields, flags in _smaps(pid):
        if "ht" in flags and (begin, end) in held:
            yield held[begin, end], fields["KernelPageSize"]


def _hugetlb_mounts(pid: int) -> list[str]:
    lines = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
    return [fields[1] for fields in lines if len(fields) > 2 and fields[2] == "hugetlbfs"]


def _from_smaps(pid: int) -> Iterator[Run]:
    """As well as smaps can tell: sizes and not places within an area, so they stand at its begin."""
    for begin, _, fields, flags in _smaps(pid):
        if "ht" in flags:
            size = fields.get("Private_Hugetlb", 0) + fields.get("Shared_Hugetlb", 0)
            if size:
                yield Run(begin, begin + size, fields["KernelPageSize"], True)
            continue
        of_file = fields.get("FilePmdMapped", 0) + fields.get("ShmemPmdMapped", 0)
        anonymous = fields.get("AnonHugePages", 0)
        small = fields.get("Rss", 0) - of_file - anonymous
        at = begin
        for size, page_bytes, is_file in (
            (anonymous, HUGE, False),
            (of_file, HUGE, True),
            (min(fields.get("Anonymous", 0) - anonymous, small), PAGE, False),
            (small - max(fields.get("Anonymous", 0) - anonymous, 0), PAGE, True),
        ):
            if size > 0:
                yield Run(at, at + size, page_bytes, is_file)
                at += size


def _smaps(pid: int) -> Iterator[tuple[int, int, dict[str, int], list[str]]]:
    """(begin, end, bytes by name, VmFlags) of each area."""
    begin = end = 0
    fields: dict[str, int] = {}
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            name, _, rest = line.partition(b":")
            words = rest.split()
            if name == b"VmFlags":
                yield begin, end, fields, [word.decode() for word in words]
            elif len(words) == 2 and words[1] == b"kB":
                fields[name.decode()] = int(words[0]) << 10
            elif b"-" in name:
                edges = name.split(b" ", 1)[0].split(b"-")
                begin, end, fields = int(edges[0], 16), int(edges[1], 16), {}


def _by_folio(pagemap: int, run: Run) -> Iterator[Run]:
    """Parts of a run of 4 KiB entries by the size of the folio that each page is of."""
    if run.page_bytes != PAGE:
        yield run
        return
    count = (run.end - run.begin) // PAGE
    entries = np.frombuffer(os.pread(pagemap, 8 * count, run.begin // PAGE * 8), "<u8")
    sizes = _folio_sizes((entries & np.uint64(_PFN_MASK)).astype(np.int64))
    if not len(sizes):
        return
    edges = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(sizes)]
    for first, last in itertools.pairwise(edges):
        yield Run(run.begin + first * PAGE, run.begin + last * PAGE, int(sizes[first]), run.is_file)


def _folio_sizes(frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bytes of the folio of each page frame; 4 KiB where the kernel does not tell frames or flags."""
    sizes = np.full(len(frames), PAGE)
    try:
        flags = os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return sizes
    try:
        for block in np.unique(frames[frames > 0] // _BLOCK).tolist():
            found = np.frombuffer(os.pread(flags, 8 * _BLOCK, 8 * _BLOCK * block), "<u8")
            tail = (found & np.uint64(_TAIL)) != 0
            starts = np.flatnonzero(~tail)
            if not len(starts):  # within one that is larger than a block
                starts = np.array([0])
            lengths = np.diff(np.append(starts, len(found)))
            of_page = np.repeat(lengths, lengths)
            own = frames // _BLOCK == block
            place = frames[own] - block * _BLOCK - starts[0]
            sizes[own] = PAGE * of_page[np.clip(place, 0, len(of_page) - 1)]
    finally:
        os.close(flags)
    return sizes


class ResidencyLog:
    """Looks at processes at the moments that matter, and keeps what it saw until it is taken."""

    def __init__(
        self,
        detailed: bool,
        look: Callable[[int, str, bool], list[Row]] = resident_rows,
        look_at_nodes: Callable[[int, str], list[Row]] | None = None,
    ) -> None:
        """`detailed`: folio sizes too; `look_at_nodes` where there are several NUMA nodes."""
        self._look_at_nodes = look_at_nodes
        self._node_rows: list[Row] = []
        self._detailed, self._look = detailed, look
        self._seen: set[tuple[int, str]] = set()
        self._rows: list[Row] = []
        self.asked: dict[int, Row] = {}
        self.cost_ns = 0

    def ended(self, phases: Iterable[tuple[int, str]]) -> None:
        """Calls of those (process, role) have ended: looks after the first load and the first decode call of each."""
        wanted: dict[int, str] = {}
        for pid, role in phases:
            moment = {"load": "after load", "decode": "decode"}.get(role)
            if moment is not None and (pid, moment) not in self._seen:
                self._seen.add((pid, moment))
                wanted[pid] = moment  # of both at once only the later is true
        for pid, moment in wanted.items():
            self.at(pid, moment)

    def at(self, pid: int, moment: str) -> None:
        begin_ns = time.thread_time_ns()
        self._rows += self._look(pid, moment, self._detailed)
        if self._look_at_nodes:
            self._node_rows += self._look_at_nodes(pid, moment)
        asked = huge_pages_allowed(pid)
        if asked is not None:
            self.asked[pid] = asked
        self.cost_ns += time.thread_time_ns() - begin_ns

    def take_nodes(self) -> list[Row]:
        rows, self._node_rows = self._node_rows, []
        return rows

    def take(self) -> list[Row]:
        rows, self._rows = self._rows, []
        return rows

"""The ways to get a file into memory. Each ends when every byte can be used without waiting for a disk.

A way is a function of a Task; it counts the system calls that it makes for the data. What cannot be done here raises
OSError, or ImpossibleError with the reason.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from bitnet_trace.loadlab.ring import Ring

PAGE = 4096
HUGE = 2 << 20
_MAP_HUGETLB = 0x40000
_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 1 << 20  # the most that a user may ask for by default (fs.pipe-max-size)

Bytes = npt.NDArray[np.uint8]


class ImpossibleError(Exception):
    """This way does not exist here; the message says why."""


@dataclass
class Task:
    """Load the file at `path`; `block_bytes` is how much one call asks for (a multiple of 4 KiB).

    `calls` counts system calls, `submitted` requests of io_uring.
    """

    path: str
    size_bytes: int
    block_bytes: int
    calls: int = 0
    submitted: int = 0

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(begin, length) of each block."""
        for begin in range(0, self.size_bytes, self.block_bytes):
            yield begin, min(self.block_bytes, self.size_bytes - begin)


@contextlib.contextmanager
def _opened(task: Task, flags: int = 0) -> Iterator[int]:
    task.calls += 1
    descriptor = os.open(task.path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _room(task: Task) -> memoryview:
    """Fresh memory for the file, whole pages, as malloc would give it."""
    task.calls += 1
    return memoryview(mmap.mmap(-1, -(-task.size_bytes // PAGE) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _touch(memory: Bytes) -> None:
    """One byte of each page, in order: it is there, or faulted in now."""
    memory[::PAGE].sum(dtype=np.uint64)


# ---- mapped ---------------------------------------------------------------------------------------------------------


def mapped(task: Task, flags: int = 0, advice: int | None = None) -> Bytes:
    with _opened(task) as file:
        task.calls += 1
        area = mmap.mmap(file, task.size_bytes, flags=mmap.MAP_PRIVATE | flags, prot=mmap.PROT_READ)
    if advice is not None:
        task.calls += 1
        area.madvise(advice)
    memory = np.frombuffer(area, np.uint8)
    _touch(memory)
    return memory


def copied_to_huge_pages(task: Task) -> Bytes:
    """Anonymous memory, aligned and MADV_HUGEPAGE, filled from a mapping that is read once."""
    room = mmap.mmap(-1, task.size_bytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE)
    task.calls += 2
    whole = np.frombuffer(room, np.uint8)
    skipped = -whole.ctypes.data % HUGE
    return _copied(task, whole[skipped : skipped + task.size_bytes])


def copied_to_hugetlb(task: Task) -> Bytes:
    """Pages of hugetlbfs' pool of 2 MiB pages."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB
    wanted = -(-task.size_bytes // HUGE)
    try:
        room = mmap.mmap(-1, wanted * HUGE, flags=flags)
    except OSError as error:
        raise ImpossibleError(f"{wanted} pages of 2 MiB are not free (vm.nr_hugepages): {error.strerror}") from None
    task.calls += 1
    return _copied(task, np.frombuffer(room, np.uint8)[: task.size_bytes])


def _copied(task: Task, target: Bytes) -> Bytes:
    with _opened(task) as file, mmap.mmap(file, task.size_bytes, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as area:
        area.madvise(mmap.MADV_SEQUENTIAL)
        task.calls += 2
        source = np.frombuffer(area, np.uint8)
        # by blocks: a C library copies what is large from several places at once, which no read-ahead follows
        for begin, length in task.blocks():
            np.copyto(target[begin : begin + length], source[begin : begin + length])
        del source  # or the mapping cannot be closed
    return target


# ---- read -----------------------------------------------------------------------------------------------------------


def read(task: Task, flags: int = 0) -> Bytes:
    """read(2), a block at a time."""
    room = _room(task)
    with _opened(task, flags) as file:
        at = 0
        while at < task.size_bytes:
            task.calls += 1
            # past the page cache whole blocks have to be asked for, also at the end
            n = os.readv(file, [room[at : at + task.block_bytes]])
            if not n:
                raise OSError(0, "the file became shorter")
            at += n
    return np.frombuffer(room, np.uint8)[: task.size_bytes]


def preadv(task: Task, pieces: int = 4) -> Bytes:
    """preadv(2), a block at a time, into several places."""
    room = _room(task)
    with _opened(task) as file:
        for begin, length in task.blocks():
            piece = -(-length // pieces)
            parts = [room[begin + at : begin + min(at + piece, length)] for at in range(0, length, piece)]
            task.calls += 1
            if os.preadv(file, parts, begin) != length:
                raise OSError(0, "a short read")
    return np.frombuffer(room, np.uint8)[: task.size_bytes]


def spliced(task: Task) -> Bytes:
    """splice(2) into a pipe, which takes the page cache's own pages; from there into memory only a copy goes."""
    room = _room(task)
    source, sink = os.pipe()
    try:
        fcntl.fcntl(sink, _F_SETPIPE_SZ, _PIPE_BYTES)
        with _opened(task) as file:
            at = 0
            while at < task.size_bytes:
                moved = os.splice(file, sink, _PIPE_BYTES)
                task.calls += 1
                if not moved:
                    raise OSError(0, "the file became shorter")
                until = at + moved
                while at < until:
                    task.calls += 1
                    at += os.readv(source, [room[at:until]])
    finally:
        os.close(source)
        os.close(sink)
    return np.frombuffer(room, np.uint8)[: task.size_bytes]


# ---- io_uring -------------------------------------------------------------------------------------------------------


def io_uring(task: Task, depth: int, flags: int = 0, registered: bool = False) -> Bytes:
    """Blocks that are read by io_uring, up to `depth` at a time."""
    room = _room(task)
    task.calls += 1
    with contextlib.closing(Ring(depth)) as ring, _opened(task, flags) as file:
        if registered:
            task.calls += 1
            ring.register([room[at : at + _REGISTERED] for at in range(0, len(room), _REGISTERED)])
        begins = [begin for begin, _ in task.blocks()]
        waiting, under_way = list(range(len(begins)))[::-1], 0
        while waiting or under_way:
            while waiting and under_way < depth:
                number = waiting.pop()
                begin = begins[number]
                memory = room[begin : begin + task.block_bytes]
                ring.read(file, memory, begin, number, begin // _REGISTERED if registered else None)
                under_way += 1
                task.submitted += 1
            task.calls += 1
            for number, result in ring.wait():
                under_way -= 1
                if result < 0:
                    raise OSError(-result, os.strerror(-result))
                if result < min(task.block_bytes, task.size_bytes - begins[number]):
                    raise OSError(0, "a short read")
    return np.frombuffer(room, np.uint8)[: task.size_bytes]


_REGISTERED = 1 << 29  # one registered buffer is at most 1 GiB; a multiple of every block size

DIRECT = os.O_DIRECT
WAYS: dict[str, Callable[[Task], Bytes]] = {
    "mmap": mapped,
    "mmap, MAP_POPULATE": partial(mapped, flags=mmap.MAP_POPULATE),
    "mmap, MADV_SEQUENTIAL": partial(mapped, advice=mmap.MADV_SEQUENTIAL),
    "mmap, MADV_WILLNEED": partial(mapped, advice=mmap.MADV_WILLNEED),
    "copy to MADV_HUGEPAGE": copied_to_huge_pages,
    "copy to hugetlbfs": copied_to_hugetlb,
    "read": read,
    "preadv": preadv,
    "read, O_DIRECT": partial(read, flags=DIRECT),
    "splice and read": spliced,
    "io_uring, depth 8": partial(io_uring, depth=8),
    "io_uring, O_DIRECT, depth 1": partial(io_uring, depth=1, flags=DIRECT),
    "io_uring, O_DIRECT, depth 8": partial(io_uring, depth=8, flags=DIRECT),
    "io_uring, O_DIRECT, depth 32": partial(io_uring, depth=32, flags=DIRECT),
    "io_uring, O_DIRECT, depth 8, registered": partial(io_uring, depth=8, flags=DIRECT, registered=True),
}

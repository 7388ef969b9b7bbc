"""One trial: the file is made cold or warm, and loaded once by a process of its own."""

import ctypes
import json
import mmap
import os
import random
import resource
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from bitnet_trace.driver import fork
from bitnet_trace.errors import TraceError
from bitnet_trace.loadlab.ways import PAGE, WAYS, ImpossibleError, Task

COLD, WARM = "cold", "warm"
_DEADLINE_S = 600


@dataclass(frozen=True)
class Trial:
    """What came of one; times in ns. `reason`: why it could not be done, all else is None then.

    `cached_pct`: how much of the file was in the page cache before; None where the kernel does not tell. `checksum`:
    CRC-32 of what was loaded, of those trials that were asked for it. `calls`: system calls for the data, as made.
    """

    way: str
    state: str
    seconds_ns: int | None = None
    cpu_ns: int | None = None
    faults_minor: int | None = None
    faults_major: int | None = None
    switches: int | None = None
    calls: int | None = None
    submitted: int | None = None
    cached_pct: float | None = None
    checksum: int | None = None
    reason: str | None = None


def plan(ways: Iterable[str], states: Iterable[str], repeats: int, seed: int) -> list[tuple[str, str, bool]]:
    """(way, state, with checksum) of each trial: every repeat has all of them once, in an order of its own."""
    generator = random.Random(seed)
    chosen = [(way, state) for way in ways for state in states]
    trials = []
    for repeat in range(repeats):
        order = list(chosen)
        generator.shuffle(order)
        trials += [(way, state, repeat == 0) for way, state in order]
    return trials


def run(task: Task, trials: Iterable[tuple[str, str, bool]], become_user: Callable[[], None]) -> Iterator[Trial]:
    """Does the trials of `plan` one after the other; `become_user` is called in each one's process before it begins.

    In a child: its memory is gone afterwards, and its counts are of this trial alone.
    """
    for way, state, with_checksum in trials:
        reader, writer = os.pipe()
        pid = fork()
        if pid == 0:
            try:
                signal.alarm(_DEADLINE_S)
                become_user()
                os.write(writer, json.dumps(asdict(_attempt(way, state, task, with_checksum))).encode())
            finally:
                os._exit(0)
        os.close(writer)
        yield _result(way, state, pid, reader)


def _result(way: str, state: str, pid: int, reader: int) -> Trial:
    try:
        with open(reader, "rb") as answer:
            data = answer.read()
    except BaseException:  # interrupted: a cold read of a large model takes minutes
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    if not data:
        how = f"died of signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended without a result"
        return Trial(way, state, reason=f"its process {how}")
    return Trial(**json.loads(data))


def _attempt(way: str, state: str, task: Task, with_checksum: bool) -> Trial:
    try:
        return _trial(way, state, task, with_checksum)
    except (ImpossibleError, OSError, MemoryError, ValueError) as error:
        return Trial(way, state, reason=getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _trial(way: str, state: str, task: Task, with_checksum: bool) -> Trial:
    set_page_cache(task.path, state)
    cached_pct = cached(task.path, task.size_bytes)
    before = resource.getrusage(resource.RUSAGE_SELF)
    begin_ns = time.monotonic_ns()
    memory = WAYS[way](task)
    seconds_ns = time.monotonic_ns() - begin_ns
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Trial(
        way,
        state,
        seconds_ns=seconds_ns,
        cpu_ns=round((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e9),
        faults_minor=after.ru_minflt - before.ru_minflt,
        faults_major=after.ru_majflt - before.ru_majflt,
        switches=after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw,
        calls=task.calls,
        submitted=task.submitted,
        cached_pct=cached_pct,
        checksum=zlib.crc32(memory.data) if with_checksum else None,
    )


def set_page_cache(path: str, state: str) -> None:
    """This file only is taken out of the page cache (COLD), or brought into it (WARM)."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if state == COLD:
            os.fsync(file)  # pages that are to be written cannot be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            room = memoryview(bytearray(8 << 20))
            while os.readv(file, [room]):
                pass
    finally:
        os.close(file)


def cached(path: str, size_bytes: int) -> float | None:
    """Percent of the file's pages that are in the page cache (mincore(2), which tells owners and writers only)."""
    if not os.access(path, os.W_OK) and os.stat(path).st_uid != os.geteuid():
        return None
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with mmap.mmap(file, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as area:
            view = np.frombuffer(area, np.uint8)
            found = np.zeros(-(-size_bytes // PAGE), np.uint8)
            libc = ctypes.CDLL(None, use_errno=True)
            done = libc.mincore(
                ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size_bytes), ctypes.c_void_p(found.ctypes.data)
            )
            del view
            return None if done else float(100 * (found & 1).mean())
    finally:
        os.close(file)


def model_size(path: str) -> int:
    """Bytes of the file. Raises TraceError for what is no file, is empty, or may not be read."""
    if not os.path.isfile(path):
        raise TraceError(f"{path} is not a file", "name a model file, for example model.gguf")
    if not os.access(path, os.R_OK):
        raise TraceError(f"{path} cannot be read", "check its permissions")
    size = os.path.getsize(path)
    if not size:
        raise TraceError(f"{path} is empty", "name a model file, for example model.gguf")
    return size

"""Background loads: processes that take a CPU, memory bandwidth or the caches, and that end with the experiment."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from typing import NoReturn

from bitnet_trace.capture import helper
from bitnet_trace.capture.identity import Identity
from bitnet_trace.driver import PR_SET_PDEATHSIG, fork
from bitnet_trace.errors import TraceError

_PR_SET_NAME = 15
_MEMORY_BYTES = 64 << 20
_LINE_BYTES = 64
_READY_S = 20.0


@contextlib.contextmanager
def running(load: tuple[str, int] | None, cpus: tuple[int, ...], user: Identity | None) -> Iterator[list[int]]:
    """`load` (kind, how many) while the block runs, each on a CPU of its own from the last one on; their pids."""
    pids: list[int] = []
    try:
        for number in range(load[1] if load else 0):
            assert load is not None
            pids.append(_start(load[0], cpus[-1 - number % len(cpus)], user))
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _start(kind: str, cpu: int, user: Identity | None) -> int:
    """Returns when it is at work."""
    ready, at_work = os.pipe()
    parent = os.getpid()
    pid = fork()
    if pid == 0:
        os.close(ready)
        _serve(kind, cpu, user, parent, at_work)
    os.close(at_work)
    os.set_blocking(ready, False)
    deadline = time.monotonic() + _READY_S
    try:
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                if os.read(ready, 1):
                    return pid
                break
            time.sleep(0.005)
    finally:
        os.close(ready)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TraceError(f"the background load {kind} could not be started", "is there memory for it?")


def _serve(kind: str, cpu: int, user: Identity | None, parent: int, at_work: int) -> NoReturn:
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        helper.keep_only(at_work)
        os.sched_setaffinity(0, {cpu})
        if user is not None:
            user.assume()
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_NAME, kind.encode(), 0, 0, 0)
        # after the change of user, which clears it
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() == parent:
            _work(kind, at_work)
    finally:
        os._exit(1)


def _work(kind: str, at_work: int) -> None:
    """Never returns."""
    if kind == "cpu-hog":
        os.write(at_work, b"1")
        while True:
            pass
    import numpy as np

    source, sink = np.ones(_MEMORY_BYTES, np.uint8), np.zeros(_MEMORY_BYTES, np.uint8)
    os.write(at_work, b"1")
    while kind == "memory-hog":
        np.copyto(sink, source)  # reads and writes as fast as memory does
    while True:
        source[::_LINE_BYTES].sum()  # a byte of each cache line: it takes the place of somebody else's

"""The traced program: forked early, waiting on a pipe, and exec'ed when everything is in place."""

import contextlib
import os
import signal
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from bitnet_trace.capture.identity import Caller, Identity
from bitnet_trace.errors import TraceError

_GO = b"g"
_EXEC_FAILED = 127


@dataclass
class Target:
    """A forked child that waits. `release()` lets it exec; `abandon()` ends it unexec'ed."""

    pid: int
    _go: int
    _failure: int

    def release(self) -> None:
        os.write(self._go, _GO)
        os.close(self._go)

    def exec_error(self) -> OSError | None:
        """Why the exec failed, once it has been tried; None when it succeeded. Waits for the one or the other."""
        data = os.read(self._failure, 4)
        os.close(self._failure)
        if not data:
            return None
        (number,) = struct.unpack("<i", data)
        return OSError(number, os.strerror(number))

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._go)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@dataclass(frozen=True)
class Launch:
    """What is to run.

    `caller`: whose umask and limits it has; `mask`: of signals; `output`: descriptors that become its stdout and
    stderr, None leaves ours; `prepare` is called before it becomes the user.
    """

    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    identity: Identity | None
    caller: Caller
    mask: set[signal.Signals]
    output: tuple[int, int] | None
    prepare: Callable[[], None] | None = None


def start(launch: Launch, not_for_it: int) -> Target:
    """Forks the child, which waits. `not_for_it` is a descriptor of ours that it must not keep open meanwhile.

    It stays in our process group and session, with our terminal and stdin: to a shell it is part of the job.
    """
    go_read, go_write = os.pipe()
    failure_read, failure_write = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        raise TraceError(f"cannot start a process: {error.strerror}", "ulimit -u") from None
    if pid == 0:
        os.close(go_write)
        os.close(failure_read)
        os.close(not_for_it)
        _exec(launch, go_read, failure_write)
    os.close(go_read)
    os.close(failure_write)
    return Target(pid, go_write, failure_read)


def _exec(launch: Launch, go: int, failure: int) -> NoReturn:
    """No exception may leave it: a second copy of the tool would go on."""
    try:
        # Python ignores the one and catches the other kind; what our caller ignores stays ignored
        caught = [signal.SIGINT] if callable(signal.getsignal(signal.SIGINT)) else []
        for number in (signal.SIGPIPE, signal.SIGXFSZ, *caught):
            signal.signal(number, signal.SIG_DFL)
        if launch.output is not None:
            os.dup2(launch.output[0], 1)
            os.dup2(launch.output[1], 2)
        launch.caller.limit()
        if launch.caller.umask is not None:
            os.umask(launch.caller.umask)
        if launch.prepare is not None:
            launch.prepare()
        if launch.identity is not None:
            launch.identity.assume()
        if os.read(go, 1) != _GO:
            os._exit(_EXEC_FAILED)  # the tracer gave up or died
        # not before: a signal that ends the program early should find it seized
        signal.pthread_sigmask(signal.SIG_SETMASK, launch.mask)
        os.execve(launch.program, list(launch.arguments), dict(launch.environment))
    except OSError as error:
        os.write(failure, struct.pack("<i", error.errno or 0))
    finally:
        os._exit(_EXEC_FAILED)

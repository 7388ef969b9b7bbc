"""The screen of a live view: a process of its own, which has the terminal, and none of the tracer's rights.

Frames go to it as JSON through a socket; it answers when the user wants something. Whatever ends it, the terminal is
put back as it was.
"""

import contextlib
import os
import socket
import sys
import termios
from collections.abc import Iterator
from types import TracebackType
from typing import NoReturn

from bitnet_trace.capture import helper
from bitnet_trace.capture.identity import Identity
from bitnet_trace.live.model import Frame

QUIT, CLOSE, WRITE = b"quit", b"close", b"write"
FACTORS = {b"slower": 2.0, b"faster": 0.5}  # of the time between two frames
_BUFFER_BYTES = 1 << 20
_MOST_THREADS = 300  # of a frame that goes to the screen
# leave the alternate screen; cursor on; mouse, focus and paste reports off; key protocol off; colours off
_RESET = (
    "\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1004l\x1b[?2004l\x1b[<u\x1b[0m"
)


class Screen:
    """`with Screen(user) as show`: while it is open our own standard streams lead nowhere, and so do those of what we
    start. After it the user has left the screen."""

    def __init__(self, user: Identity | None) -> None:
        self._user = user
        self._left = self._write = False
        self._factor = 1.0

    def __enter__(self) -> "Screen":
        self._mode = termios.tcgetattr(0)
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            _serve(other, self._user)
        other.close()
        self._streams = _put_away_streams()
        return self

    def __call__(self, frame: Frame) -> bool:
        """Sends a frame, if the screen takes it; whether the user has left the screen."""
        small = frame if len(frame.threads) <= _MOST_THREADS else _shortened(frame)
        try:
            self._socket.send(small.to_json().encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            if frame.ended:  # the last one has to come through
                with contextlib.suppress(OSError):
                    self._socket.send(small.to_json().encode(), socket.MSG_NOSIGNAL)
        except OSError:
            self._left = True
        with contextlib.suppress(BlockingIOError):
            while not self._left:
                answer = self._socket.recv(64, socket.MSG_DONTWAIT)
                self._left = answer in (b"", QUIT)
                self._write = self._write or answer == WRITE
                self._factor *= FACTORS.get(answer, 1.0)
        return self._left

    def take_write(self) -> bool:
        """Whether `w` was pressed since the last time."""
        write, self._write = self._write, False
        return write

    def take_factor(self) -> float:
        """How much more time the user wants between two frames than so far."""
        factor, self._factor = self._factor, 1.0
        return factor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(OSError):
                self._socket.send(CLOSE, socket.MSG_NOSIGNAL)
        self._socket.shutdown(socket.SHUT_WR)
        status = 1
        with contextlib.suppress(ChildProcessError):  # it was waited for with the target's processes
            status = os.waitpid(self.pid, 0)[1]
        self._socket.close()
        _restore_streams(self._streams)
        termios.tcsetattr(0, termios.TCSADRAIN, self._mode)
        if status:
            sys.stdout.write(_RESET)
            sys.stdout.flush()


@contextlib.contextmanager
def plain_lines() -> Iterator["PlainLines"]:
    """The same with a line for each frame."""
    streams = _put_away_streams()
    try:
        yield PlainLines(streams[1])
    finally:
        _restore_streams(streams)


class PlainLines:
    """Writes frames to a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, frame: Frame) -> bool:
        """Whether nobody reads them any more."""
        from bitnet_trace.live.plain import line

        try:
            os.write(self._descriptor, line(frame).encode("utf-8", "replace") + b"\n")
        except OSError:
            return True
        return False


def _shortened(frame: Frame) -> Frame:
    from dataclasses import replace

    return replace(frame, threads=frame.threads[:_MOST_THREADS])


def _serve(frames: socket.socket, user: Identity | None) -> NoReturn:
    """The screen's process."""
    status = 1
    try:
        helper.keep_only(0, 1, 2, frames.fileno())
        from bitnet_trace.live.app import run_live

        if user is not None:
            user.assume()
        run_live(frames)
        status = 0
    finally:
        os._exit(status)


def _put_away_streams() -> list[int]:
    """Leads 0, 1 and 2 nowhere; what they were, under other numbers."""
    sys.stdout.flush()
    streams = [os.dup(descriptor) for descriptor in (0, 1, 2)]
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
    return streams


def _restore_streams(streams: list[int]) -> None:
    for descriptor, former in enumerate(streams):
        os.dup2(former, descriptor)
        os.close(former)

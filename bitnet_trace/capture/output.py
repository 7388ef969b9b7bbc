"""The target's output, copied to the recording by a small process of its own.

It runs as the user, ends when the output ends, and outlives the tracer: a tracer that is killed takes nothing away
from the target. Where our stdout is a terminal the target gets a pseudo-terminal in its place; stdin is left alone.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitnet_trace.capture.identity import Identity

_CHUNK = 1 << 16


@dataclass
class _Stream:
    source: int  # what the target writes to comes out here
    sink: int  # our own stdout or stderr
    log: int | None  # None: not kept, or the disk is full
    terminal: bool


@dataclass
class OutputCopy:
    """The copying process. `target_ends` become the target's stdout and stderr; close them here once it has them."""

    pid: int
    target_ends: tuple[int, int]

    def close_target_ends(self) -> None:
        for descriptor in self.target_ends:
            os.close(descriptor)


def _open_pair(like: int, identity: Identity | None) -> tuple[int, int, bool]:
    """(source, the target's end, whether it is a terminal): of the kind that `like` is."""
    if not os.isatty(like):
        source, end = os.pipe()
        return source, end, False
    source, end = os.openpty()
    attributes = termios.tcgetattr(like)
    attributes[1] &= ~termios.OPOST  # the real terminal does that once already
    termios.tcsetattr(end, termios.TCSANOW, attributes)
    _copy_window_size(like, source)
    if identity is not None:
        os.fchown(end, identity.uid, identity.gid)
    return source, end, True


def _copy_window_size(real: int, copy: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(copy, termios.TIOCSWINSZ, fcntl.ioctl(real, termios.TIOCGWINSZ, b"\0" * 8))


def _copy_window_sizes(terminals: list["_Stream"]) -> None:
    for terminal in terminals:
        _copy_window_size(terminal.sink, terminal.source)


def start(
    folder: Path, identity: Identity | None, mask: set[signal.Signals], wait_for_folder: Callable[[], bool]
) -> OutputCopy:
    """Forks the copying process. It opens its logs in `folder` once `wait_for_folder` (called in the child) says that
    the folder is there; False means that no log is kept. `mask`: the signal mask of the caller's own start."""
    pairs = [_open_pair(1, identity), _open_pair(2, identity)]
    ends = (pairs[0][1], pairs[1][1])
    pid = os.fork()
    if pid:
        for source, _end, _terminal in pairs:
            os.close(source)
        return OutputCopy(pid, ends)
    try:
        for end in ends:
            os.close(end)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # those are for the target; its last words are still copied
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if identity is not None:
            identity.assume()
        kept = wait_for_folder()
        streams = [
            _Stream(source, sink, _open_log(folder / name) if kept else None, terminal)
            for (source, _end, terminal), sink, name in zip(pairs, (1, 2), ("stdout.log", "stderr.log"), strict=True)
        ]
        _copy(streams)
    finally:
        os._exit(0)


def _open_log(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None  # the output itself matters more than its copy; the recording's reader finds no log


def _copy(streams: list[_Stream]) -> None:
    """Copies until every source has ended."""
    terminals = [stream for stream in streams if stream.terminal]
    if terminals:
        signal.signal(signal.SIGWINCH, lambda *_: _copy_window_sizes(terminals))
    poll = select.poll()
    by_source = {stream.source: stream for stream in streams}
    for source in by_source:
        poll.register(source, select.POLLIN)
    while by_source:
        for source, _events in poll.poll():
            if not _copy_some(by_source[source]):
                poll.unregister(source)
                os.close(source)  # who still writes gets SIGPIPE, as without us
                del by_source[source]


def _copy_some(stream: _Stream) -> bool:
    """False when the source has ended, or nobody reads what we write."""
    try:
        data = os.read(stream.source, _CHUNK)
    except OSError as error:
        if error.errno == errno.EIO:  # a pseudo-terminal whose other side is closed
            return False
        raise
    if not data:
        return False
    if stream.log is not None and not _write_all(stream.log, data):
        stream.log = None
    return _write_all(stream.sink, data)


def _write_all(descriptor: int, data: bytes) -> bool:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError:
            return False
    return True

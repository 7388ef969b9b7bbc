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
import socket
import termios
from dataclasses import dataclass

from bitnet_trace.capture import helper
from bitnet_trace.capture.identity import Identity

_CHUNK = 1 << 16
LOG_NAMES = ("stdout.log", "stderr.log")
LOG_CUT_SHORT = 3  # exit status of the copying process: the output went on, its log did not


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
    """Makes the copy as large as the real one; when that was news the programs on the terminal are told once more.

    The kernel told them when the real one changed: they may have looked at the copy before us.
    """
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(real, termios.TIOCGWINSZ, b"\0" * 8)
        if size != fcntl.ioctl(copy, termios.TIOCGWINSZ, b"\0" * 8):
            fcntl.ioctl(copy, termios.TIOCSWINSZ, size)
            os.killpg(os.tcgetpgrp(real), signal.SIGWINCH)


def start(folder: socket.socket, identity: Identity | None, mask: set[signal.Signals]) -> OutputCopy:
    """Forks the copying process. Through `folder` it gets the descriptor of the recording's folder, in which it opens
    its logs; the end of what can be read there means that no log is kept. `mask`: the signal mask of the caller's own
    start."""
    pairs = [_open_pair(1, identity), _open_pair(2, identity)]
    ends = (pairs[0][1], pairs[1][1])
    pid = os.fork()
    if pid:
        for source, _end, _terminal in pairs:
            os.close(source)
        return OutputCopy(pid, ends)
    status = 0
    try:
        helper.keep_only(1, 2, folder.fileno(), *(source for source, _end, _terminal in pairs))
        # Those are for the target; its last words are still copied. Not SIGTTOU: under `stty tostop` our writing is
        # the target's, and the signal for it reaches the whole job.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP, signal.SIGTTIN):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if identity is not None:
            identity.assume()
        _byte, received, _flags, _address = socket.recv_fds(folder, 1, 1)
        folder.close()
        logs = [_open_log(received[0], name) if received else None for name in LOG_NAMES]
        whole = None not in logs or not received
        streams = [
            _Stream(source, sink, log, terminal)
            for (source, _end, terminal), sink, log in zip(pairs, (1, 2), logs, strict=True)
        ]
        _copy(streams)
        whole = whole and all(stream.log == log for stream, log in zip(streams, logs, strict=True))
        status = 0 if whole else LOG_CUT_SHORT
    finally:
        os._exit(status)


def _open_log(folder: int, name: str) -> int | None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, 0o600, dir_fd=folder)
    except OSError:
        return None  # the output itself matters more than its copy


def _copy(streams: list[_Stream]) -> None:
    """Copies until every source has ended, or nobody is left to read what comes out of it."""

    def copy_window_sizes(*_: object) -> None:
        for stream in by_source.values():
            if stream.terminal:
                _copy_window_size(stream.sink, stream.source)

    poll = select.poll()
    by_source = {stream.source: stream for stream in streams}
    signal.signal(signal.SIGWINCH, copy_window_sizes)
    for stream in streams:
        poll.register(stream.source, select.POLLIN)
        poll.register(stream.sink, 0)  # only whether its reader is gone
    while by_source:
        # a change of size is told to the terminal's foreground job only, which need not be ours
        copy_window_sizes()
        ready = {descriptor for descriptor, _events in poll.poll()}
        for source, stream in list(by_source.items()):
            if stream.sink in ready or (source in ready and not _copy_some(stream)):
                poll.unregister(source)
                poll.unregister(stream.sink)
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

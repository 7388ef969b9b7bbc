"""kernel.task_delayacct: whether the kernel keeps the disk and memory delays of threads; set for a run and set back.

The setting is of the whole system, so it is changed only on request. What it was is written down before, in a
file below /run, and every run that needs the change holds a lock on that file: the last one sets it back. A small
process of its own does that for a run that is killed. The lock goes with the processes, so a file that says something
and that nobody has locked was left by a run of which both were killed; the next run sets it back.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from bitnet_trace.capture import helper
from bitnet_trace.errors import TraceError

SWITCH = Path("/proc/sys/kernel/task_delayacct")
JOURNAL = Path("/run/bitnet-trace/task_delayacct")


def why_off(switch: Path = SWITCH) -> str | None:
    """Why the kernel keeps no disk and memory delays of threads that are born now; None when it does."""
    try:
        if switch.read_text().strip() != "0":
            return None
    except OSError:
        return "this kernel has no kernel.task_delayacct"
    return "kernel.task_delayacct is 0; run --allow-system-changes sets it for the run"


@contextlib.contextmanager
def switched_on(wanted: bool, switch: Path = SWITCH, journal: Path = JOURNAL) -> Iterator[None]:
    """Delay accounting while the block runs, where it is `wanted`; what a killed run has left is set back first.

    Raises TraceError when it cannot be switched on.
    """
    restore_leftover(switch, journal)
    if not wanted:
        yield
        return
    try:
        descriptor = _switch_on(switch, journal)
    except OSError as error:
        raise TraceError(
            f"kernel.task_delayacct cannot be set: {error.strerror}", "leave out --allow-system-changes"
        ) from None
    guard = _start_guard(descriptor, switch)
    try:
        yield
    finally:
        _leave(descriptor, switch)
        os.close(guard)


def leftover(journal: Path = JOURNAL) -> str | None:
    """The value that a killed run should have set back; None when there is none. Changes nothing."""
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.pread(descriptor, 16, 0).decode("ascii", "replace").strip() or None if _alone(descriptor) else None
    finally:
        os.close(descriptor)


def restore_leftover(switch: Path = SWITCH, journal: Path = JOURNAL) -> None:
    """Sets back what a killed run has left, if anything."""
    with contextlib.suppress(OSError):
        _leave(os.open(journal, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), switch)


def _switch_on(switch: Path, journal: Path) -> int:
    """The descriptor of the locked journal. Raises OSError."""
    journal.parent.mkdir(mode=0o755, exist_ok=True)
    descriptor = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # from here on nobody sets it back
        if switch.read_text().strip() == "0":
            os.pwrite(descriptor, b"0", 0)
            switch.write_text("1")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _start_guard(journal: int, switch: Path) -> int:
    """Starts the process that sets the switch back once nobody holds the returned descriptor any more."""
    alive, held = os.pipe()
    if os.fork():
        os.close(alive)
        return held
    try:
        os.setsid()  # no signal for the job, SIGKILL included, is for it
        helper.keep_only(journal, alive)
        os.read(alive, 1)
        _leave(journal, switch)
    finally:
        os._exit(0)


def _alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leave(descriptor: int, switch: Path) -> None:
    """Sets the switch back as the journal has it, when nobody else needs it; closes the journal."""
    try:
        if _alone(descriptor):
            before = os.pread(descriptor, 16, 0).strip()
            if before == b"0":
                switch.write_text("0")
            os.ftruncate(descriptor, 0)
    finally:
        # said, not left to the closing: a fork of ours may have the file open too
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

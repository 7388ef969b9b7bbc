"""Tracing of a program that runs already: from now until it ends, or as long as is wanted.

Nothing is done to the program itself: no ptrace, no stop, no signal. Its threads are entered into the kernel side's
maps and counted from there on; its mappings are read, and its engine's functions probed; the phase is known at the next
call.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitnet_trace import host
from bitnet_trace.capture import identity
from bitnet_trace.capture.hold import process_of, state_of
from bitnet_trace.capture.mappings import mapped_files
from bitnet_trace.capture.options import Options
from bitnet_trace.capture.parser import Parser
from bitnet_trace.capture.session import Result, Run, default_output, refuse_existing
from bitnet_trace.capture.signals import Signals
from bitnet_trace.capture.tracing import Tracing, tell
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.layout import Role

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_LONGEST_SLEEP_S = 0.2  # then the target's end is looked for
_ROUNDS = 20  # of looking for threads that were born meanwhile


def attach(pid: int, options: Options, duration_s: float | None = None, quiet: bool = False) -> Result:
    """Records a process that runs, with all that it has started, until it ends, `duration_s` is over, or Ctrl-C.

    Raises TraceError when there is no such process, or it cannot be traced.
    """
    started_ns = time.monotonic_ns()
    host.require_supported()
    identity.require_root()
    identity.lift_limits()
    require_process(pid)
    user = identity.calling_user(os.environ, options.as_root)
    folder = options.output or default_output(comm_of(pid))
    refuse_existing(folder, options)
    with Wishes() as wishes:
        tracing = Tracing(options, user, Parser(user), started_ns)
        run = Attachment(pid, tracing, options, wishes)
        try:
            run.adopt(folder, duration_s)
        except BaseException:
            tracing.give_up()
            os.close(run.process)
            raise
        if not quiet:
            tell(f"tracing process {pid} ({comm_of(pid)}); Ctrl-C ends the recording, not the process")
        return run.follow()


def require_process(pid: int) -> None:
    """Raises TraceError when `pid` is no process that can be traced."""
    owner = process_of(pid)
    if owner is None:
        raise TraceError(f"there is no process {pid}", "pgrep -a llama")
    if owner != pid:
        raise TraceError(f"{pid} is a thread of process {owner}", f"attach to that: -p {owner}")
    if pid == os.getpid():
        raise TraceError(f"{pid} is this very process", "name another")
    if state_of(pid) in ("Z", "X", None):
        raise TraceError(f"process {pid} has ended", "pgrep -a llama")
    if next(mapped_files(pid), None) is None:
        raise TraceError(f"process {pid} is one of the kernel's own", "pgrep -a llama")


def comm_of(tid: int) -> str:
    """The name of a thread; its number when it is gone."""
    try:
        return Path(f"/proc/{tid}/comm").read_bytes().decode("utf-8", "backslashreplace").rstrip("\n")
    except OSError:
        return str(tid)


class Wishes(Signals):
    """What a user wants of a tracer that has no program of its own: signals end it, and are not passed on."""

    def __init__(self) -> None:
        super().__init__()
        self._is_asked_to_end = False

    def __enter__(self) -> "Wishes":
        self._taken = {one for one in _ENDING | {signal.SIGUSR1} if signal.getsignal(one) is not signal.SIG_IGN}
        self.before = {signal.Signals(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)}
        return self

    @property
    def insisted(self) -> bool:
        """Whether the recording shall end."""
        return self._is_asked_to_end

    def sleep(self, seconds: float, target: int | None) -> None:
        """Until the time is up or a signal has come."""
        info = signal.sigtimedwait(self._taken, max(seconds, 0))
        if info is not None and info.si_signo in self.keeps:
            self._kept += 1
        elif info is not None:
            self._is_asked_to_end = True


class Attachment(Run):
    """A run whose program was there before."""

    def __init__(self, pid: int, tracing: Tracing, options: Options, wishes: Wishes) -> None:
        nobody: Any = None
        super().__init__(tracing, options, wishes, nobody, None)
        self._target = pid
        self._until_s: float | None = None
        self.process = os.pidfd_open(pid)
        self._has_ended = False
        self._cpu_before_ns = self._cpu_ns = cpu_time_ns(pid) or 0

    def adopt(self, folder: Path, duration_s: float | None) -> None:
        """Compiles, attaches, opens the recording, and begins to trace the process with what it has started."""
        tracing, pid = self._tracing, self._target
        tracing.load(attaching=True)
        tracing.open(folder, {"command": _command_of(pid), "program": _program_of(pid), "attached_to": pid})
        pids = list(family(pid))
        for one in pids:
            tracing.debuggers.look(one)
        tracing.drain.know_files(_paths(pids))
        tracing.programs.reserve_phases(len(pids))
        tracing.begin()
        for phase, one in enumerate(pids, 1):
            self._enter(one, phase)
        if duration_s is not None:
            self._until_s = time.monotonic() + duration_s

    def _enter(self, pid: int, phase: int) -> None:
        now_ns = time.monotonic_ns()
        entered: set[int] = set()
        for _ in range(_ROUNDS):
            threads = _threads_of(pid)
            new = self._tracing.programs.expect(pid, threads, phase) if threads else set()
            entered |= new
            if not new:
                break
        if entered:
            self._tracing.drain.begin(pid, {tid: comm_of(tid) for tid in sorted(entered)}, now_ns, phase, Role.ATTACHED)

    # ---- while it runs ---------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        late = self._until_s is not None and time.monotonic() >= self._until_s
        enough = self._view is not None and self._view.is_enough
        return self._has_ended or late or enough or self._signals.insisted

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._is_over():
            left_s = min(deadline, self._until_s or deadline) - time.monotonic()
            self._signals.sleep(min(left_s, _LONGEST_SLEEP_S), None)
            self._write_if_asked()
            self._cpu_ns = cpu_time_ns(self._target) or self._cpu_ns
            self._has_ended = bool(select.select([self.process], [], [], 0)[0])
            if left_s <= _LONGEST_SLEEP_S:
                return

    def _handle_ends(self) -> None:
        """Its end is not ours to wait for."""

    def _before_finish(self) -> None:
        self._target_cpu_ns = self._cpu_ns - self._cpu_before_ns

    @property
    def _pid(self) -> int:
        return self._target

    def _result(self) -> Result:
        os.close(self.process)
        return Result(self._tracing.writer.path, self._status, self._tracing.writer.meta)

    def _how_it_ended(self) -> str:
        status = self._tracing.drain.threads.get(self._target, {}).get("exit_code") if self._has_ended else None
        if status is not None:
            self._status = os.waitstatus_to_exitcode(status)
        return super()._how_it_ended()

    def _exit_status(self) -> int | None:
        self._how_it_ended()
        return self._status


# ---- what /proc tells of processes that run ------------------------------------------------------------------------


def family(pid: int) -> Iterator[int]:
    """A process and all that it has started and that live; not this process."""
    yield pid
    for tid in _threads_of(pid):
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{tid}/children").read_text().split():
                if int(child) != os.getpid():
                    yield from family(int(child))


def cpu_time_ns(pid: int) -> int | None:
    """What a process has used of CPUs, in steps of 10 ms; None when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _threads_of(pid: int) -> dict[int, int]:
    """The threads of a process, and the CPU that each ran on last."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{pid}/task/{name}/stat").read_text(errors="replace")
                found[int(name)] = int(stat.rpartition(") ")[2].split()[36])
    return found


def _command_of(pid: int) -> list[str]:
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return [comm_of(pid)]
    return [os.fsdecode(word) for word in data.rstrip(b"\0").split(b"\0")]


def _program_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return comm_of(pid)


def _paths(pids: list[int]) -> dict[tuple[int, int], str]:
    """The files that processes have mapped, by (device, inode) as the kernel has them."""
    return {(one.kernel_device, one.inode): one.path for pid in pids for one in mapped_files(pid)}

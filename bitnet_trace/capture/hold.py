"""Holding the target with ptrace while probes are placed: at each exec, and when its link map changes.

PTRACE_SEIZE, never SIGSTOP: parents and shells see nothing, and when the tracer dies the kernel lets everyone go. A
change of the link map (dlopen) is told by a uprobe in the dynamic linker, which sends its own thread a SIGURG from
BPF; that is seen here at its delivery and never delivered. When the tracer has died by then, SIGURG does nothing.
Processes whose engine has been found are let go.

A thread has one tracer, so for a debugger within the target (gdb, strace, a handler of crashes) we are in the way. Its
ptrace call has failed when the same SIGURG stops it: then what it wants to trace is let go, and the call made again.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from bitnet_trace.capture import syscalls

_SI_KERNEL = 0x80
# what stop_for_tracer() of bpf/phase.bpf.c sends
_STOP_FOR_US = {signal.SIGURG, signal.SIGSTOP}
_STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
# how long a debugger waits for threads that do not stop (in vfork, on a dead disk, zombies); then it stays refused
_PATIENCE_S = 1.0
# Each stop of those that a debugger traces is a signal to it, at which it stops for us. By then it has whom it wants.
_MAX_SIGNALS_OF_DEBUGGER = 100


class How(IntEnum):
    """How our ptrace is on a process: `enum held_how` of bpf/state.bpf.c."""

    NOT = 0
    HELD = 1
    LEAVING = 2


def status_number(tid: int, name: str) -> int | None:
    """A number in /proc/TID/status: Tgid, PPid, TracerPid; None when the thread is gone."""
    try:
        status = Path(f"/proc/{tid}/status").read_text()
    except OSError:
        return None
    return int(status.split(f"\n{name}:", 1)[1].split(None, 1)[0])


def process_of(tid: int) -> int | None:
    """The process that a thread belongs to; None when it is gone."""
    return status_number(tid, "Tgid")


def state_of(pid: int) -> str | None:
    """The letter of proc(5): `T` is stopped, `t` is stopped by a tracer; None when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return None


class Ended(NamedTuple):
    """`status` as wait(2) has it; the CPU time of the process and of those that it waited for."""

    status: int
    cpu_ns: int


class _Caller(NamedTuple):
    """A debugger's thread, which stands still until `wanted`, the process to be traced, is let go with all threads."""

    tid: int
    wanted: int
    deadline: float


class Holder:
    """Our ptrace on a tree of processes. All its methods have to be called by one thread.

    `look_at(pid)` is called while a process stands still after an exec or a change of its link map; it returns True
    when nothing more is to be placed in that process, which is let go then. `look_ahead(pid)` is called while a
    process stands still that is about to debug another, or to be debugged. `at_end(pid)`, where it is given, is called
    while a process stands still that is about to give back its memory; all are held until then. `tell(pid, how)` is
    told how processes are held from now on. `held_ns` is how long processes stood still for it, `stops` how often
    threads did.
    """

    def __init__(
        self,
        look_at: Callable[[int], bool],
        look_ahead: Callable[[int], None],
        tell: Callable[[int, How], None],
        at_end: Callable[[int], None] | None = None,
    ) -> None:
        self._at_end = at_end
        self._look_at, self._look_ahead, self._tell = look_at, look_ahead, tell
        self._threads: dict[int, int] = {}  # tid: pid, of all threads that we trace
        self._leaving: set[int] = set()  # processes that are let go thread by thread
        self._debuggers: dict[int, int] = {}  # processes that trace others: how often they were told of it
        self._calling: list[_Caller] = []
        self._stopped_threads: set[int] = set()  # by their user, as a shell's Ctrl-Z
        self.stops = 0
        self.held_ns = 0

    def seize(self, pid: int) -> None:
        """Raises OSError, with EPERM when somebody else traces it."""
        options = syscalls.PTRACE_O_FOLLOW | (syscalls.PTRACE_O_TRACEEXIT if self._at_end else 0)
        syscalls.ptrace(syscalls.PTRACE_SEIZE, pid, options)
        self._threads[pid] = pid
        self._tell(pid, How.HELD)

    def wait(self) -> dict[int, Ended]:
        """Handles all stops that are there; returns the children of ours that have ended, by pid."""
        ended: dict[int, Ended] = {}
        while True:
            self._resume_callers(patient=True)
            try:
                tid, status, usage = os.wait4(-1, os.WNOHANG | syscalls.WALL)
            except ChildProcessError:
                return ended
            if tid == 0:
                self._resume_callers(patient=False)
                return ended
            if os.WIFSTOPPED(status):
                self.stops += 1
                # ESRCH: it was killed meanwhile; its end will be told
                with contextlib.suppress(ProcessLookupError):
                    self._stopped(tid, os.WSTOPSIG(status), status >> 16)
            else:
                self._forget(tid)
                self._stopped_threads.discard(tid)
                ended[tid] = Ended(status, round((usage.ru_utime + usage.ru_stime) * 1e9))

    def release_all(self) -> None:
        """Lets everyone go; those that run are asked to stop for it and let go by later calls of wait()."""
        for pid in set(self._threads.values()):
            self.let_go(pid)

    def let_go(self, pid: int) -> None:
        """Does so by later calls of wait(), when its threads have stopped. Nothing when it is not held."""
        threads = self._threads_of(pid)
        if not threads or pid in self._leaving:
            return
        self._leaving.add(pid)
        for tid in threads:
            # those that stand still already are let go where their stop is handled
            with contextlib.suppress(OSError):
                syscalls.ptrace(syscalls.PTRACE_INTERRUPT, tid)
        self._tell(pid, How.LEAVING)

    def holds(self, pid: int) -> bool:
        return pid in self._threads.values()

    @property
    def holds_any(self) -> bool:
        return bool(self._threads)

    def is_stopped(self, pid: int) -> bool:
        """Whether a process was stopped by its user or a terminal, not by us."""
        return pid in self._stopped_threads or (pid not in self._threads and state_of(pid) == "T")

    # ---- one stop ---------------------------------------------------------------------------------------------------

    def _stopped(self, tid: int, number: int, event: int) -> None:
        self._stopped_threads.discard(tid)
        pid = self._threads.get(tid)
        if pid is None:  # a new thread, whose own first stop came before its parent's word of it
            pid = process_of(tid) or tid
            self._add(tid, pid)
        signal_to_pass = 0
        if event in (syscalls.PTRACE_EVENT_FORK, syscalls.PTRACE_EVENT_VFORK, syscalls.PTRACE_EVENT_CLONE):
            child = syscalls.ptrace_event_message(tid)
            if child not in self._threads:
                self._add(child, pid if event == syscalls.PTRACE_EVENT_CLONE else process_of(child) or child)
        elif event == syscalls.PTRACE_EVENT_EXEC:
            self._forget_others(pid, tid)
            self._look(pid)
        elif event == syscalls.PTRACE_EVENT_EXIT:
            if tid == pid and self._at_end is not None:
                self._at_end(pid)
        elif event == syscalls.PTRACE_EVENT_STOP:
            if number in _STOPPING and pid not in self._leaving:
                syscalls.ptrace(syscalls.PTRACE_LISTEN, tid)  # really stopped, by its user: stays so
                self._stopped_threads.add(tid)
                return
        elif number in _STOP_FOR_US and self._from_kernel(tid):
            refused = syscalls.refused_ptrace_call(tid)
            if refused is None:
                self._look(pid)
            elif self._make_way(tid, pid, refused):
                return
        else:
            signal_to_pass = number
            if number == signal.SIGCHLD and pid in self._debuggers:
                self._debuggers[pid] += 1
                if self._debuggers[pid] == _MAX_SIGNALS_OF_DEBUGGER:
                    self.let_go(pid)
        self._go_on(tid, pid, signal_to_pass)

    def _from_kernel(self, tid: int) -> bool:
        try:
            return syscalls.ptrace_signal_code(tid) == _SI_KERNEL
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise
            return False

    def _look(self, pid: int) -> None:
        if pid in self._leaving:
            return
        begin_ns = time.monotonic_ns()
        done = self._look_at(pid)
        self.held_ns += time.monotonic_ns() - begin_ns
        if done and self._at_end is None:
            self.let_go(pid)

    def _make_way(self, tid: int, pid: int, refused: syscalls.PtraceCall) -> bool:
        """Lets go of whom a debugger wants to trace. True: the debugger has to stand still until that is done."""
        if pid in self._leaving:
            return False
        debugger = pid
        if refused.request == syscalls.PTRACE_TRACEME:
            debugger = status_number(pid, "PPid") or 0
            if debugger == os.getpid():
                syscalls.make_call_succeed(tid)  # its parent shall trace it, and does: we are the parent
                return False
        if self.holds(debugger):
            self._debuggers.setdefault(debugger, 0)
        begin_ns = time.monotonic_ns()
        self._look_ahead(pid)
        self.held_ns += time.monotonic_ns() - begin_ns
        wanted = pid if refused.request == syscalls.PTRACE_TRACEME else self._threads.get(refused.tid, 0)
        self.let_go(wanted)
        if wanted in (pid, 0):
            syscalls.repeat_call(tid)
            return False
        self._calling.append(_Caller(tid, wanted, time.monotonic() + _PATIENCE_S))
        return True

    def _resume_callers(self, patient: bool) -> None:
        for caller in list(self._calling):
            is_free = not self.holds(caller.wanted)
            if is_free or (not patient and time.monotonic() > caller.deadline):
                self._calling.remove(caller)
                pid = self._threads.get(caller.tid)
                if pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        if is_free:
                            syscalls.repeat_call(caller.tid)
                        self._go_on(caller.tid, pid, 0)

    def _add(self, tid: int, pid: int) -> None:
        known = pid in self._threads.values()
        self._threads[tid] = pid
        if not known and pid not in self._leaving:
            self._tell(pid, How.HELD)
        if pid in self._leaving:
            with contextlib.suppress(OSError):
                syscalls.ptrace(syscalls.PTRACE_INTERRUPT, tid)

    def _forget_others(self, pid: int, leader: int) -> None:
        """An exec ends all other threads of the process without a word."""
        for tid in self._threads_of(pid):
            if tid != leader:
                self._forget(tid)

    def _forget(self, tid: int) -> None:
        pid = self._threads.pop(tid, None)
        if pid is not None and pid not in self._threads.values():
            self._leaving.discard(pid)
            self._debuggers.pop(pid, None)
            self._tell(pid, How.NOT)

    def _threads_of(self, pid: int) -> list[int]:
        return [tid for tid, owner in self._threads.items() if owner == pid]

    def _go_on(self, tid: int, pid: int, signal_to_pass: int) -> None:
        if pid in self._leaving:
            # also one that was asked to stop for other reasons between its call and the signal that tells of it
            if syscalls.refused_ptrace_call(tid) is not None:
                syscalls.repeat_call(tid)
            syscalls.ptrace(syscalls.PTRACE_DETACH, tid, signal_to_pass)
            self._forget(tid)
        else:
            syscalls.ptrace(syscalls.PTRACE_CONT, tid, signal_to_pass)

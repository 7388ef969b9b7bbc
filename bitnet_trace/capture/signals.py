"""Signals while a target runs: taken one by one, with who sent them, and never in the middle of something."""

import contextlib
import os
import signal
import time
from types import TracebackType

_SENT_BY_PROCESS = 0  # SI_USER; SI_QUEUE and SI_TKILL are negative; SI_KERNEL (a terminal's keys) is 128
_TO_TARGET = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT}
_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_TAKEN = _TO_TARGET | _STOPS | {signal.SIGCHLD}
# Two presses of Ctrl-C within this time mean us as well, if the program does not end by them.
_TWICE_S, _TO_END_S = 1.0, 1.0


def die_of_interrupt() -> None:
    """Ends this process by SIGINT: 130 to a shell, which also ends the loop or script that it was called in.

    https://www.cons.org/cracauer/sigint.html
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


class Signals:
    """Blocks the signals that a run handles, from `with` on; `before` is the mask that the target gets back.

    What a process sends us goes on to the target. What a terminal's keys send has reached the whole foreground job
    already, the target among it. What our caller ignores (nohup; SIGINT in a script's background) stays ignored.
    """

    def __init__(self) -> None:
        self.before: set[signal.Signals] = set()
        self.asked_to_stop: signal.Signals | None = None
        self.interrupted_by_key = False
        self.keeps: set[signal.Signals] = set()  # these are for us and not for the target
        self._kept = 0
        self._interrupted_s: float | None = None
        self._insisted_s: float | None = None
        self._taken: set[signal.Signals] = set()

    def __enter__(self) -> "Signals":
        self._taken = {one for one in _TAKEN if signal.getsignal(one) is not signal.SIG_IGN} | {signal.SIGCHLD}
        self.before = {signal.Signals(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)}
        return self

    @property
    def insisted(self) -> bool:
        """Whether SIGINT came a second time, and the target has had the time to end by it.

        From the keyboard, within a second: what Ctrl-C means now and then is the target's own business.
        """
        return self._insisted_s is not None and time.monotonic() >= self._insisted_s + _TO_END_S

    def _interrupted(self, by_key: bool) -> None:
        now_s = time.monotonic()
        self.interrupted_by_key |= by_key
        again = self._interrupted_s is not None and (not by_key or now_s <= self._interrupted_s + _TWICE_S)
        if again and self._insisted_s is None:
            self._insisted_s = now_s
        self._interrupted_s = now_s

    def take_kept(self) -> bool:
        """Whether one of those that we keep has come since the last time."""
        kept, self._kept = self._kept, 0
        return kept > 0

    def stop(self) -> None:
        """Stops this process as it was asked to, for the shell to see; returns when it was continued."""
        if self.asked_to_stop is None:
            return
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.asked_to_stop})
        os.kill(os.getpid(), self.asked_to_stop)
        signal.pthread_sigmask(signal.SIG_BLOCK, {self.asked_to_stop})
        self.asked_to_stop = None

    def __exit__(self, error: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        # those that are still pending were meant for the target, which has ended
        while (info := signal.sigtimedwait(self._taken, 0)) is not None:
            self.interrupted_by_key |= info.si_signo == signal.SIGINT and info.si_code > _SENT_BY_PROCESS
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)
        if error is KeyboardInterrupt and self.interrupted_by_key:
            die_of_interrupt()

    def sleep(self, seconds: float, target: int | None) -> None:
        """Until the time is up, a child stops or ends, or we should. `target`: whom other signals are passed to."""
        deadline = time.monotonic() + seconds
        info = signal.sigtimedwait(self._taken, max(seconds, 0))
        while info is not None:
            if info.si_signo == signal.SIGINT:
                self._interrupted(by_key=info.si_code > _SENT_BY_PROCESS)
            if info.si_signo in self.keeps:
                self._kept += 1
                return
            # what the target itself sends (kill 0) is for its job: it has it already
            to_pass = info.si_code <= _SENT_BY_PROCESS and target not in (None, info.si_pid)
            if info.si_signo != signal.SIGCHLD and to_pass and target is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, info.si_signo)
            if info.si_signo in _STOPS:
                self.asked_to_stop = signal.Signals(info.si_signo)
                return
            if info.si_signo == signal.SIGCHLD:
                return
            if self._insisted_s is not None:
                deadline = min(deadline, self._insisted_s + _TO_END_S)
            info = signal.sigtimedwait(self._taken, max(deadline - time.monotonic(), 0))

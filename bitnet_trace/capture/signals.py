"""Signals while a target runs: taken one by one, with who sent them, and never in the middle of something."""

import contextlib
import os
import signal
import time
from types import TracebackType

_SENT_BY_PROCESS = 0  # SI_USER; SI_QUEUE and SI_TKILL are negative; SI_KERNEL (a terminal's keys) is 128
_TO_TARGET = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT}
_TAKEN = _TO_TARGET | {signal.SIGCHLD}


class Signals:
    """Blocks the signals that a run handles, from `with` on; `before` is the mask that the target gets back.

    What a process sends us goes on to the target. What a terminal's keys send has reached the whole foreground job
    already, the target among it.
    """

    def __init__(self) -> None:
        self.before: set[signal.Signals] = set()
        self.interrupts = 0

    def __enter__(self) -> "Signals":
        self.before = {signal.Signals(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # those that are still pending were meant for the target, which has ended
        while signal.sigtimedwait(_TAKEN, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)

    def sleep(self, seconds: float, target: int | None) -> None:
        """Until the time is up or a child stops or ends. `target`: whom other signals are passed to."""
        deadline = time.monotonic() + seconds
        info = signal.sigtimedwait(_TAKEN, max(seconds, 0))
        while info is not None:
            if info.si_signo == signal.SIGINT:
                self.interrupts += 1
            if info.si_signo != signal.SIGCHLD and info.si_code <= _SENT_BY_PROCESS and target is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, info.si_signo)
            if info.si_signo == signal.SIGCHLD or self.interrupts > 1:
                return
            info = signal.sigtimedwait(_TAKEN, max(deadline - time.monotonic(), 0))

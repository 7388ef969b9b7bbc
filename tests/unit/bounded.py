"""Bounds of time and memory for what is given damaged files."""

import os
import resource
import signal
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

# 0: a number of cases that fits into all tests, the same ones each time
CASES = int(os.environ.get("BITNET_TRACE_DAMAGE_CASES", "0"))
damages = settings(
    max_examples=CASES or 150,
    derandomize=not CASES,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
DEADLINE_S = 10
PEAK_LIMIT_BYTES = 1 << 30
FRESH_BYTES = 140 << 20  # of a process that has only read the command; this one has the tests too


def resident_bytes(key):
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(key))
    return int(line.split()[1]) << 10


class TooLong(BaseException):
    """Nothing on the way takes it for damage."""


def too_long(*_):
    raise TooLong(f"not done within {DEADLINE_S} s")


class Bounded:
    """Bounds what is done in it: an alarm, and a limit of the address space so that a runaway harms nobody else."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on (proc(5))
        self._before_bytes = resident_bytes("VmRSS")
        self._limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (resident_bytes("VmSize") + 2 * PEAK_LIMIT_BYTES, self._limits[1]))
        # time on the CPU: the machine may be busy; nothing here sleeps or waits
        self._handler = signal.signal(signal.SIGPROF, too_long)
        signal.setitimer(signal.ITIMER_PROF, DEADLINE_S)
        self._begin = time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds = time.process_time() - self._begin
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._handler)
        resource.setrlimit(resource.RLIMIT_AS, self._limits)
        self.peak_bytes = resident_bytes("VmHWM") - self._before_bytes + FRESH_BYTES

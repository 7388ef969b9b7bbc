"""What threads really had, read from the kernel while they ran."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bitnet_trace.driver import descendants
from bitnet_trace.experiment.setup import POLICIES, REAL_TIME, Setup

_NAMES = {number: name for name, number in POLICIES.items()}
_RESET_ON_FORK = 0x40000000
# x86-64, include/uapi/linux/sched.h and sched/types.h
_SCHED_SETATTR, _SCHED_DEADLINE, _FLAG_RESET_ON_FORK = 314, 6, 1
_ATTR = struct.Struct("<IIQiIQQQII")
_RUNTIME_NS, _PERIOD_NS = 2_000_000, 100_000_000


@contextlib.contextmanager
def guaranteed(setup: Setup) -> Iterator[bool]:
    """Beside real-time threads on all CPUs this process would see nothing: for such a setup it may run for 2 ms in each
    100 ms, before any of them (sched(7), SCHED_DEADLINE). Whether that was granted."""
    if setup.policy not in REAL_TIME:
        yield False
        return
    granted = _set_deadline(_RUNTIME_NS, _PERIOD_NS)
    try:
        yield granted
    finally:
        if granted:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _set_deadline(runtime_ns: int, period_ns: int) -> bool:
    attributes = (_ATTR.size, _SCHED_DEADLINE, _FLAG_RESET_ON_FORK, 0, 0, runtime_ns, period_ns, period_ns, 0, 0)
    return not ctypes.CDLL(None).syscall(_SCHED_SETATTR, 0, _ATTR.pack(*attributes), 0)


@dataclass(frozen=True)
class Scheduled:
    """Of one thread at one moment: sched_getscheduler(2), sched_getparam(2), getpriority(2), sched_getaffinity(2)."""

    tid: int
    comm: str
    policy: str
    priority: int
    nice: int
    cpus: tuple[int, ...]

    @property
    def as_policy(self) -> str:
        return f"{self.policy}:{self.priority}" if self.policy in REAL_TIME else self.policy


class ReadBack:
    """The last state of each thread of a program and its descendants; and each that was not as asked. `reserved`:
    whether it was read within `guaranteed` time; `hugetlb_bytes`: the most that it had of a pool, where one was asked
    for."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.threads: dict[int, Scheduled] = {}
        self.deviations: dict[int, str] = {}
        self.looks = 0
        self.reserved = False
        self.hugetlb_bytes: int | None = None

    def look(self, pid: int) -> None:
        """Reads all threads once."""
        self.looks += 1
        for thread in threads(pid):
            self.threads[thread.tid] = thread
            wrong = deviation(thread, self._setup)
            if wrong:
                self.deviations[thread.tid] = wrong
        if self._setup.hugetlb_pages:
            self.hugetlb_bytes = max(self.hugetlb_bytes or 0, sum(map(_hugetlb_bytes, descendants(pid))))

    def summary(self) -> dict[str, object]:
        """How many threads were seen, with which policies and CPUs."""
        return {
            "threads_seen": len(self.threads),
            "looks": self.looks,
            "reserved": self.reserved,
            "policies": sorted({one.as_policy for one in self.threads.values()}),
            "nices": sorted({one.nice for one in self.threads.values()}),
            "cpus": sorted({",".join(map(str, one.cpus)) for one in self.threads.values()}),
            "hugetlb_bytes": [] if self.hugetlb_bytes is None else [self.hugetlb_bytes],
            "deviations": list(self.deviations.values()),
        }


def threads(pid: int) -> Iterator[Scheduled]:
    """Of the process and its descendants; one that ends meanwhile is left out."""
    for process in descendants(pid):
        with contextlib.suppress(OSError):
            for tid in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError):
                    yield _read(int(tid), process)


def _hugetlb_bytes(pid: int) -> int:
    """HugetlbPages of proc_pid_status(5): what is in use."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("HugetlbPages:"):
                return int(line.split()[1]) << 10
    return 0


def _read(tid: int, pid: int) -> Scheduled:
    return Scheduled(
        tid=tid,
        comm=Path(f"/proc/{pid}/task/{tid}/comm").read_text(errors="replace").strip(),
        policy=policy_name(os.sched_getscheduler(tid)),
        priority=os.sched_getparam(tid).sched_priority,
        nice=os.getpriority(os.PRIO_PROCESS, tid),
        cpus=tuple(sorted(os.sched_getaffinity(tid))),
    )


def policy_name(number: int) -> str:
    """As specs have it."""
    number &= ~_RESET_ON_FORK
    return _NAMES.get(number, str(number))


def deviation(thread: Scheduled, setup: Setup) -> str | None:
    """What of it is not as asked for; None when all is."""
    wrong = []
    if setup.policy is not None and (thread.policy, thread.priority) != (setup.policy, setup.priority):
        asked = f"{setup.policy}:{setup.priority}" if setup.policy in REAL_TIME else setup.policy
        wrong.append(f"policy {thread.as_policy}, not {asked}")
    if setup.nice is not None and thread.nice != setup.nice:
        wrong.append(f"nice {thread.nice}, not {setup.nice}")
    if setup.cpus is not None and not set(thread.cpus) <= set(setup.cpus):
        wrong.append(f"CPUs {','.join(map(str, thread.cpus))}, not {','.join(map(str, setup.cpus))}")
    return f"thread {thread.tid} ({thread.comm}) had {'; '.join(wrong)}" if wrong else None

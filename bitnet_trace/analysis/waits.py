"""Time off the CPU: what threads waited in, and who ran in place of those that were preempted."""

from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.analysis.absences import PREEMPTED, Absences
from bitnet_trace.analysis.keyed_sums import KeyedSums
from bitnet_trace.analysis.names import ThreadNames
from bitnet_trace.analysis.wait_stacks import BARRIER, WaitStacks
from bitnet_trace.columns import INSTEAD, WAITS
from bitnet_trace.recording.layout import WaitReason

# x86-64 numbers of the calls that programs wait in
_CALLS = {
    0: "read", 1: "write", 3: "close", 7: "poll", 9: "mmap", 10: "mprotect", 11: "munmap", 12: "brk", 17: "pread64",
    19: "readv", 20: "writev", 23: "select", 24: "sched_yield", 28: "madvise", 35: "nanosleep", 42: "connect",
    43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg", 47: "recvmsg", 56: "clone", 57: "fork", 58: "vfork",
    59: "execve", 61: "wait4", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync",
    202: "futex", 203: "sched_setaffinity", 219: "restart_syscall", 230: "clock_nanosleep", 231: "exit_group",
    232: "epoll_wait", 247: "waitid", 257: "openat",
    270: "pselect6", 271: "ppoll", 281: "epoll_pwait", 288: "accept4", 295: "preadv", 327: "preadv2",
    426: "io_uring_enter", 435: "clone3", 449: "futex_waitv", 455: "futex_wait",
}  # fmt: skip
_SUMS = ("count", "offcpu_ns", "runq_wait_ns")
_NEXT_BITS = 32


def reason_name(number: int) -> str:
    """What a wait_reason of bpf/record.h is, for people."""
    if number == PREEMPTED:
        return "preempted"
    if number == BARRIER:
        return "barrier"
    if number == WaitReason.FAULT:
        return "page fault"
    if number == WaitReason.NONE:
        return "other"
    return _CALLS.get(number - 1, f"system call {number - 1}")


class Waits:
    """Sums of absences by what they were for; `stacks` tell barriers from other futexes."""

    def __init__(self, stacks: WaitStacks | None = None) -> None:
        self._stacks = stacks
        self._sums = KeyedSums(_SUMS)

    def add(self, absences: Absences) -> None:
        reasons = self._stacks.told_apart(absences) if self._stacks else absences.reason
        values = (np.ones(len(absences)), absences.offcpu_ns, absences.runq_ns)
        self._sums.add(reasons << _NEXT_BITS | absences.next, dict(zip(_SUMS, values, strict=True)))

    def by_reason(self) -> pd.DataFrame:
        """A row per reason, columns.WAITS, longest first."""
        table = self._total()
        table = table.groupby("reason")[["count", "offcpu_ns", "runq_wait_ns"]].sum().reset_index()
        table["reason"] = [reason_name(number) for number in table["reason"]]
        return _sorted(table)[[column.key for column in WAITS]]

    def ran_instead(self, threads: pd.DataFrame, neighbours: Any) -> pd.DataFrame:
        """A row per thread that ran when one was preempted, columns.INSTEAD, longest first.

        `neighbours`: {"tid": name} of threads that are not the target's.
        """
        table = self._total()
        table = table[table["reason"] == PREEMPTED].groupby("next")[["count", "offcpu_ns", "runq_wait_ns"]].sum()
        table = table.reset_index().rename(columns={"next": "tid"})
        names = ThreadNames(threads, neighbours)
        table["own"] = ["yes" if names.is_own(tid) else "no" for tid in table["tid"]]
        table["comm"] = pd.Series([names.of(tid) for tid in table["tid"]], dtype=object, index=table.index)
        return _sorted(table)[[column.key for column in INSTEAD]]

    def _total(self) -> pd.DataFrame:
        table = self._sums.table()
        keys = table["key"].to_numpy()
        return table.assign(reason=keys >> _NEXT_BITS, next=keys & ((1 << _NEXT_BITS) - 1))


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("offcpu_ns", ascending=False, kind="stable").reset_index(drop=True)

"""Time off the CPU: what threads waited in, and who ran in place of those that were preempted."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.split import as_time
from bitnet_trace.columns import INSTEAD, WAITS
from bitnet_trace.recording.layout import DURATION_ONLY, EVENT_DTYPE, WAIT_REASON_SHIFT, Kind, SwitchFlag, WaitReason

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
_PREEMPTED = -1
_KEYS = ["reason", "next"]

Events = npt.NDArray[np.void]


def reason_name(number: int) -> str:
    """What a wait_reason of bpf/record.h is, for people."""
    if number == _PREEMPTED:
        return "preempted"
    if number == WaitReason.FAULT:
        return "page fault"
    if number == WaitReason.NONE:
        return "other"
    return _CALLS.get(number - 1, f"system call {number - 1}")


class Waits:
    """Pairs of a switch away and the next switch in of the same thread; batches in the order of time."""

    def __init__(self) -> None:
        self._open = np.empty(0, EVENT_DTYPE)  # of each thread its last switch away, when it has not come back
        self._sums: list[pd.DataFrame] = []

    def add(self, batch: Events) -> None:
        kinds = batch["kind"]
        switches = batch[((kinds == Kind.SWITCH_OUT) | (kinds == Kind.SWITCH_IN)) & (batch["arg0"] < DURATION_ONLY)]
        rows = np.concatenate([self._open, switches])
        if not len(rows):
            return
        in_order = bool((rows["ts_ns"][:-1] <= rows["ts_ns"][1:]).all())
        rows = rows[np.argsort(rows["tid"], kind="stable") if in_order else np.lexsort((rows["ts_ns"], rows["tid"]))]
        is_out = rows["kind"] == Kind.SWITCH_OUT
        paired = is_out[:-1] & ~is_out[1:] & (rows["tid"][:-1] == rows["tid"][1:])
        self._sum(rows[:-1][paired], rows[1:][paired])
        last = np.append(rows["tid"][:-1] != rows["tid"][1:], True)
        self._open = rows[last & is_out]

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
        table = table[table["reason"] == _PREEMPTED].groupby("next")[["count", "offcpu_ns", "runq_wait_ns"]].sum()
        table = table.reset_index().rename(columns={"next": "tid"})
        named = threads.dropna(subset=["comm"])
        own = {int(tid): str(comm) for tid, comm in zip(named["tid"], named["comm"], strict=True)}
        foreign = neighbours if isinstance(neighbours, dict) else {}
        table["own"] = ["yes" if tid in own else "no" for tid in table["tid"]]
        table["comm"] = pd.Series([_name(tid, own, foreign) for tid in table["tid"]], dtype=object, index=table.index)
        return _sorted(table)[[column.key for column in INSTEAD]]

    def _sum(self, out: Events, back: Events) -> None:
        voluntary = (out["arg0"] & np.uint32(SwitchFlag.VOLUNTARY)) != 0
        reason = ((out["arg0"] >> np.uint32(WAIT_REASON_SHIFT)) & np.uint32(WaitReason.FAULT)).astype(np.int64)
        table = pd.DataFrame(
            {
                "reason": np.where(voluntary, reason, _PREEMPTED),
                "next": np.where(voluntary, 0, out["arg2"].astype(np.uint32).astype(np.int64)),
                "count": 1,
                "offcpu_ns": as_time(back["arg1"]),
                "runq_wait_ns": as_time(back["arg2"]),
            }
        )
        self._sums.append(table.groupby(_KEYS).sum().reset_index())

    def _total(self) -> pd.DataFrame:
        if not self._sums:
            return pd.DataFrame(columns=[*_KEYS, "count", "offcpu_ns", "runq_wait_ns"], dtype=np.int64)
        return pd.concat(self._sums).groupby(_KEYS).sum().reset_index()


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("offcpu_ns", ascending=False, kind="stable").reset_index(drop=True)


def _name(tid: int, own: dict[int, str], foreign: dict[str, Any]) -> Any:
    if tid == 0:
        return "idle"
    name = own.get(tid, foreign.get(str(tid)))
    return name if isinstance(name, str) else None

"""What threads asked of the scheduler, affinity and priority, beside what they had when they ended."""

import os
from dataclasses import dataclass
from typing import Any

import pandas as pd

_POLICIES = {0: "OTHER", 1: "FIFO", 2: "RR", 3: "BATCH", 5: "IDLE", 6: "DEADLINE", 7: "EXT"}  # sched(7)
_RESET_ON_FORK = 0x40000000
_REAL_TIME = (1, 2)
AFFINITY, PRIORITY = "affinity", "priority"
_AFFINITY_CALL = "sched_setaffinity"
_LARGEST_CPU, _LONGEST_LIST = 1 << 14, 4096
_ERRORS = 4096  # include/linux/err.h: MAX_ERRNO


@dataclass(frozen=True)
class Had:
    """What a thread had when it ended."""

    cpus: frozenset[int]
    policy: int
    priority: int
    nice: int

    def described(self) -> str:
        """`FIFO 20`, `OTHER`, `OTHER nice -5`."""
        return priority_text(self.policy, self.priority, self.nice)


@dataclass(frozen=True)
class Asked:
    """The last that was asked of one `kind` for a thread; what the call does not set is None. `error` 0: success."""

    tid: int
    kind: str
    call: str
    error: int
    cpus: frozenset[int] | None
    policy: int | None
    priority: int | None
    nice: int | None

    def described(self) -> str:
        """What was asked: `CPUs 0-3`, `FIFO 20`, `nice -5`."""
        if self.cpus is not None:
            return f"CPUs {numbers(self.cpus)}"
        if self.policy is None:
            return f"nice {self.nice}" if self.nice is not None else f"priority {self.priority}"
        return priority_text(self.policy, self.priority or 0, self.nice or 0)

    @property
    def refusal(self) -> str:
        return os.strerror(self.error) if self.error < _ERRORS else f"error {self.error}"


@dataclass(frozen=True)
class Scheduling:
    """`asked` in order of time, `had` by thread: only those that ended."""

    asked: list[Asked]
    had: dict[int, Had]


def scheduling(table: pd.DataFrame) -> Scheduling:
    """Of Recording.scheduling. A request counts when no later one of its kind for the same thread succeeded."""
    asked: dict[tuple[int, str], Asked] = {}
    had: dict[int, Had] = {}
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        tid, call = int(row["tid"]), row["call"]
        if call is None:
            had[tid] = Had(cpus_of(row["cpus"] or ""), row["policy"] or 0, row["priority"] or 0, row["nice"] or 0)
            continue
        one = _asked(tid, str(call), row)
        before = asked.pop((tid, one.kind), None)
        # what failed after it had succeeded was a try, as OpenMP's runtimes make them to find out what there is
        asked[tid, one.kind] = before if before is not None and one.error and not before.error else one
    return Scheduling(list(asked.values()), had)


def _asked(tid: int, call: str, row: dict[Any, Any]) -> Asked:
    is_affinity = call == _AFFINITY_CALL
    return Asked(
        tid=tid,
        kind=AFFINITY if is_affinity else PRIORITY,
        call=call,
        error=row["error"] or 0,
        cpus=cpus_of(row["cpus"] or "") if is_affinity else None,
        policy=None if row["policy"] is None else row["policy"] & ~_RESET_ON_FORK,
        priority=row["priority"],
        nice=row["nice"],
    )


def priority_text(policy: int, priority: int, nice: int) -> str:
    name = _POLICIES.get(policy, f"policy {policy}")
    if policy in _REAL_TIME:
        return f"{name} {priority}"
    return f"{name} nice {nice}" if nice else name


def cpus_of(text: str) -> frozenset[int]:
    """The numbers in a list as in /proc/PID/status, `0-3,8`; of a damaged one those that are some."""
    cpus: set[int] = set()
    for part in text[:_LONGEST_LIST].split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            cpus.update(range(int(first), min(int(last or first), _LARGEST_CPU) + 1))
    return frozenset(cpus)


def numbers(cpus: frozenset[int]) -> str:
    """`0, 1`, a few of many."""
    ordered = sorted(cpus)
    return ", ".join(map(str, ordered[:8])) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")

"""What threads asked of the scheduler, and what they had in the end: records of the ring `tasks` as rows."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.host import n_possible_cpus
from bitnet_trace.recording.layout import TaskKind

SETAFFINITY, SETPRIORITY = "sched_setaffinity", "setpriority"
# x86-64 numbers, as bpf/asked.bpf.c looks at them
_CALLS = {141: SETPRIORITY, 142: "sched_setparam", 144: "sched_setscheduler", 203: SETAFFINITY, 314: "sched_setattr"}
_HAS_POLICY = {"sched_setscheduler", "sched_setattr"}
_HAS_NICE = {SETPRIORITY, "sched_setattr"}


def asked_rows(batch: npt.NDArray[np.void]) -> list[dict[str, Any]]:
    """Rows of schema.SCHEDULING_SCHEMA of the records ASKED and SCHEDULED in a batch of TASK_DTYPE."""
    return [_row(event) for event in batch[np.isin(batch["kind"], (TaskKind.ASKED, TaskKind.SCHEDULED))]]


def _row(event: np.void) -> dict[str, Any]:
    ended = int(event["kind"]) == TaskKind.SCHEDULED
    call = None if ended else _CALLS.get(int(event["device"]))
    priority = ended or call not in (SETAFFINITY, SETPRIORITY)
    return {
        "ts_ns": int(event["ts_ns"]),
        "pid": int(event["pid"]),
        "caller": int(event["tid"]),
        "tid": int(event["value"]) or int(event["tid"]),
        "call": call,
        "error": None if ended else int(event["length"]),
        "cpus": cpu_list(_mask(event, ended)) if ended or call == SETAFFINITY else None,
        "policy": int(event["address"]) if ended or call in _HAS_POLICY else None,
        "priority": int(event["offset"]) if priority else None,
        "nice": int(event["inode"].astype(np.int64)) if ended or call in _HAS_NICE else None,
    }


def _mask(event: np.void, ended: bool) -> int:
    mask = int.from_bytes(event["text"], "little")
    # what the kernel keeps beyond the CPUs that it may ever have is left as the memory was
    return mask & (1 << n_possible_cpus()) - 1 if ended else mask


def cpu_list(mask: int) -> str:
    """`0-3,8`: the numbers of the bits that are set, as the kernel writes lists of CPUs."""
    cpus = [cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1]
    ranges: list[list[int]] = []
    for cpu in cpus:
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)

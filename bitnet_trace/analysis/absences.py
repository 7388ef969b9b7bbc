"""Times off the CPU: each switch away, and the next switch in of the same thread."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.split import Ints, as_time
from bitnet_trace.recording.layout import DURATION_ONLY, EVENT_DTYPE, WAIT_REASON_SHIFT, Kind, SwitchFlag, WaitReason

PREEMPTED = -1

Events = npt.NDArray[np.void]


@dataclass(frozen=True)
class Absences:
    """Times off the CPU, an array per column, by thread and time.

    `phase` is the one at the switch away; `reason` a wait_reason of bpf/record.h, or PREEMPTED; `next` the thread that
    ran then, of a PREEMPTED one (0: none). Of `offcpu_ns`, the last `runq_ns` the thread was ready to run.
    """

    tid: Ints
    phase: Ints
    end_ns: Ints
    reason: Ints
    next: Ints
    offcpu_ns: Ints
    runq_ns: Ints

    def __len__(self) -> int:
        return len(self.tid)

    def __getitem__(self, rows: Any) -> "Absences":
        """Those of an index or a mask."""
        return Absences(*(getattr(self, one.name)[rows] for one in fields(self)))


def join(parts: list[Absences]) -> Absences:
    """All of them, one after the other."""
    nothing = np.empty(0, np.int64)
    return Absences(
        *(np.concatenate([nothing, *(getattr(part, one.name) for part in parts)]) for one in fields(Absences))
    )


class SwitchPairs:
    """Pairs switches; batches come in the order of time."""

    def __init__(self) -> None:
        self._open = np.empty(0, EVENT_DTYPE)  # of each thread its last switch away, when it has not come back

    def add(self, events: ByKind) -> Absences:
        """The absences that ended among `events`."""
        switches = events.of(Kind.SWITCH_OUT, Kind.SWITCH_IN)
        rows = np.concatenate([self._open, switches.compress(switches["arg0"] < DURATION_ONLY)])
        in_order = bool((rows["ts_ns"][:-1] <= rows["ts_ns"][1:]).all())
        by_thread = np.argsort(rows["tid"], kind="stable") if in_order else np.lexsort((rows["ts_ns"], rows["tid"]))
        rows = rows.take(by_thread)
        is_out = rows["kind"] == Kind.SWITCH_OUT
        paired = is_out[:-1] & ~is_out[1:] & (rows["tid"][:-1] == rows["tid"][1:])
        last = np.append(rows["tid"][:-1] != rows["tid"][1:], np.ones(min(len(rows), 1), bool))
        self._open = rows.compress(last & is_out)
        return _absences(rows[:-1].compress(paired), rows[1:].compress(paired))


def _absences(out: Events, back: Events) -> Absences:
    voluntary = (out["arg0"] & np.uint32(SwitchFlag.VOLUNTARY)) != 0
    reason = ((out["arg0"] >> np.uint32(WAIT_REASON_SHIFT)) & np.uint32(WaitReason.FAULT)).astype(np.int64)
    return Absences(
        tid=out["tid"].astype(np.int64),
        phase=out["phase"].astype(np.int64),
        end_ns=as_time(back["ts_ns"]),
        reason=np.where(voluntary, reason, PREEMPTED),
        next=np.where(voluntary, 0, out["arg2"].astype(np.uint32).astype(np.int64)),
        offcpu_ns=as_time(back["arg1"]),
        runq_ns=as_time(back["arg2"]),
    )

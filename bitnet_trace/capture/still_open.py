"""What is under way when a recording ends: threads that outlive it, and what was not told of them yet."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.recording.layout import DURATION_ONLY, EVENT_DTYPE, Kind, SwitchFlag

# x86-64 numbers of the calls that wait and are told with their duration when they end
_READS = frozenset({0, 17, 19, 295, 327})
_FUTEX = 202
_FUTEX_WAITS = {449: 200, 455: 201}  # futex_waitv, futex_wait: what bpf/futex.bpf.c calls them


def events(threads: Iterable[tuple[int, Any, int, Any]], end_ns: int) -> npt.NDArray[np.void]:
    """Records that end at `end_ns`, an EVENT_DTYPE array, as the kernel side would have sent them.

    `threads`: (tid, struct thread, phase of its process, struct wake_run or None) of each that has not ended, as they
    are after the last program has run. Waits, and time on a CPU, are closed at `end_ns` and flagged SWITCH_OPEN; a call
    that has not returned has a duration and is not counted. The time in the kernel lacks that of such a call.
    """
    rows = [row for thread in threads for row in _of_thread(*thread, end_ns)]
    return np.array(rows, EVENT_DTYPE)


def _of_thread(tid: int, t: Any, phase: int, wakes: Any, end_ns: int) -> list[tuple[int, ...]]:
    def row(kind: Kind, arg0: int, arg1: int, arg2: int, of_phase: int = phase, ts_ns: int = end_ns) -> tuple[int, ...]:
        return ts_ns, tid, of_phase, kind, t.cpu, arg0, arg1, arg2

    rows = []
    if t.off_ts > t.on_ts:
        runnable_ns = end_ns - t.runnable_ts if t.runnable_ts else 0
        rows.append(row(Kind.SWITCH_IN, SwitchFlag.OPEN | DURATION_ONLY, end_ns - t.off_ts, runnable_ns))
    elif t.on_ts:
        rows.append(row(Kind.SWITCH_OUT, SwitchFlag.OPEN | DURATION_ONLY, end_ns - t.on_ts, 0))
    if t.system_ns:
        rows.append(row(Kind.SYSTEM_TIME, 0, t.system_ns, 0, of_phase=t.system_phase))
    if wakes is not None:
        rows.append(row(Kind.FUTEX_WAKES, wakes.calls, wakes.address, wakes.woken, wakes.phase, wakes.first_ts))
    if t.call_ts and t.call_number in _READS:
        rows.append(row(Kind.READ, DURATION_ONLY, 0, end_ns - t.call_ts))
    elif t.call_ts and t.call_number in (_FUTEX, *_FUTEX_WAITS):
        # the arguments are read when a call ends: which operation of futex(2) waits here is taken from its being open
        operation = _FUTEX_WAITS.get(t.call_number, 0)
        rows.append(row(Kind.FUTEX, operation | DURATION_ONLY, 0, end_ns - t.call_ts))
    return rows

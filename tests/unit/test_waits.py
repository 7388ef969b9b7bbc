"""Time off the CPU by reason, and who ran instead."""

from types import SimpleNamespace

import pandas as pd
import pytest

from bitnet_trace.analysis.absences import SwitchPairs
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.wait_stacks import WaitStacks
from bitnet_trace.analysis.waits import Waits
from bitnet_trace.recording.layout import DURATION_ONLY, Kind, SwitchFlag, WaitReason
from tests.unit.traces import event, events

FUTEX, READ = 202 + 1, 0 + 1


def away(ts_ns, tid, reason=0, voluntary=True, following=0):
    flags = (SwitchFlag.VOLUNTARY if voluntary else 0) | reason << 19
    return event(Kind.SWITCH_OUT, ts_ns, tid=tid, arg0=flags, arg2=following)


def back(ts_ns, tid, off_ns, queue_ns=0):
    return event(Kind.SWITCH_IN, ts_ns, tid=tid, arg1=off_ns, arg2=queue_ns)


STORY = [
    away(10, 1, FUTEX),
    away(12, 2, READ),
    back(30, 1, 20, 5),
    back(32, 2, 20),
    away(40, 1, voluntary=False, following=77),
    away(45, 2, FUTEX),
    back(50, 1, 10, 10),
    back(145, 2, 100),
    away(150, 1, WaitReason.FAULT),
    back(157, 1, 7),
    away(160, 1, FUTEX),  # has not come back
]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_reasons_whatever_the_batches(size):
    waits, pairs = Waits(), SwitchPairs()
    for begin in range(0, len(STORY), size):
        waits.add(pairs.add(ByKind(events(*STORY[begin : begin + size]))))
    table = waits.by_reason().set_index("reason")
    assert list(table.index) == ["futex", "read", "preempted", "page fault"]
    assert list(table.loc["futex"]) == [2, 120, 5]
    assert list(table.loc["preempted"]) == [1, 10, 10]
    instead = waits.ran_instead(pd.DataFrame({"tid": [1], "comm": ["llama"]}), {"77": "cc1"})
    assert instead.to_dict("records") == [
        {"tid": 77, "comm": "cc1", "own": "no", "count": 1, "offcpu_ns": 10, "runq_wait_ns": 10}
    ]


def test_barriers_are_told_from_other_futexes_by_their_stacks():
    ms = 1_000_000
    samples = pd.DataFrame(
        [(20 * ms, 1, FUTEX, 0, 5 * ms), (41 * ms, 1, FUTEX, 1, 5 * ms), (50 * ms, 2, READ, 0, 5 * ms)],
        columns=["ts_ns", "tid", "reason", "stack", "period_ns"],
    )
    frames = pd.DataFrame(
        [
            (0, 0, "libc", "syscall", None),
            (0, 1, "libgomp", "[libgomp+0x10]", "OpenMP runtime"),
            (1, 0, "libc", "syscall", None),
            (1, 1, "a", "queue", "other"),
        ],
        columns=["stack", "level", "module", "function", "role"],
    )
    stacks = WaitStacks(SimpleNamespace(samples=samples), frames)
    waits, pairs = Waits(stacks), SwitchPairs()
    story = [
        away(1 * ms, 1, FUTEX), back(2 * ms, 1, 50_000),  # too short for a stack of its own
        away(14 * ms, 1, FUTEX), back(19 * ms, 1, 5 * ms, ms),
        away(35 * ms, 1, FUTEX), back(40 * ms, 1, 5 * ms),
        away(44 * ms, 2, READ), back(49 * ms, 2, 5 * ms),
        away(60 * ms, 2, FUTEX), back(70 * ms, 2, 10 * ms),  # its stack was lost
    ]  # fmt: skip
    waits.add(pairs.add(ByKind(events(*story))))
    table = waits.by_reason().set_index("reason")
    assert list(table.loc["barrier"]) == [1, 5 * ms, ms]
    assert list(table.loc["futex"]) == [3, 15 * ms + 50_000, 0]
    assert stacks.by_function().to_dict() == {
        ("a", "queue"): 5 * ms, ("libc", "syscall"): 15 * ms, ("libgomp", "[libgomp+0x10]"): 10 * ms
    }  # fmt: skip


def test_durations_alone_are_no_waits():
    waits = Waits()
    stream = events(away(10, 1, FUTEX), event(Kind.SWITCH_IN, 20, tid=1, arg0=DURATION_ONLY, arg1=9))
    waits.add(SwitchPairs().add(ByKind(stream)))
    assert not len(waits.by_reason())
    assert not len(waits.ran_instead(pd.DataFrame({"tid": [], "comm": []}), None))

"""Barrier instances, waits, stragglers and their causes, of hand-made entries."""

import random
import time

import numpy as np
import pandas as pd
import pytest
from traces import PID, event, events, phase_row, phase_table

from bitnet_trace.analysis.absences import SwitchPairs
from bitnet_trace.analysis.barriers import MOST_ENTRIES, BarrierEvents, match, windows_read
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.lateness import CAUSES, MOST_NS_A_MOVE
from bitnet_trace.recording.layout import EVENT_DTYPE, FaultFlag, Kind, SwitchFlag, WaitReason

OBJECT = 0x7F00_0000_1000
FUTEX = 202 + 1


def entry(ts_ns, tid, phase=1, place=OBJECT, probe=0):
    return event(Kind.BARRIER, ts_ns, phase, tid, probe, place)


def away(ts_ns, tid, reason=0, voluntary=True, following=0):
    flags = (SwitchFlag.VOLUNTARY if voluntary else 0) | reason << 19
    return event(Kind.SWITCH_OUT, ts_ns, tid=tid, arg0=flags, arg2=following)


def back(ts_ns, tid, off_ns, queue_ns=0):
    return event(Kind.SWITCH_IN, ts_ns, tid=tid, arg1=off_ns, arg2=queue_ns)


def windows(*spans, what="barriers"):
    return pd.DataFrame(
        [{"what": what, "begin_ns": begin, "end_ns": end, "hits": 0, "cost_ns": 0} for begin, end in spans],
        columns=["what", "begin_ns", "end_ns", "hits", "cost_ns"],
    )


def found(*rows, calls=((1, 0, 10_000),), spans=((0, 1 << 40),), size=1000):
    """The barriers of events, given in batches of `size`, in calls of (id, begin, end)."""
    phases = phase_table(*(phase_row(*call) for call in calls))
    gatherer, pairs = BarrierEvents(windows(*spans), phases), SwitchPairs()
    batch = events(*sorted(rows))
    for begin in range(0, len(batch), size):
        part = batch[begin : begin + size]
        gatherer.add(ByKind(part), pairs.add(ByKind(part)))
    return gatherer.result()


def causes(instance):
    return {name: instance[name] for name in CAUSES if instance[name]}


def test_order_skew_waits_and_the_last():
    barriers = found(
        *(entry(100, 1), entry(160, 2), entry(130, 3)),
        *(entry(330, 1), entry(320, 2), entry(310, 3)),
    )
    assert barriers.instances[["skew_ns", "last_tid", "late_ns"]].values.tolist() == [[60, 2, 30], [20, 1, 10]]
    first = barriers.arrivals[barriers.arrivals["instance"] == 0]
    assert first[["tid", "rank", "wait_ns"]].values.tolist() == [[1, 0, 60], [3, 1, 30], [2, 2, 0]]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("held", "expected", "by"),
    [
        (
            [away(210, 1, voluntary=False, following=77), back(290, 1, 80, 80)],
            {"preempted": 80, "slower": 10},
            (77, -1),
        ),
        ([away(210, 1, FUTEX), back(290, 1, 80, 0)], {"asleep": 80, "slower": 10}, (-1, FUTEX)),
        ([away(210, 1, FUTEX), back(290, 1, 80, 60)], {"asleep": 20, "run_queue": 60, "slower": 10}, (-1, -1)),
        ([event(Kind.FAULT, 280, tid=1, arg2=70)], {"fault": 70, "slower": 20}, (-1, -1)),
        # a fault that sleeps is one cause, not two
        (
            [away(215, 1, WaitReason.FAULT), back(275, 1, 60, 5), event(Kind.FAULT, 280, tid=1, arg2=70)],
            {"fault": 70, "slower": 20},
            (-1, -1),
        ),
        ([event(Kind.FAULT, 280, tid=1, arg0=FaultFlag.NO_LATENCY, arg2=70)], {"slower": 90}, (-1, -1)),
        ([event(Kind.MIGRATE, 250, tid=1)], {"migrated": 90}, (-1, -1)),
        ([], {"slower": 90}, (-1, -1)),
        # what held up another thread, or in another barrier, is no reason
        ([away(205, 2, FUTEX), back(209, 2, 4), event(Kind.MIGRATE, 150, tid=1)], {"slower": 90}, (-1, -1)),
    ],
)
def test_why_the_last_was_late(held, expected, by, size):
    """Both are let go at 200; thread 2 needs 10 ns, thread 1 100."""
    rows = [entry(100, 1), entry(200, 2), entry(210, 2), entry(300, 1)]
    instance = found(*rows, *held, size=size).instances.iloc[1]
    assert (instance["last_tid"], instance["late_ns"]) == (1, 90)
    assert causes(instance) == expected
    assert instance["cause"] == max(expected, key=expected.get)
    assert (instance["by_tid"], instance["by_reason"]) == by


def test_a_move_explains_no_more_than_it_can_cost():
    rows = [entry(100, 1), entry(200, 2), entry(210, 2), entry(1_000_200, 1), event(Kind.MIGRATE, 250, tid=1)]
    instance = found(*rows, calls=[(1, 0, 2_000_000)]).instances.iloc[1]
    assert causes(instance) == {"migrated": MOST_NS_A_MOVE, "slower": 1_000_000 - 10 - MOST_NS_A_MOVE}


def test_waiting_in_the_barrier_before_is_not_being_late():
    """Thread 1 sleeps in the barrier from 110 on, is let go at 500, comes back at 520."""
    sleeping = [away(110, 1, FUTEX), back(520, 1, 410, 15)]
    instance = found(entry(100, 1), entry(500, 2), entry(505, 2), entry(530, 1), *sleeping).instances.iloc[1]
    # 500 to 505 was the waker's, and 15 ns it had no CPU; the other needed 5
    assert causes(instance) == {"asleep": 5, "run_queue": 15, "slower": 5}


def test_the_first_barrier_of_a_call_begins_with_it():
    instance = found(entry(1100, 1), entry(1300, 2), calls=[(1, 1000, 9000)]).instances.iloc[0]
    assert (instance["late_ns"], causes(instance)) == (200, {"slower": 200})


def test_calls_that_do_not_fit_are_not_used():
    calls = [(1, 0, 1000), (2, 2000, 3000), (3, 4000, 5000)]
    uneven = [entry(100, 1), entry(110, 2), entry(120, 1)]
    # thread 1 is at the next barrier before thread 2 came to this one
    disordered = [entry(2100, 1, 2), entry(2110, 1, 2), entry(2120, 2, 2), entry(2130, 2, 2)]
    fine = [entry(4100, 1, 3), entry(4110, 2, 3)]
    barriers = found(*uneven, *disordered, *fine, calls=calls)
    assert (barriers.n_uneven, barriers.n_disordered, len(barriers.instances)) == (1, 1, 1)
    assert barriers.calls["id"].tolist() == [3]


def test_only_whole_calls_are_used():
    calls = [(1, 0, 1000), (2, 2000, 3000), (3, 4000, 5000)]
    rows = [entry(begin + 100 * i, 1 + i, phase) for phase, begin, _ in calls for i in range(2)]
    assert found(*rows, calls=calls, spans=[(500, 3000), (4001, 5000)]).calls["id"].tolist() == [2]
    assert found(*rows, calls=calls, spans=[(0, 1500), (1600, 6000)]).calls["id"].tolist() == [1, 2, 3]
    assert not len(found(*rows, calls=calls, spans=[]).arrivals)
    open_call = phase_table(phase_row(1, 0, None), phase_row(2, 0, 50, overlapped=True), phase_row(3, 0, 50, "load"))
    assert not len(BarrierEvents(windows((0, 100)), open_call).calls)
    other = windows_read(windows((0, 100), what="function:f"))
    assert not len(BarrierEvents(other, phase_table(phase_row(1, 0, 9))).calls)


def test_of_many_windows_some_are_read_spread_over_the_run():
    spans = [(1000 * number, 1000 * number + 500) for number in range(100)]
    few = windows_read(windows(*spans).assign(hits=MOST_ENTRIES // 100))
    assert len(few) == 100
    many = windows_read(windows(*reversed(spans)).assign(hits=MOST_ENTRIES // 10))
    assert many["begin_ns"].tolist() == [begin for begin, _ in spans[::10]]


def test_a_call_without_a_barrier_was_not_seen():
    """The probe was where this engine does not wait."""
    barriers = found(entry(2100, 1, 2), entry(2200, 2, 2), calls=[(1, 0, 1000), (2, 2000, 3000)])
    assert barriers.calls["id"].tolist() == [2]


def test_one_thread_is_never_late():
    barriers = found(entry(100, 1), entry(200, 1))
    assert barriers.instances["late_ns"].tolist() == [0, 0]
    assert barriers.instances["cause"].tolist() == [None, None]


def test_barriers_are_told_apart_by_object_else_by_probe():
    by_object = [entry(10 * i, 1 + i % 2, place=place) for i, place in enumerate((1, 1, 2, 2), 1)]
    assert len(found(*by_object).instances) == 2
    by_probe = [entry(10 * i, 1 + i % 2, place=0, probe=probe) for i, probe in enumerate((3, 3, 4, 4), 1)]
    assert len(found(*by_probe).instances) == 2


def test_against_a_plain_loop():
    """Random teams, calls and delays; waits and lateness as a loop over the barriers would sum them."""
    random.seed(5)
    rows, truth, waits, now = [], [], {}, 0
    calls = []
    for phase in range(1, 30):
        team, begin = range(1, random.randint(2, 6)), now
        for _ in range(random.randint(0, 12)):
            arrivals = sorted((now + random.randint(1, 999), tid) for tid in team)
            rows += [entry(ts_ns, tid, phase) for ts_ns, tid in arrivals]
            now, last = arrivals[-1]
            truth.append((phase, last, now - arrivals[0][0], now - arrivals[-2][0] if len(arrivals) > 1 else 0))
            for ts_ns, tid in arrivals:
                waits[tid] = waits.get(tid, 0) + now - ts_ns
        now += 10
        calls.append((phase, begin, now))
    barriers = found(*rows, calls=calls, size=17)
    columns = ["phase", "last_tid", "skew_ns", "late_ns"]
    assert [tuple(row) for row in barriers.instances[columns].values.tolist()] == truth
    assert barriers.arrivals.groupby("tid")["wait_ns"].sum().to_dict() == waits
    assert (barriers.instances[list(CAUSES)].sum(axis=1) == barriers.instances["late_ns"]).all()


def test_a_million_entries_take_a_second():
    n_threads, n_barriers, n_calls = 4, 700, 360
    random_ = np.random.default_rng(1)
    entries = np.zeros(n_threads * n_barriers * n_calls, EVENT_DTYPE)
    begins = np.repeat(np.arange(n_barriers * n_calls) * 100_000, n_threads)
    entries["ts_ns"] = begins + random_.integers(1, 50_000, len(entries))
    entries["tid"] = np.tile(np.arange(n_threads) + PID, n_barriers * n_calls)
    entries["phase"] = np.repeat(np.arange(n_calls) + 1, n_barriers * n_threads)
    entries["kind"], entries["arg1"] = Kind.BARRIER, OBJECT
    entries = entries[np.argsort(entries["ts_ns"], kind="stable")]
    calls = pd.DataFrame({"id": np.arange(n_calls) + 1, "begin_ns": np.arange(n_calls) * n_barriers * 100_000})
    nothing = np.empty(0, EVENT_DTYPE)
    begin = time.process_time()
    barriers = match(entries, calls, SwitchPairs().add(ByKind(nothing)), nothing, nothing)
    assert time.process_time() - begin < 2  # half a second on a quiet machine
    assert len(barriers.instances) == n_barriers * n_calls


# ---- parts of long calls --------------------------------------------------------------------------------------------


def cut(arrivals, *spans, call=(0, 1 << 40)):
    """The barriers of a prefill of which windows saw the entries in `spans`; `arrivals`: (time, thread)."""
    seen = [entry(ts, tid) for ts, tid in arrivals if any(begin <= ts <= end for begin, end in spans)]
    phases = phase_table(phase_row(1, *call, n_tokens=7))
    gatherer = BarrierEvents(windows(*spans), phases)
    batch = ByKind(events(*seen))
    gatherer.add(batch, SwitchPairs().add(batch))
    return gatherer.result()


def meeting(chosen, threads, rounds):
    """(time, thread) of threads that meet so often, in no order of their own."""
    found, now = [], 0
    for _ in range(rounds):
        ts = sorted(chosen.sample(range(now + 1, now + 1000), threads))
        found += list(zip(ts, chosen.sample(range(1, threads + 1), threads), strict=True))
        now = ts[-1]
    return found


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_a_part_has_the_barriers_that_lie_wholly_in_it(threads):
    """But the first: as it was complete the part begins."""
    chosen = random.Random(100 + threads)
    arrivals = meeting(chosen, threads, 60)
    rounds = [sorted(arrivals[i : i + threads]) for i in range(0, len(arrivals), threads)]
    for _ in range(50):
        begin, end = sorted(chosen.sample(range(arrivals[-1][0]), 2))
        barriers = cut(arrivals, (begin, end))
        whole = [one for one in rounds if begin <= one[0][0] and one[-1][0] <= end]
        if len(barriers.parts):
            assert barriers.parts.values.tolist() == [[1, whole[0][-1][0], whole[-1][-1][0]]]
            assert barriers.instances[["phase", "first_ns", "last_ns", "last_tid"]].values.tolist() == [
                [1, one[0][0], *one[-1]] for one in whole[1:]
            ]
        else:
            assert len(whole) < 3 or barriers.n_unplaced
        assert not barriers.n_unplaced or len(whole) < 12
        assert (barriers.n_uneven, barriers.n_disordered, len(barriers.calls)) == (0, 0, 0)


def test_several_parts_of_a_call_are_kept_apart():
    arrivals = meeting(random.Random(5), 3, 60)
    end = arrivals[-1][0]
    barriers = cut(arrivals, (end // 9, end // 3), (end // 2, end))
    assert len(barriers.parts) == 2
    gap_ns = barriers.parts["begin_ns"][1] - barriers.parts["end_ns"][0]
    assert barriers.instances["late_ns"].max() < 1000 < gap_ns
    assert (
        barriers.instances["first_ns"].between(barriers.parts["end_ns"][0] + 1, barriers.parts["begin_ns"][1]).sum()
        == 0
    )


def test_threads_that_come_in_turns_do_not_tell_who_waits_for_whom():
    """Unless the window saw where the call began, or where it ended."""
    arrivals = [(100 * i + (60 if tid == 2 else 0), tid) for i in range(1, 50) for tid in (1, 2)]
    assert cut(arrivals, (350, 2150)).n_unplaced == 1
    for call in ((390, 1 << 40), (0, 2190)):
        barriers = cut(arrivals, (305, 2300), call=call)
        assert (barriers.n_unplaced, set(barriers.instances["last_tid"])) == (0, {2})


def test_decoded_tokens_and_calls_seen_whole_have_no_parts():
    arrivals = meeting(random.Random(1), 2, 60)
    end = arrivals[-1][0]
    assert not len(cut(arrivals, (0, end // 2), (end // 2, end + 1), call=(0, end // 3)).parts)
    phases = phase_table(phase_row(1, 0, end, n_tokens=1), phase_row(2, end, end + 9))
    gatherer = BarrierEvents(windows((5, end - 5)), phases)
    gatherer.add(ByKind(events(*(entry(*one) for one in arrivals))), SwitchPairs().add(ByKind(events())))
    assert not len(gatherer.result().parts)


def test_entries_of_any_order_end():
    """As a damaged recording has them, of as many threads as entries."""
    chosen, began = random.Random(3), time.monotonic()
    for threads in (2, 200_000):
        barriers = cut([(ts, chosen.randrange(threads)) for ts in range(1, 200_000)], (50, 1 << 20))
        assert barriers.n_unplaced + len(barriers.parts) <= 1
    assert time.monotonic() - began < 20

"""Events to counters: what is counted, what is split, and that both ways of recording agree."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import PID, event, events, phase_row, phase_table

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.fold import Folding, fold_events, from_stored, no_counters
from bitnet_trace.analysis.phases import timelines
from bitnet_trace.analysis.sums import Sums, added
from bitnet_trace.recording.layout import (
    COUNTER_FIELDS,
    DURATION_ONLY,
    FaultFlag,
    Kind,
    MemoryDetail,
    SwitchFlag,
)
from bitnet_trace.recording.schema import COUNTER_DTYPE

THREE_PHASES = phase_table(phase_row(1, 0, 100, "load"), phase_row(2, 100, 150), phase_row(3, 150, None, "gap"))


def fold(*rows, phases=THREE_PHASES):
    """{(phase, tid): {counter: value}} without zeros."""
    table = fold_events(events(*rows), phases)
    assert list(table.columns) == list(COUNTER_FIELDS)
    return {key: {name: int(row[name]) for name in COUNTER_FIELDS if row[name]} for key, row in table.iterrows()}


def test_a_duration_over_three_phases_is_split_at_their_edges():
    assert fold(event(Kind.SWITCH_OUT, 170, 3, arg0=SwitchFlag.VOLUNTARY, arg1=100)) == {
        (1, PID): {"cpu_ns": 30},
        (2, PID): {"cpu_ns": 50},
        (3, PID): {"cpu_ns": 20, "switches_voluntary": 1},
    }


def test_a_duration_that_ends_at_an_edge_has_no_part_behind_it():
    assert fold(event(Kind.SWITCH_OUT, 150, 3, arg1=10)) == {
        (2, PID): {"cpu_ns": 10},
        (3, PID): {"switches_involuntary": 1},
    }


def test_the_first_phase_reaches_back_and_the_last_one_on():
    phases = phase_table(phase_row(1, 50, 100), phase_row(2, 100, 150))
    assert fold(event(Kind.SWITCH_IN, 200, 2, arg1=180), phases=phases) == {
        (1, PID): {"offcpu_ns": 80},
        (2, PID): {"offcpu_ns": 100},
    }


def test_the_run_queue_interval_is_the_last_part_of_the_off_cpu_interval():
    assert fold(event(Kind.SWITCH_IN, 160, 3, arg1=100, arg2=30)) == {
        (1, PID): {"offcpu_ns": 40},
        (2, PID): {"offcpu_ns": 50, "runq_wait_ns": 20},
        (3, PID): {"offcpu_ns": 10, "runq_wait_ns": 10},
    }


def test_durations_are_split_at_the_edges_of_their_own_process():
    phases = phase_table(
        phase_row(1, 0, 100), phase_row(2, 100, None), phase_row(3, 0, 130, pid=200), phase_row(4, 130, None, pid=200)
    )
    assert fold(
        event(Kind.SWITCH_IN, 140, 2, tid=100, arg1=60), event(Kind.SWITCH_IN, 140, 4, tid=200, arg1=60), phases=phases
    ) == {
        (1, 100): {"offcpu_ns": 20},
        (2, 100): {"offcpu_ns": 40},
        (3, 200): {"offcpu_ns": 50},
        (4, 200): {"offcpu_ns": 10},
    }


def test_overlapping_calls_bill_to_the_newest_that_is_open():
    phases = phase_table(
        phase_row(1, 0, 100, overlapped=True),
        phase_row(2, 40, 60, tid=101, overlapped=True),
        phase_row(3, 100, None, "gap"),
    )
    line = timelines(phases)[PID]
    assert line.phase.tolist() == [1, 2, 1, 3]
    assert line.begin_ns[1:].tolist() == [40, 60, 100]
    assert fold(event(Kind.SWITCH_OUT, 110, 3, tid=102, arg1=90), phases=phases) == {
        (1, 102): {"cpu_ns": 60},
        (2, 102): {"cpu_ns": 20},
        (3, 102): {"cpu_ns": 10, "switches_involuntary": 1},
    }
    # The kernel sees the same phase at both ends, and so does the fold.
    assert fold(event(Kind.SWITCH_IN, 80, 1, tid=102, arg1=60), phases=phases) == {(1, 102): {"offcpu_ns": 60}}


def test_an_older_call_that_ends_first_changes_nothing_for_the_newer():
    phases = phase_table(
        phase_row(1, 0, 50, overlapped=True),
        phase_row(2, 40, 60, tid=101, overlapped=True),
        phase_row(3, 60, None, "gap"),
    )
    line = timelines(phases)[PID]
    assert (line.phase.tolist(), line.begin_ns[1:].tolist()) == ([1, 2, 3], [40, 60])


def test_an_event_of_an_unknown_phase_keeps_its_number():
    assert fold(event(Kind.SWITCH_OUT, 120, 77, arg1=100)) == {(77, PID): {"cpu_ns": 100, "switches_involuntary": 1}}
    assert fold(event(Kind.YIELD, 120, 5), phases=phase_table()) == {(5, PID): {"sched_yield_calls": 1}}


@pytest.mark.parametrize(
    ("flags", "counter"),
    [
        (0, "faults_user_minor"),
        (FaultFlag.MAJOR, "faults_user_major"),
        (FaultFlag.KERNEL | FaultFlag.WRITE, "faults_kernel_minor"),
        (FaultFlag.KERNEL | FaultFlag.MAJOR, "faults_kernel_major"),
    ],
)
def test_faults_by_source_and_class(flags, counter):
    assert fold(event(Kind.FAULT, 90, arg0=flags, arg2=700)) == {(1, PID): {counter: 1, "fault_ns": 700}}


def test_a_failed_fault_is_no_minor_fault():
    flags = FaultFlag.FAILED | FaultFlag.KERNEL | FaultFlag.NO_LATENCY
    assert fold(event(Kind.FAULT, 90, arg0=flags, arg2=700)) == {(1, PID): {"faults_failed": 1}}


def test_populate_carries_both_classes_and_bytes():
    assert fold(event(Kind.POPULATE, 90, arg0=9, arg1=5 | 3 << 32, arg2=32768)) == {
        (1, PID): {"faults_populate_minor": 5, "faults_populate_major": 3, "populated_bytes": 32768}
    }


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (SwitchFlag.VOLUNTARY, {"switches_voluntary": 1}),
        (SwitchFlag.PREEMPT, {"switches_involuntary": 1}),
        (0, {"switches_involuntary": 1}),
        (SwitchFlag.VOLUNTARY | SwitchFlag.EXIT, {}),
        (SwitchFlag.VOLUNTARY | 0x100 << 8, {"switches_voluntary": 1}),
    ],
)
def test_switches(flags, expected):
    assert fold(event(Kind.SWITCH_OUT, 90, arg0=flags, arg1=5)) == {(1, PID): {"cpu_ns": 5, **expected}}


def test_an_open_wait_has_durations_and_no_counts():
    assert fold(event(Kind.SWITCH_IN, 90, arg0=SwitchFlag.OPEN | SwitchFlag.MIGRATED, arg1=50, arg2=7)) == {
        (1, PID): {"offcpu_ns": 50, "runq_wait_ns": 7}
    }


@pytest.mark.parametrize("operation", [0, 6, 9, 11, 13, 0 | 128, 9 | 128 | 256, 200, 201])
def test_futex_calls_that_wait(operation):
    assert fold(event(Kind.FUTEX, 90, arg0=operation | 11 << 16, arg2=40)) == {
        (1, PID): {"futex_calls": 1, "futex_wait_ns": 40}
    }


@pytest.mark.parametrize("operation", [1, 3, 4, 5, 7, 12, 1 | 128, 202, 203])
def test_futex_calls_that_do_not_wait(operation):
    assert fold(event(Kind.FUTEX, 90, arg0=operation, arg2=40)) == {(1, PID): {"futex_calls": 1}}


def test_a_run_of_wakes_is_as_many_calls_as_it_says():
    assert fold(event(Kind.FUTEX_WAKES, 90, arg0=37, arg1=0x1000, arg2=2)) == {(1, PID): {"futex_calls": 37}}


def test_reads_that_fail_return_no_bytes():
    assert fold(event(Kind.READ, 90, arg1=4096, arg2=8), event(Kind.READ, 95, arg1=2**64 - 11, arg2=1)) == {
        (1, PID): {"read_calls": 2, "read_bytes": 4096, "read_ns": 9}
    }


def test_memory_calls():
    assert fold(
        event(Kind.MMAP, 90, arg0=16, arg1=0x7000 | MemoryDetail.READ, arg2=3),
        event(Kind.MMAP, 90, arg0=16, arg1=MemoryDetail.FAILED, arg2=1),
        event(Kind.MUNMAP, 90, arg0=2, arg2=1),
        event(Kind.MREMAP, 90, arg0=2, arg2=1),
        event(Kind.BRK, 90, arg2=1),
        event(Kind.MADVISE, 90, arg0=9, arg2=1),
        event(Kind.MPROTECT, 90, arg0=9, arg2=1),
        event(Kind.MLOCK, 90, arg0=9, arg2=1),
    ) == {
        (1, PID): {
            "mmap_calls": 2,
            "mmap_bytes": 16 * 4096,
            "munmap_calls": 1,
            "munmap_bytes": 2 * 4096,
            "mremap_calls": 1,
            "brk_calls": 1,
            "madvise_calls": 1,
            "mprotect_calls": 1,
            "mlock_calls": 1,
            "memory_calls_ns": 10,
        }
    }


def test_the_rest_of_the_kinds():
    assert fold(
        event(Kind.WAKEUP, 90, arg0=7),
        event(Kind.MIGRATE, 90, arg0=1),
        event(Kind.YIELD, 90, arg2=1000),
        event(Kind.SYSTEM_TIME, 99, arg1=1234),
        event(Kind.RSS, 80, arg0=PID, arg1=500),
        event(Kind.RSS, 90, arg0=PID, arg1=300),
        event(Kind.PHASE_MARK, 90),
        event(99, 90, arg1=5),
    ) == {
        (1, PID): {
            "wakeups": 1,
            "migrations": 1,
            "sched_yield_calls": 1,
            "cpu_system_ns": 1234,
            "rss_peak_bytes": 500,
        }
    }


@pytest.mark.parametrize(
    ("kind", "arg0", "arg1", "arg2", "expected"),
    [
        (Kind.SWITCH_OUT, SwitchFlag.VOLUNTARY, 30, 0, "cpu_ns"),
        (Kind.SWITCH_IN, 0, 30, 0, "offcpu_ns"),
        (Kind.FUTEX, 0, 0, 30, "futex_wait_ns"),
        (Kind.READ, 3, 4096, 30, "read_ns"),
        (Kind.MMAP, 0, 0x7000, 30, "memory_calls_ns"),
    ],
)
def test_a_duration_only_record_counts_nothing(kind, arg0, arg1, arg2, expected):
    assert fold(event(kind, 110, 2, arg0=arg0 | DURATION_ONLY, arg1=arg1, arg2=arg2)) == {
        (1, PID): {expected: 20},
        (2, PID): {expected: 10},
    }


def test_peak_memory_is_a_maximum_over_batches_and_all_else_a_sum():
    one = fold_events(events(event(Kind.RSS, 80, arg1=500), event(Kind.YIELD, 80)), THREE_PHASES)
    two = fold_events(events(event(Kind.RSS, 90, arg1=300), event(Kind.YIELD, 90)), THREE_PHASES)
    both = added([Sums.of(one), Sums.of(two)]).table().loc[(1, PID)]
    assert (both["rss_peak_bytes"], both["sched_yield_calls"]) == (500, 2)


def test_stored_deltas_are_summed_and_peaks_are_not():
    deltas = np.zeros(3, dtype=COUNTER_DTYPE)
    deltas["phase"], deltas["tid"] = [1, 1, 2], [9, 9, 9]
    deltas["read_calls"], deltas["rss_peak_bytes"] = [1, 2, 4], [70, 50, 60]
    table = from_stored(pd.DataFrame(deltas)).table()
    assert table.loc[(1, 9)][["read_calls", "rss_peak_bytes"]].tolist() == [3, 70]
    assert table.loc[(2, 9)][["read_calls", "rss_peak_bytes"]].tolist() == [4, 60]


def test_no_events_no_counters():
    pd.testing.assert_frame_equal(fold_events(events(), THREE_PHASES), no_counters())
    pd.testing.assert_frame_equal(fold_events([], THREE_PHASES), no_counters())


# ---- properties: a process with phases between random edges, threads that run and sleep, calls that wait --------------

END_NS = 400


@st.composite
def runs(draw):
    """(phase table, what happened): intervals as (kind, tid, begin, end) and points as (kind, tid, time)."""
    inner = st.lists(st.integers(1, END_NS - 1), max_size=8)
    edges = [0, *sorted(draw(inner))]
    ends = [*edges[1:], None]
    phases = phase_table(*(phase_row(i + 1, a, b) for i, (a, b) in enumerate(zip(edges, ends, strict=True))))
    ends_ns = st.integers(1, END_NS)
    interval = st.tuples(
        st.sampled_from([Kind.SWITCH_OUT, Kind.SWITCH_IN, Kind.FUTEX, Kind.READ, Kind.MMAP]),
        st.integers(PID, PID + 2),
        ends_ns,
        ends_ns,
    )
    point = st.tuples(st.sampled_from([Kind.FAULT, Kind.WAKEUP, Kind.YIELD]), st.integers(PID, PID + 2), ends_ns)
    intervals = [(k, tid, min(a, b), max(a, b)) for k, tid, a, b in draw(st.lists(interval, max_size=12))]
    return phases, edges, intervals, draw(st.lists(point, max_size=12))


DURATION = {
    Kind.SWITCH_OUT: "cpu_ns",
    Kind.SWITCH_IN: "offcpu_ns",
    Kind.FUTEX: "futex_wait_ns",
    Kind.READ: "read_ns",
    Kind.MMAP: "memory_calls_ns",
}
COUNT = {
    Kind.SWITCH_OUT: "switches_involuntary",
    Kind.FUTEX: "futex_calls",
    Kind.READ: "read_calls",
    Kind.MMAP: "mmap_calls",
    Kind.FAULT: "faults_user_minor",
    Kind.WAKEUP: "wakeups",
    Kind.YIELD: "sched_yield_calls",
}


def phase_at(edges, ts_ns):
    """The number of the phase that a record made at `ts_ns` names."""
    return max(i + 1 for i, edge in enumerate(edges) if edge <= ts_ns)


def record(kind, tid, begin_ns, end_ns, phase, flags=0):
    length = end_ns - begin_ns
    in_arg1 = kind in (Kind.SWITCH_OUT, Kind.SWITCH_IN)
    return event(kind, end_ns, phase, tid, flags, length if in_arg1 else 0, 0 if in_arg1 else length)


def by_brute_force(edges, intervals, points):
    """Every nanosecond by itself."""
    sums = Counter()
    for kind, tid, begin_ns, end_ns in intervals:
        for ns in range(begin_ns, end_ns):
            sums[phase_at(edges, ns), tid, DURATION[kind]] += 1
        if kind in COUNT:
            sums[phase_at(edges, end_ns), tid, COUNT[kind]] += 1
    for kind, tid, ts_ns in points:
        sums[phase_at(edges, ts_ns), tid, COUNT[kind]] += 1
    return sums


def nonzero(table):
    return {
        (phase, tid, name): int(row[name])
        for (phase, tid), row in table.iterrows()
        for name in COUNTER_FIELDS
        if row[name]
    }


@given(runs(), st.integers(1, 30))
@settings(deadline=None, max_examples=150)
def test_events_fold_to_what_every_nanosecond_adds_up_to(run, batch_size):
    phases, edges, intervals, points = run
    stream = [record(*one, phase_at(edges, one[3])) for one in intervals]
    stream += [event(kind, ts_ns, phase_at(edges, ts_ns), tid) for kind, tid, ts_ns in points]
    batches = [events(*stream[i : i + batch_size]) for i in range(0, len(stream), batch_size)]
    assert nonzero(fold_events(batches, phases)) == dict(by_brute_force(edges, intervals, points))


@given(runs(), st.lists(st.integers(0, 2), min_size=9, max_size=9), st.sets(st.integers(PID, PID + 2)))
@settings(deadline=None, max_examples=150)
def test_sums_by_name_and_of_phases_are_those_of_all_their_parts(run, names, tids):
    phases, edges, intervals, _points = run
    folding = Folding(phases)
    for one in intervals:
        folding.add(ByKind(events(record(*one, phase_at(edges, one[3])))))
    sums = folding.sums()
    table, ids = sums.table(), phases["id"].to_numpy(np.int64)
    by_name = np.array(names[: len(ids)], np.int64)
    own = table.index.get_level_values("phase").map(dict(zip(ids, by_name, strict=True))).rename("phase")
    expected = table.groupby([own, table.index.get_level_values("tid")]).sum()
    assert nonzero(sums.called(ids, by_name).table()) == nonzero(expected)
    chosen = table[table.index.get_level_values("tid").isin(tids)]
    for several, of_threads in ((None, table), (tids, chosen)):
        expected = of_threads.groupby(level="phase").sum().reindex(ids, fill_value=0).reset_index(drop=True)
        names_of_time = list(DURATION.values())
        found = sums.of_phases(ids, names_of_time, several)
        pd.testing.assert_frame_equal(found, expected[names_of_time], check_names=False)


@given(runs())
@settings(deadline=None, max_examples=150)
def test_counting_in_the_kernel_and_folding_the_stream_agree(run):
    phases, edges, intervals, points = run
    stream, carried, stored = [], [], Counter()
    for kind, tid, begin_ns, end_ns in intervals:
        phase = phase_at(edges, end_ns)
        stream.append(record(kind, tid, begin_ns, end_ns, phase))
        if kind in COUNT:
            stored[phase, tid, COUNT[kind]] += 1
        # The kernel side knows the phase at both ends of a duration, and nothing of those between.
        if phase_at(edges, begin_ns) == phase:
            stored[phase, tid, DURATION[kind]] += end_ns - begin_ns
        else:
            carried.append(record(kind, tid, begin_ns, end_ns, phase, DURATION_ONLY))
    for kind, tid, ts_ns in points:
        stream.append(event(kind, ts_ns, phase_at(edges, ts_ns), tid))
        stored[phase_at(edges, ts_ns), tid, COUNT[kind]] += 1
    deltas = np.zeros(len(stored), dtype=COUNTER_DTYPE)
    for row, ((phase, tid, name), value) in zip(deltas, stored.items(), strict=True):
        row["phase"], row["tid"], row[name] = phase, tid, value
    counted = added([from_stored(pd.DataFrame(deltas)), Sums.of(fold_events(events(*carried), phases))]).table()
    assert nonzero(counted) == nonzero(fold_events(events(*stream), phases))


@given(
    st.lists(st.tuples(*(st.integers(0, 2**bits - 1) for bits in (64, 32, 32, 16, 16, 32, 64, 64))), max_size=30),
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)), max_size=5),
)
@settings(deadline=None, max_examples=150)
def test_any_values_fold_without_an_error(rows, spans):
    rows = [(*row[:3], 1 + row[3] % 24, *row[4:]) for row in rows]
    phases = phase_table(*(phase_row(phase, begin_ns, None, overlapped=bool(phase % 2)) for phase, begin_ns in spans))
    table = fold_events(events(*rows), phases)
    assert (table >= 0).all(axis=None)


def test_a_claim_to_reach_over_every_phase_is_split_in_pieces(monkeypatch):
    monkeypatch.setattr("bitnet_trace.analysis.spans._MAX_PARTS", 7)
    phases = phase_table(*(phase_row(i + 1, 10 * i, 10 * i + 10) for i in range(20)))
    rows = [event(Kind.SWITCH_OUT, 200, 20, PID + i, arg1=200 - i, arg0=SwitchFlag.EXIT) for i in range(9)]
    table = fold_events(events(*rows), phases)["cpu_ns"]
    assert len(table) == 20 * 9
    assert table.groupby(level="tid").sum().tolist() == [200 - i for i in range(9)]
    assert table.loc[(1, PID + 3)] == 7

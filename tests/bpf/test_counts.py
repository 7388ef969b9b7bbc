"""Counts against what the program knows of itself: getrusage(2) of its threads, and its own sums of what it did."""

import pytest

from bitnet_trace.recording.layout import Kind

pytestmark = pytest.mark.untimed

SINGLE = (
    "touch", "flood", "zero_page", "discard", "read_fresh", "populate", "populate_file", "lock_pages", "lock_later",
    "advise_populate", "major", "failing", "memory_calls", "read_calls", "futex_calls", "wakes", "yields", "sleeps",
)  # fmt: skip
THREADS = (
    "compete,compete",
    "yield_in_turns,yield_in_turns",
    "lock_in_turns,lock_in_turns,lock_in_turns",
    "ping_pong,ping_pong",
    "sleep_through_signals,send_signals",
    "touch,read_fresh,populate,lock_pages",
    "wakes,wakes,wakes",
)
ITEMS = (*SINGLE, *THREADS)

FAULTS = {
    "minor": ("faults_user_minor", "faults_kernel_minor", "faults_populate_minor"),
    "major": ("faults_user_major", "faults_kernel_major", "faults_populate_major"),
}
SWITCHES = {"voluntary": ("switches_voluntary",), "involuntary": ("switches_involuntary",)}
OUTER_BEGIN, INNER_BEGIN, INNER_END, OUTER_END = range(4)


@pytest.fixture(scope="module")
def run(trace, program, data_file, detail):
    done = trace([program("work.c"), data_file, *ITEMS], detail)
    done.assert_nothing_lost()
    return done


def works(run, item):
    """What the threads of an item say, with the phase of the call that they worked in."""
    (pid,) = {line["pid"] for line in run.lines}
    calls = run.calls(pid)
    assert len(calls) == 2 * len(ITEMS)
    index = ITEMS.index(item)
    lines = [line for line in run.lines if line["item"] == index]
    assert len(lines) == 2 * (item.count(",") + (2 if "," in item else 1))
    return [(line, calls.iloc[2 * index + line["round"]]) for line in lines]


def grown(line, key, begin, end):
    return line["readings"][end][key] - line["readings"][begin][key]


def assert_bounded(line, measured, expected):
    """Equality, but for what fell between the reading outside the call and the one inside it."""
    for key, columns in expected.items():
        low = grown(line, key, INNER_BEGIN, INNER_END)
        high = grown(line, key, OUTER_BEGIN, OUTER_END)
        assert low <= sum(measured[column] for column in columns) <= high, (line["name"], line["round"], key)


@pytest.mark.parametrize("item", ITEMS)
def test_faults_of_a_phase_are_the_kernels_own_count(run, item):
    exact = 0
    for line, phase in works(run, item):
        assert_bounded(line, run.total([line["tid"]], [phase["id"]]), FAULTS)
        exact += grown(line, "minor", INNER_BEGIN, INNER_END) == grown(line, "minor", OUTER_BEGIN, OUTER_END)
    assert exact >= len(works(run, item)) // 2  # after the warm-up no fault falls between the readings


@pytest.mark.parametrize("item", ITEMS)
def test_switches_of_a_phase_are_the_kernels_own_count(run, item):
    for line, phase in works(run, item):
        assert_bounded(line, run.total([line["tid"]], [phase["id"]]), SWITCHES)


@pytest.mark.parametrize("item", ITEMS)
def test_counts_of_a_phase_are_what_the_program_did(run, item):
    """Calls, bytes, and faults by source: known before, so equal, in both rounds."""
    for line, phase in works(run, item):
        measured = run.total([line["tid"]], [phase["id"]])
        # in the first round code and stack of the program fault too
        warm = line["round"] == 1
        expected = {name: n for name, n in line["counts"].items() if warm or not name.startswith("faults_")}
        assert {name: int(measured[name]) for name in expected} == expected, line["name"]


@pytest.mark.parametrize("detail", ["events"], indirect=True)
@pytest.mark.parametrize("item", ITEMS)
def test_events_between_two_times_are_what_happened_then(run, item):
    for line, _phase in works(run, item):
        readings = line["readings"]
        inside = run.between(line["tid"], readings[INNER_BEGIN]["after_ns"], readings[INNER_END]["before_ns"])
        around = run.between(line["tid"], readings[INNER_BEGIN]["before_ns"], readings[INNER_END]["after_ns"])
        for key, columns in {**FAULTS, **SWITCHES}.items():
            truth = grown(line, key, INNER_BEGIN, INNER_END)
            assert sum(inside[name] for name in columns) <= truth <= sum(around[name] for name in columns), key
        if line["round"] == 1:
            assert {name: int(inside[name]) for name in line["counts"]} == line["counts"], line["name"]


@pytest.mark.parametrize("detail", ["events"], indirect=True)
def test_wakes_one_after_the_other_are_few_records(run):
    """4,001 wakes at one address, and 211 that change it: those are a record each."""
    for line, phase in works(run, "wakes"):
        events = run.recording.events
        mine = events[(events["tid"] == line["tid"]) & (events["phase"] == phase["id"])]
        runs, singles = (mine[mine["kind"] == kind] for kind in (Kind.FUTEX_WAKES, Kind.FUTEX))
        assert len(singles) == 13
        assert runs["arg0"].sum() == 4001 + 211
        assert 211 <= len(runs) < 300
        assert (runs["ts_ns"] >= phase["begin_ns"]).all()
        assert (runs["ts_ns"] <= phase["end_ns"]).all()


def test_the_work_was_what_it_should_be(run):
    """The programs that the others rest on: contention, preemption and major faults did happen."""
    by_name = {}
    for line in run.lines:
        for key in ("minor", "major", "voluntary", "involuntary"):
            by_name.setdefault(line["name"], {}).setdefault(key, []).append(grown(line, key, INNER_BEGIN, INNER_END))
    assert min(by_name["flood"]["minor"]) == 101 * 1009
    assert min(by_name["sleeps"]["voluntary"]) > 40  # of 53: one that is over before it began is no switch
    assert min(by_name["compete"]["involuntary"]) > 1
    assert max(by_name["yield_in_turns"]["involuntary"]) > 10
    assert max(by_name["lock_in_turns"]["voluntary"]) > 0
    assert max(by_name["ping_pong"]["voluntary"]) > 10
    assert min(by_name["sleep_through_signals"]["voluntary"]) > 10

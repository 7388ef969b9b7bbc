"""Barriers in windows: exact inside, within the budget, and nothing attached outside."""

import os
import re
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bitnet_trace.recording.layout import Kind
from tests.bpf import kernel_objects

TRACING = Path("/sys/kernel/tracing")
THREADS, CALLS, BARRIERS = 2, 2003, 53
PLENTY = ["--overhead-budget", "100"]  # whatever other programs do to the estimate of what is always on


def run_windows(trace, program, kind, options=PLENTY, calls=CALLS, detail="events"):
    command = [program("windows.c"), kind, THREADS, calls, BARRIERS, 200]
    return trace(command, detail, options=options)


def whole_calls(run):
    """(phase, its barrier entries) for each decode call that lies wholly in a window."""
    events = run.recording.events
    entries = events[events["kind"] == Kind.BARRIER]
    calls = run.calls(run.recording.phases["pid"].iloc[0])
    for window in run.recording.windows.itertuples():
        inside = calls[(calls["begin_ns"] >= window.begin_ns) & (calls["end_ns"] <= window.end_ns)]
        for call in inside.itertuples():
            in_call = (entries["ts_ns"] >= call.begin_ns) & (entries["ts_ns"] <= call.end_ns)
            yield call, entries[in_call]


@pytest.fixture(scope="module")
def spinning(trace, program):
    return run_windows(trace, program, "spin")


@pytest.fixture(scope="module")
def sleeping(trace, program):
    return run_windows(trace, program, "futex", calls=2 * CALLS)  # the C library is looked at within the first second


@pytest.mark.parametrize("kind", ["spinning", "sleeping"])
def test_entries_in_a_window_are_all_there(request, kind):
    run = request.getfixturevalue(kind)
    run.assert_nothing_lost()
    tids = {line["tid"] for line in run.lines}
    found = list(whole_calls(run))
    assert len(found) >= 3
    for call, entries in found:
        assert {int(tid): int((entries["tid"] == tid).sum()) for tid in np.unique(entries["tid"])} == dict.fromkeys(
            tids, BARRIERS
        )
        assert set(entries["phase"]) == {call.id}
        assert len(set(entries["arg1"])) == 1  # one barrier
        (row,) = set(entries["arg0"].tolist())
        assert run.recording.meta["probes"][row]["role"] == "barrier"
    events = run.recording.events
    windows = run.recording.windows
    assert windows["hits"].sum() == (events["kind"] == Kind.BARRIER).sum()
    told = run.recording.meta["windows"]
    assert told["reason"] is None
    assert told["spent_ns"] >= windows["cost_ns"].sum() > 0
    assert (windows["what"] == "barriers").all()


def test_one_level_is_probed(spinning):
    """The program's own barrier and not the C library's, which it has too."""
    rows = [row for row in spinning.recording.meta["probes"] if row.get("windowed")]
    attached = {row["symbol"]: row["attached"] for row in rows}
    assert attached["ggml_barrier"]
    assert not attached.get("pthread_barrier_wait")  # not there at all where the C library was not looked at yet


@pytest.mark.parametrize(
    ("options", "detail", "reason"),
    [(["--overhead-budget", "0"], "events", "a budget of 0 %"), ([], "counts", None)],
)
def test_no_window_where_none_may_be(trace, program, options, detail, reason):
    run = run_windows(trace, program, "spin", options, calls=1009, detail=detail)
    assert not len(run.recording.windows)
    told = run.recording.meta.get("windows")
    assert (told or {}).get("reason") is None if reason is None else reason in told["reason"]


def test_a_program_without_barriers_is_told(trace, program):
    run = run_windows(trace, program, "none", calls=4001)
    assert not run.recording.windows["hits"].sum()
    rows = [row for row in run.recording.meta["probes"] if row.get("windowed")]
    assert not any(row["hits"] for row in rows)


def append(path, line):
    """Python's own way would ask for the file's length first."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@contextmanager
def counted_by_tracefs(path, symbol, offset):
    """Every hit of a probe that tracefs makes, with its time: an independent reader of the same instruction."""
    name = "bitnet_trace_test"
    events, instance = TRACING / "uprobe_events", TRACING / "instances" / name
    if not events.exists():
        pytest.skip("the kernel has no uprobe_events")
    append(events, f"p:{name}/{symbol} {path}:{offset:#x}\n")
    try:
        instance.mkdir()
        (instance / "trace_clock").write_text("mono")
        (instance / "buffer_size_kb").write_text("32768")
        switch = instance / "events" / name / "enable"
        switch.write_text("1")
        yield lambda: (instance / "trace").read_text()
    finally:
        switch.write_text("0")
        instance.rmdir()
        append(events, f"-:{name}/{symbol}\n")


def test_the_same_tokens_by_uprobe_events(trace, program):
    """Hits per call and thread that the kernel's own uprobe events count, on the same run."""
    path = program("windows.c")
    listing = kernel_objects.function_offset(path, "ggml_barrier")
    with counted_by_tracefs(path, "ggml_barrier", listing) as read:
        run = run_windows(trace, program, "spin", calls=CALLS)
        lines = re.findall(r"-(\d+)\s+\[\d+\]\s+\S+\s+(\d+)\.(\d+): ", read())
    hits = [(int(tid), int(s) * 10**9 + int(us) * 1000) for tid, s, us in lines]
    assert len(hits) == THREADS * CALLS * BARRIERS
    n = 0
    for call, entries in whole_calls(run):
        theirs = [tid for tid, ts_ns in hits if call.begin_ns <= ts_ns + 999 and ts_ns <= call.end_ns]
        assert sorted(theirs) == sorted(entries["tid"].tolist())
        n += 1
    assert n >= 3


def test_nothing_is_left(trace, program):
    before = kernel_objects.all_of_them()
    run_windows(trace, program, "spin", calls=1009)
    deadline = time.monotonic() + 20
    while left := kernel_objects.all_of_them() - before - kernel_objects.held():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)

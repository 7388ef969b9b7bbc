"""io_uring's requests against a program that knows what it asked for."""

import os
import signal
import subprocess
import time

import pytest

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.layout import IoFlag, Kind

READS = 1009
COUNTERS = ("io_uring_submitted", "io_uring_completed", "io_uring_bytes")
# plain, polling thread, registered file and buffer, workers, equal user data, failing and refused requests
WAYS = ("-", "s", "fb", "sfb", "a", "sa", "u", "e", "r", "ser")


@pytest.fixture(scope="module")
def uring(program):
    return program("uring.c")


@pytest.fixture(scope="module", params=WAYS)
def ways(request):
    return request.param


@pytest.fixture(scope="module")
def run(trace, uring, data_file, detail, ways):
    done = trace([uring, data_file, READS, ways], detail)
    done.assert_nothing_lost()
    return done


def truth(run):
    [line] = run.lines
    return line, {name: line[name.removeprefix("io_uring_")] for name in COUNTERS}


def test_requests_and_bytes_are_exact_and_in_the_phase_and_thread_that_asked_for_them(run):
    line, expected = truth(run)
    [phase] = run.calls(line["pid"])["id"]
    assert line["submitted"] + line["refused"] == line["completed"] == READS
    measured = run.total([line["tid"]], [phase])
    assert {name: int(measured[name]) for name in COUNTERS} == expected
    assert {name: int(run.counters[name].sum()) for name in COUNTERS} == expected


def test_kernel_threads_of_the_ring_are_threads_of_the_process(run, ways):
    line, _ = truth(run)
    threads = run.recording.threads
    helpers = threads[threads["comm"].str.startswith(("iou-sqp-", "iou-wrk-"))]
    assert (helpers["pid"] == line["pid"]).all()
    assert helpers["comm"].str.startswith("iou-sqp-").any() == ("s" in ways)
    assert helpers["comm"].str.startswith("iou-wrk-").any() == ("a" in ways)
    assert helpers["end_ns"].notna().all()
    times = run.total(helpers["tid"].tolist())
    assert times["cpu_ns"] == times["cpu_system_ns"]
    assert (times["cpu_ns"] > 0) == (len(helpers) > 0)
    report = build_report(run.recording)
    roles = dict(zip(report.by_thread["tid"], report.by_thread["role"], strict=True))
    assert {roles[tid] for tid in helpers["tid"]} <= {"io_uring"}


def test_by_opcode(run, ways, detail):
    line, _ = truth(run)
    io = build_report(run.recording).io
    if detail == "counts":
        assert io["by_opcode"] is None
        return
    rows = {row["opcode"]: row for row in io["by_opcode"]}
    read = rows.pop("READ_FIXED" if "b" in ways else "READ")
    assert (read["submitted"], read["completed"]) == (line["submitted"], line["submitted"])
    assert read["bytes"] == line["bytes"]
    assert read["errors"] == line["errors"] - line["refused"]
    assert read["by_polling_thread"] == (line["submitted"] if "s" in ways else 0)
    if "a" in ways:
        assert read["by_worker"] == READS
    assert 0 < read["latency_ns"]["p50"] <= read["latency_ns"]["max"]
    assert [(row["completed"], row["errors"]) for row in rows.values()] == (
        [(line["refused"], line["refused"])] if line["refused"] else []
    )
    assert (io["more_completions"], io["cq_overflows"]) == (0, 0)


def test_latencies_reach_back_to_the_submissions(run, detail):
    if detail == "counts":
        [line] = run.lines
        [call] = run.calls(line["pid"]).to_dict("records")
        assert 0 < run.counters["io_uring_ns"].sum() < READS * (call["end_ns"] - call["begin_ns"])
        return
    events = run.recording.events
    completions = events[events["kind"] == Kind.IO_COMPLETE]
    timed = completions[(completions["arg0"] & IoFlag.NO_LATENCY) == 0]
    submitted = events[events["kind"] == Kind.IO_SUBMIT]["ts_ns"]
    assert sorted((timed["ts_ns"] - timed["arg2"]).tolist()) == sorted(submitted.tolist())
    assert run.counters["io_uring_ns"].sum() == timed["arg2"].sum()


def test_requests_of_other_programs_are_not_counted(trace, uring, data_file, detail):
    other = subprocess.Popen(
        ["sh", "-c", 'while :; do "$0" "$1" 503 - && "$0" "$1" 503 s && "$0" "$1" 503 a; done', uring, data_file],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        run = trace([uring, data_file, READS, "sa"], detail)
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
    run.assert_nothing_lost()
    _, expected = truth(run)
    assert {name: int(run.counters[name].sum()) for name in COUNTERS} == expected


def test_requests_without_completions_leave_nothing_to_other_programs(trace, uring, data_file, tmp_path, detail):
    """Their addresses are used again: by a program that is not traced, while the recording goes on."""
    script = '"$0" "$1" 1009 k; touch "$2/done"; while ! [ -e "$2/end" ]; do sleep 0.02; done'
    other = subprocess.Popen(
        ["sh", "-c", f'while ! [ -e "$2/done" ]; do sleep 0.02; done; "$0" "$1" {READS} -; touch "$2/end"',
         uring, data_file, tmp_path],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    run = trace(["sh", "-c", script, uring, data_file, tmp_path], detail)
    assert other.wait() == 0
    run.assert_nothing_lost()
    assert {name: int(run.counters[name].sum()) for name in COUNTERS} == {
        "io_uring_submitted": READS,
        "io_uring_completed": 0,
        "io_uring_bytes": 0,
    }


def test_completions_that_found_the_ring_full_are_told(trace, uring, data_file, detail):
    run = trace([uring, data_file, READS, "o"], detail)
    run.assert_nothing_lost()
    line, _ = truth(run)
    overflows = build_report(run.recording).io["cq_overflows"]
    assert line["completed"] == READS
    assert overflows > 0
    # a kernel that tells of the completion and of the overflow counts it in both
    assert int(run.counters["io_uring_completed"].sum()) in (READS, READS - overflows)


def test_requests_under_way_when_the_program_ends(trace, uring, data_file, detail):
    began = time.monotonic()
    run = trace([uring, data_file, READS, "al"], detail)
    assert time.monotonic() - began < 60
    run.assert_nothing_lost()
    total = run.counters.sum()
    assert total["io_uring_submitted"] == READS
    assert READS - READS % 32 <= total["io_uring_completed"] <= READS
    assert run.recording.phases["end_ns"].notna().all()

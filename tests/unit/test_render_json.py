"""The stable JSON form."""

import json

import pytest
from traces import MS, write_inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render.json import render

# What other programs were promised; take nothing out, rename nothing.
STABLE = {
    "": "schema run health phases by_phase by_thread faults barriers functions tlb io findings",
    "run": "command engine exit_code wall_ns host tokens timings_reported",
    "health": "events lost coverage_pct probes overhead_pct_estimate decode_slower_pct_at_most",
    "phases": "id name token n_tokens start_ns dur_ns",
    "by_phase": """phase dur_ns n cpu_user_ns cpu_system_ns rss_peak_bytes faults_minor faults_major faults_kernel
        faults_populate populated_bytes fault_ns switches_voluntary switches_involuntary migrations runq_wait_ns
        offcpu_ns futex_calls futex_wait_ns mmap_calls munmap_calls mmap_bytes sched_yield_calls io_uring_submitted
        io_uring_completed read_calls read_bytes tlb_flushes tlb_flush_pages tlb_shootdowns_received""",
    "by_thread": "tid comm role cpu_user_ns faults_minor runq_wait_ns futex_wait_ns",
    "tokens": "token n_tokens n_sampled start_ns dur_ns cpu_ns faults switches runq_wait_ns futex_wait_ns",
}
UNMEASURED = ["io_uring_submitted", "io_uring_completed", "tlb_flushes", "tlb_flush_pages", "tlb_shootdowns_received"]


@pytest.fixture(scope="module")
def value(tmp_path_factory):
    text = render(build_report(open_recording(write_inference(tmp_path_factory.mktemp("json") / "a.btrace"))))
    assert text.isascii()
    return json.loads(text)


@pytest.mark.parametrize("part", STABLE)
def test_the_promised_fields_are_there(value, part):
    rows = value if part == "" else value[part]
    for row in rows if isinstance(rows, list) else [rows]:
        assert set(STABLE[part].split()) <= set(row)


def walk(value, key=""):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from walk(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item, key)
    else:
        yield key, value


def test_times_and_sizes_are_whole_numbers_or_null(value):
    checked = 0
    for key, item in walk({name: part for name, part in value.items() if name != "columns"}):
        if key.endswith(("_ns", "_bytes")):
            assert item is None or type(item) is int, (key, item)
            checked += 1
    assert checked > 250


def test_values(value):
    assert value["schema"] == 1
    assert value["run"]["tokens"] == {"prompt": 12, "decoded": 5}
    assert value["run"]["timings_reported"]["decode"]["difference_pct"] == 1.01
    assert value["phases"][0] == {
        "id": 1,
        "pid": 100,
        "name": "startup",
        "token": None,
        "n_tokens": None,
        "start_ns": 0,
        "dur_ns": MS,
        "overlapped": False,
        "complete": True,
    }
    assert [row["token"] for row in value["phases"] if row["name"] == "decode"] == [1, 2, 3, 4, 5]
    decode = next(row for row in value["by_phase"] if row["phase"] == "decode")
    assert (decode["n"], decode["dur_ns"], decode["faults_minor"]) == (5, 50 * MS, 5)
    assert value["by_thread"][0]["role"] == "compute"
    assert value["faults"]["latency_ns"]["max"] == 1019
    assert value["summary"]["ttft_ns"] == 192 * MS


def test_missing_is_null_and_counted_zero_is_zero(value):
    for row in [*value["by_phase"], *value["by_thread"], value["total"]]:
        assert [row[key] for key in UNMEASURED] == [None] * len(UNMEASURED)
        assert row["rss_peak_bytes"] is None
        assert row["faults_major"] == 0
    assert [value[key] for key in ("functions", "tlb", "io")] == [None] * 3
    assert value["barriers"]["count"] is None
    assert value["barriers"]["reason"]
    assert value["findings"] == []


def test_phases_add_up_to_the_total(value):
    for key, total in value["total"].items():
        if total is not None:
            assert sum(row[key] for row in value["by_phase"]) == total
            assert sum(row[key] for row in value["by_thread"]) == total


def test_an_empty_recording(tmp_path):
    Writer(tmp_path / "a.btrace", {}).close(None)
    value = json.loads(render(build_report(open_recording(tmp_path / "a.btrace"))))
    assert (value["phases"], value["by_phase"], value["by_thread"], value["tokens"]) == ([], [], [], [])
    assert value["run"]["exit_code"] is None
    assert set(value["summary"].values()) == {None}
    assert value["faults"] == {"latency_ns": None, "by_region": [], "by_layer": [], "by_tensor": []}

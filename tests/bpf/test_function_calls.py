"""Calls of functions counted in windows, and derived from a model's shapes: both are the truth."""

import json
import statistics
import subprocess

import pytest

from bitnet_trace.analysis.calls import counted, derived
from bitnet_trace.analysis.phases import name_phases
from bitnet_trace.analysis.report import build_report
from bitnet_trace.commands.demo import decode_command, make_model
from bitnet_trace.engines.kernels import known_kernels

KERNEL = "ggml_vec_dot_tq2_0_q8_K"
PLENTY = ["--overhead-budget", "100"]


@pytest.fixture(scope="module")
def tiny(trace):
    """The demo's small model, with its dot product counted."""
    pytest.importorskip("xllamacpp")
    command = decode_command(make_model("tiny", None), 900, 2)
    return trace(command, options=[*PLENTY, "--functions", KERNEL])


def test_derived_calls_are_the_counted_ones(tiny):
    recording = tiny.recording
    by_window = counted(recording, name_phases(recording.phases))
    if KERNEL not in by_window:
        pytest.skip(f"no window held a whole token: {recording.meta['windows']}")
    (kernel,) = [one for one in known_kernels() if KERNEL in one.names]
    assert by_window[KERNEL].n_tokens >= 1
    assert by_window[KERNEL].per_token == derived(recording.tensors, kernel) == 8 * (3 * 256 + 2 * 128 + 2 * 512)


def test_the_report_tells_calls_and_how_they_were_got(tiny):
    functions = build_report(tiny.recording).profile.functions.set_index("name")
    row = functions.loc[KERNEL]
    assert row["calls_per_token"] == 8 * (3 * 256 + 2 * 128 + 2 * 512)
    assert "counted" in row["how"] or "derived" in row["how"]


def test_calls_that_a_program_knows(trace, program):
    """Template instances count together by `*`; a call of the function is one whatever it does inside."""
    run = trace([program("windows.c"), "spin", 2, 6007, 53, 200], options=[*PLENTY, "--functions", "ggml_barr*"])
    found = counted(run.recording, name_phases(run.recording.phases))
    told = run.recording.meta["windows"]["functions"]["ggml_barr*"]
    assert told["reason"] is None
    assert found["ggml_barrier"][0] == 2 * 53


def test_a_function_that_is_not_there_is_told(trace, program):
    run = trace([program("windows.c"), "spin", 2, 2003, 53, 200], options=[*PLENTY, "--functions", "nobody"])
    told = run.recording.meta["windows"]["functions"]["nobody"]
    assert told == {"spent_ns": 0, "reason": "no such function was found in the program"}


def test_no_window_fits_and_the_reason_is_told(trace, program):
    options = ["--overhead-budget", "0", "--functions", "ggml_barrier"]
    run = trace([program("windows.c"), "spin", 2, 2003, 53, 200], options=options)
    assert "a budget of 0 %" in run.recording.meta["windows"]["functions"]["ggml_barrier"]["reason"]
    assert not len(run.recording.calls)


def test_a_stripped_function_has_no_name_to_ask_for(trace, program, tmp_path):
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", stripped, program("windows.c")], check=True)
    run = trace([stripped, "none", 1, 101, 1, 100], options=["--functions", "ggml_barrier"])
    assert run.recording.meta["windows"]["functions"]["ggml_barrier"]["reason"]


def test_how_long_calls_take(trace, program):
    """One call of eight takes eight times as long; each burst sees both, and times of threads off the CPU besides."""
    run = trace([program("rated.c"), 3000, 503, 0, 2000], options=[*PLENTY, "--functions", "rated_call"])
    (row,) = build_report(run.recording).durations.to_dict("records")
    tokens = [json.loads(line) for line in run.stdout.splitlines()]
    short_ns = statistics.median(token["cpu_ns"] / token["calls"] for token in tokens) * 8 / 15
    assert (row["function"], row["phase"]) == ("rated_call", "decode")
    assert row["calls"] == sum(row["histogram"].values()) >= 100
    assert row["p50_ns"] == pytest.approx(short_ns, rel=0.25, abs=300)
    long = sum(n for ns, n in row["histogram"].items() if int(ns) > 5 * short_ns)
    assert 0.08 <= long / row["calls"] <= 0.18


def test_functions_without_a_return_are_not_timed(trace, program):
    run = trace([program("rated.c"), 100, 503, 0, 2000], options=[*PLENTY, "--functions", "nobody"])
    assert run.recording.meta["windows"]["durations"]["nobody"]["reason"]
    assert not len(build_report(run.recording).durations)

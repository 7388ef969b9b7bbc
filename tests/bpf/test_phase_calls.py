"""A phase for each outermost call of the engine, however the call ends and whenever the library comes."""

import statistics
import subprocess
import sys

import pytest

from bitnet_trace.analysis.phases import name_phases
from bitnet_trace.recording.layout import PhaseEnd

pytestmark = pytest.mark.untimed

MS = 1_000_000


def run_calls(trace, program, detail, kind, n):
    run = trace([program("calls.cpp"), kind, n], detail)
    run.assert_nothing_lost()
    return run, run.calls(run.lines[0]["pid"])


def assert_within(calls, lines):
    """Each phase lies within its call, as the program's own clock has it, and fills it."""
    for phase, line in zip(calls.itertuples(), lines, strict=True):
        assert line["begin_ns"] <= phase.begin_ns < phase.end_ns <= line["end_ns"]
        assert phase.n_tokens == line["n_tokens"]
        assert phase.tid == line["tid"]


@pytest.mark.parametrize("kind", ["plain", "nested"])
def test_calls_that_end_in_a_jump(trace, program, detail, kind):
    run, calls = run_calls(trace, program, detail, kind, 101)
    assert len(calls) == len(run.lines) == 101
    assert set(calls["end_kind"]) == {PhaseEnd.RETURN}
    assert not calls["overlapped"].any()
    assert_within(calls, run.lines)
    # the jump's target belongs to the call
    inside = (calls["end_ns"] - calls["begin_ns"]).min()
    assert inside >= (2 if kind == "nested" else 1) * 2 * 200_000
    assert calls["n_sampled"].tolist() == [1] * 101
    named = name_phases(run.recording.phases)
    assert named[named["role"] == "decode"]["name"].tolist() == ["prefill"] + ["decode"] * 100


@pytest.mark.parametrize("flags", [(), ("-O0",), ("-O3", "-fno-omit-frame-pointer"), ("-Os",)], ids=" ".join)
def test_calls_that_go_out_on_different_ways(trace, program, flags):
    """The end is probed at cheaper instructions than the return: each call passes one of them, and late enough."""
    run = trace([program("ways.c", *flags), 120])
    run.assert_nothing_lost()
    calls = run.calls(run.lines[0]["pid"])
    assert len(calls) == len(run.lines) == 120
    assert set(calls["end_kind"]) == {PhaseEnd.RETURN}
    assert_within(calls, run.lines)
    outside = [
        line["end_ns"] - line["begin_ns"] - (phase.end_ns - phase.begin_ns)
        for line, phase in zip(run.lines, calls.itertuples(), strict=True)
    ]
    assert statistics.median(outside) < 0.1 * MS  # two traps; the shortest work is 0.05 ms, of the way with a complaint
    ends = [probe for probe in run.recording.meta["probes"] if probe["name"] == "decode end"]
    assert any(end["cost_class"] == "emulated" and end["hits"] for end in ends), ends


def test_exceptions_through_a_call(trace, program, detail):
    """The program lives, each call has its phase, and one that an exception left is over by what comes next."""
    run, calls = run_calls(trace, program, detail, "throwing", 101)
    assert len(calls) == len(run.lines) == 101
    assert sum(line["thrown"] for line in run.lines) == 101 // 3
    for line, phase, following in zip(run.lines, calls.itertuples(), [*run.lines[1:], None], strict=True):
        assert phase.n_tokens == line["n_tokens"]
        assert line["begin_ns"] <= phase.begin_ns <= line["end_ns"]
        if not line["thrown"]:
            assert phase.end_kind == PhaseEnd.RETURN
            assert phase.end_ns <= line["end_ns"]
        else:
            assert phase.end_kind in (PhaseEnd.NEXT, PhaseEnd.EXIT)
            assert following is None or phase.end_ns <= following["end_ns"]
    assert not calls["overlapped"].any()
    phases = run.recording.phases.sort_values("begin_ns")
    assert (phases["begin_ns"].iloc[1:].to_numpy() == phases["end_ns"].iloc[:-1].to_numpy()).all()


def test_calls_of_two_threads_that_overlap(trace, program, detail):
    run, calls = run_calls(trace, program, detail, "overlapping", 211)
    assert len(calls) == len(run.lines) == 2 * 211
    assert set(calls["end_kind"]) == {PhaseEnd.RETURN}
    for tid, own in calls.groupby("tid"):
        lines = [line for line in run.lines if line["tid"] == tid]
        assert len(own) == 211
        assert_within(own, lines)
    # overlapped: another thread's call was open for a part of it; the phases' own edges say which
    begins, ends, tids = (calls[name].to_numpy() for name in ("begin_ns", "end_ns", "tid"))
    truth = [
        bool(((begins < end) & (ends > begin) & (tids != tid)).any())
        for begin, end, tid in zip(begins, ends, tids, strict=True)
    ]
    assert calls["overlapped"].tolist() == truth
    assert sum(truth) > 0
    # and every moment of the process is billed once
    process = run.lines[0]["pid"]
    threads = run.recording.threads
    for tid in set(tids.tolist()):
        row = threads[threads["tid"] == tid].iloc[0]
        total = run.total([tid])
        life = row["end_ns"] - row["start_ns"]
        assert total["cpu_ns"] + total["offcpu_ns"] == pytest.approx(life, rel=0.01, abs=2 * MS)
    assert set(run.recording.phases["pid"]) == {process}


@pytest.mark.parametrize(("where", "wait_ms"), [("main", 0), ("main", 1000), ("thread", 1000)])
def test_library_that_is_opened_late(trace, program, detail, where, wait_ms):
    """N calls, the first of them right after dlopen(), are N phases."""
    library = program("decoder.c", "-shared", "-fPIC")
    run = trace([program("loader.c", "-ldl"), library, where, 17, wait_ms], detail)
    run.assert_nothing_lost()
    (line,) = run.lines
    calls = run.calls(line["pid"])
    assert len(calls) == 17
    assert set(calls["tid"]) == {line["tid"]}
    assert (line["tid"] == line["pid"]) == (where == "main")
    assert calls["n_tokens"].tolist() == [5] + [1] * 16
    assert calls["n_sampled"].tolist() == [1] * 17
    assert (calls["end_ns"] - calls["begin_ns"]).min() >= MS


def test_library_opened_by_a_python_program(trace, program, detail):
    library = program("decoder.c", "-shared", "-fPIC")
    script = (
        "import ctypes, sys, threading\n"
        "def work():\n"
        "    library = ctypes.CDLL(sys.argv[1])\n"
        "    for i in range(13): library.llama_decode(None, *[ctypes.c_uint64(3)] * 12)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
    )
    run = trace([sys.executable, "-c", script, library], detail)
    run.assert_nothing_lost()
    phases = run.recording.phases
    assert (phases["role"] == "decode").sum() == 13


def test_library_opened_while_others_open_theirs(trace, program, detail, tmp_path):
    """Children that open the library at the same time are all held for it, each by itself."""
    library = program("decoder.c", "-shared", "-fPIC")
    loader = program("loader.c", "-ldl")
    script = f'for i in 1 2 3 4 5 6; do "{loader}" "{library}" thread 7 20 & done; wait'
    run = trace(["sh", "-c", script], detail)
    run.assert_nothing_lost()
    assert len(run.lines) == 6
    for line in run.lines:
        assert len(run.calls(line["pid"])) == 7


def test_stripped_of_all_but_its_dynamic_symbols(trace, program, detail, tmp_path):
    library = tmp_path / "libstripped.so"
    subprocess.run(["strip", "-o", library, program("decoder.c", "-shared", "-fPIC")], check=True)
    run = trace([program("loader.c", "-ldl"), library, "main", 11, 0], detail)
    assert len(run.calls(run.lines[0]["pid"])) == 11

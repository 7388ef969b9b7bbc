"""Timer samples against what programs know of their own CPU time, and against perf in the same run."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_trace.analysis.phases import name_phases
from bitnet_trace.analysis.profile import COMPLETE_ENOUGH_PCT, SPIN_ROLE, profile
from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.reader import open_recording

pytestmark = pytest.mark.requires_bpf

WORK = ("heavy", "medium", "light")


def profile_of(recording):
    return profile(recording, name_phases(recording.phases))


def shares(found):
    return found.functions.set_index("name")["self_pct"] / 100


def standard_error(share, n):
    return math.sqrt(share * (1 - share) / n)


@pytest.fixture(scope="module")
def work(trace, program):
    return trace([program("hot.c"), "work", "3"], options=["--sample-freq", "499"])


def test_shares_of_functions_are_the_programs_own(work):
    (line,) = work.lines
    found = profile_of(work.recording)
    total = sum(line[name] for name in WORK)
    for name in WORK:
        truth = line[name] / total
        assert abs(shares(found)[name] - truth) <= 3 * standard_error(truth, found.n_samples) + 0.01, name


def test_samples_times_their_period_are_the_time_on_the_cpu(work):
    (line,) = work.lines
    samples = work.recording.samples
    sampled_ns = int(samples[samples["tid"] == line["tid"]]["period_ns"].sum())
    counted_ns = int(work.total([line["tid"]])["cpu_ns"])
    # what a hypervisor takes bit by bit is no time of the thread's, and its timer goes on meanwhile
    assert -0.03 * counted_ns <= sampled_ns - counted_ns <= 0.03 * counted_ns + work.stolen_ns


def test_samples_that_the_kernel_throttles_are_counted_as_lost(trace, program):
    """It lets 250 a second pass, of 999; what is left out and what is not are the time on the CPU together."""
    limit = Path("/proc/sys/kernel/perf_event_max_sample_rate")
    before = limit.read_text()
    try:
        lower = f"echo 100 > {limit}; exec {program('hot.c')} work 2"
        run = trace(["sh", "-c", lower], options=["--sample-freq", "999"])
    finally:
        limit.write_text(before)
    (line,) = run.lines
    samples = run.recording.samples
    own = samples[(samples["tid"] == line["tid"]) & (samples["reason"] == 0)]
    period_ns = int(own["period_ns"].max())
    counted_ns = int(run.total([line["tid"]])["cpu_ns"])
    ticks = run.recording.meta["losses"]["ticks"]
    assert len(own) * period_ns < 0.6 * counted_ns
    # what a hypervisor took is not lost
    missing_ns = counted_ns - (len(own) + ticks) * period_ns
    assert -0.03 * counted_ns <= missing_ns <= 0.03 * counted_ns + run.stolen_ns


def test_the_kernels_functions_have_their_names(work):
    symbols = work.recording.symbols
    known = {line.split()[2] for line in Path("/proc/kallsyms").read_text().splitlines()}
    named = set(symbols[symbols["module"] == "[kernel]"]["function"].dropna())
    assert named
    # our own programs are gone by now
    assert {name for name in named if not name.startswith("bpf_prog_")} <= known


def test_one_thread_does_not_spin(work):
    found = profile_of(work.recording)
    assert not len(found.spin)
    assert SPIN_ROLE not in set(found.roles["role"])


@pytest.mark.parametrize("flags", [("-O2",), ("-O3", "-s"), ("-O2", "-static", "-s")], ids=" ".join)
def test_spinning_is_seen_in_every_build(trace, program, flags):
    run = trace([program("hot.c", *flags), "spin", "2"], options=["--sample-freq", "499"])
    found = profile_of(run.recording)
    for line in run.lines:
        mine = found.spin[found.spin["tid"] == line["tid"]]
        samples = int((run.recording.samples["tid"] == line["tid"]).sum())
        measured = float((mine["spin_pct"] * mine["samples"]).sum()) / samples
        assert abs(measured - 100 * line["spun"] / line["cpu"]) <= 5, line


def test_a_barrier_that_sleeps_is_told_from_other_futexes(trace, program):
    run = trace([program("hot.c"), "meet", "1.5"])
    report = build_report(run.recording)
    waits = report.waits.set_index("reason")
    # in futexes; the program's own time in its barriers is more, where it was preempted
    waited_ns = int(run.total([line["tid"] for line in run.lines])["futex_wait_ns"])
    assert 0.5 * sum(line["waited"] for line in run.lines) < waited_ns
    assert abs(int(waits.loc["barrier", "offcpu_ns"]) - waited_ns) <= 0.05 * waited_ns
    assert waits.loc["barrier", "count"] >= 200
    functions = report.profile.functions.set_index("name")
    asleep = functions[functions.index.str.contains("pthread_barrier_wait")]
    assert abs(int(asleep["offcpu_ns"].sum()) - waited_ns) <= 0.05 * waited_ns
    assert set(asleep["role"]) == {"barrier"}


def test_self_and_total_times_are_the_programs_own(trace, program):
    """As in a report of uftrace: each function's own time, and with what it calls, where stacks are complete."""
    run = trace([program("hot.c", "-fno-omit-frame-pointer"), "work", "2"], options=["--sample-freq", "499"])
    (line,) = run.lines
    found = profile_of(run.recording)
    assert found.complete_pct >= COMPLETE_ENOUGH_PCT
    functions = found.functions.set_index("name")
    for name in WORK:
        assert abs(functions.loc[name, "self_ns"] - line[name]) <= 0.05 * line["cpu"]
        assert functions.loc[name, "total_ns"] >= functions.loc[name, "self_ns"]
    assert abs(functions.loc["main", "total_ns"] - line["cpu"]) <= 0.05 * line["cpu"]


def test_without_samples(trace):
    run = trace(["true"], options=["--sample-freq", "0"])
    assert profile_of(run.recording) is None
    assert not len(run.recording.samples)


@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")
def test_perf_in_the_same_run_says_the_same(tmp_path, program):
    """Every function with at least 1 % agrees within three standard errors of both counts."""
    data, folder, target = tmp_path / "perf.data", tmp_path / "x.btrace", program("hot.c")
    traced = [sys.executable, "-m", "bitnet_trace", "run", "-q", "--sample-freq", "499", "-o", str(folder), "--"]
    perf = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "499", "-o", str(data), "--"]
    subprocess.run([*perf, *traced, str(target), "work", "3"], check=True, capture_output=True)
    listing = ["perf", "report", "-i", str(data), "--stdio", "--no-children", "-F", "sample,sym", "--comm", target.name]
    text = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    theirs = {name: int(n) for n, name in re.findall(r"^\s*(\d+)\s+\[[.k]\]\s+(\S+)", text, re.MULTILINE)}
    n_theirs = sum(theirs.values())
    found = profile_of(open_recording(folder))
    for name, n in theirs.items():
        share = n / n_theirs
        if share >= 0.01:
            error = math.hypot(standard_error(share, n_theirs), standard_error(share, found.n_samples))
            assert abs(shares(found).get(name, 0.0) - share) <= 3 * error, name

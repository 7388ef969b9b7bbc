"""Barriers of a program that knows how often its threads met, and which of them was delayed how."""

import os
import subprocess
import time

import pytest

from bitnet_trace.analysis.report import build_report

pytestmark = pytest.mark.requires_bpf

ROUNDS, DELAYS_A_CALL, DELAY_NS = 200, 20, 1_000_000
N_CPUS = len(os.sched_getaffinity(0))
# Windows as often as they can be: what is tested is what they show.
OPTIONS = ["--overhead-budget", "100", "--as-root"]
# Of whatever else runs on this machine.
BEFORE_OTHERS = ["nice", "-n", "-15"]


@pytest.fixture(scope="module")
def meet(trace, program):
    def run(barrier, plant, threads, calls=70, rounds=ROUNDS):
        command = [*BEFORE_OTHERS, program("meet.c", "-fopenmp"), barrier, plant, threads, calls, rounds]
        # with the threads of gcc's OpenMP asleep at a barrier, as there are more of them than CPUs
        done = trace(command, options=OPTIONS, env={"OMP_WAIT_POLICY": "passive"})
        return done, build_report(done.recording)

    return run


def finding(report, rule):
    return next((one for one in report.findings if one.rule == rule), None)


def undisturbed(report):
    """Nobody else had the CPUs: else one thread may have had more of that than the others, which is told, and is true."""
    return finding(report, "preemption") is None


def assert_counted(done, report):
    """In the calls that were seen each thread was told at each barrier, and as often as the kernel's probe was hit."""
    decode = report.barriers.by_phase.set_index("phase").loc["decode"]
    assert decode["calls_seen"] >= 3
    assert (decode["per_call"], decode["count"]) == (ROUNDS, ROUNDS * decode["calls_seen"])
    tids = {line["tid"] for line in done.lines}
    assert set(report.barriers.by_thread["tid"]) == tids
    summary = report.barriers.summary
    assert summary["entries"] == summary["count"] * len(tids) <= summary["windows"]["hits"]
    assert summary["calls_disordered"] == 0


def late_ns(report, tid, cause):
    table = report.barriers.by_thread.set_index("tid")
    return table.loc[tid, "causes"].get(cause, 0)


@pytest.mark.parametrize(
    ("barrier", "plant", "threads", "cause"),
    [
        ("spin", "busy", 2, "slower"),
        ("futex", "busy", 4, "slower"),
        ("futex", "sleep", 4, "asleep"),
        ("pthread", "sleep", 4, "asleep"),
        ("omp", "sleep", 4, "asleep"),
    ],
)
@pytest.mark.skipif(N_CPUS < 2, reason="threads that spin need a CPU each")
def test_the_delayed_thread_is_named_with_the_cause(meet, barrier, plant, threads, cause):
    done, report = meet(barrier, plant, threads)
    assert_counted(done, report)
    (planted,) = [line["tid"] for line in done.lines if line["delays"]]
    found = finding(report, "straggler")
    assert found is not None
    assert found.threads == (planted,)
    if undisturbed(report):
        assert found.title.endswith("asleep in clock_nanosleep" if cause == "asleep" else cause)
    delays = DELAYS_A_CALL * report.barriers.summary["calls_seen"]
    # of each delay that part for which the others were there already
    assert 0.5 <= late_ns(report, planted, cause) / (delays * DELAY_NS) <= 1.5


@pytest.mark.parametrize(("barrier", "threads"), [("spin", 2), ("futex", 4)])
@pytest.mark.skipif(N_CPUS < 2, reason="threads that spin need a CPU each")
def test_a_balanced_run_has_no_straggler(meet, barrier, threads):
    done, report = meet(barrier, "none", threads, calls=120)
    assert_counted(done, report)
    found = finding(report, "straggler")
    assert found is None or not undisturbed(report)


@pytest.mark.skipif(N_CPUS < 2, reason="one CPU for each thread")
def test_a_thread_beside_a_cpu_hog(meet, program):
    """The second thread is pinned to CPU 1, and so is the hog."""
    command = [*BEFORE_OTHERS, "taskset", "-c", "1", program("hot.c"), "work", "60"]
    hog = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        done, report = meet("spin", "none", 2)
    finally:
        hog.kill()
        hog.wait()
    assert_counted(done, report)
    found = finding(report, "straggler")
    assert found is not None
    assert found.threads == (done.lines[1]["tid"],)
    assert f"preempted by {program('hot.c').name} ({hog.pid})" in found.title
    preempted = finding(report, "preemption")
    assert preempted is not None
    assert f"{program('hot.c').name} ({hog.pid})" in preempted.title
    assert done.lines[1]["tid"] in preempted.threads


def test_one_thread_too_many(meet):
    """They spin, so each barrier takes as long as the scheduler lets one of them spin. It is told within seconds."""
    begin = time.monotonic()
    _, report = meet("spin", "none", N_CPUS + 1, calls=20, rounds=10)
    first = report.findings[0]
    assert (first.rule, first.figure, first.threshold) == ("oversubscription", N_CPUS + 1, N_CPUS)
    assert first.severity == "critical"
    assert time.monotonic() - begin < 30

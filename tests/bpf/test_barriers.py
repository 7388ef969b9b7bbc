"""Barriers of a program that knows how often its threads met, and which of them was delayed how."""

import os
import subprocess
import time
from dataclasses import dataclass

import numpy as np
import pytest

from bitnet_trace.analysis.absences import SwitchPairs
from bitnet_trace.analysis.barriers import BarrierEvents
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.findings import Finding
from bitnet_trace.analysis.report import Report, build_report

pytestmark = pytest.mark.requires_bpf

ROUNDS, DELAY_NS = 100, 1_000_000
N_CPUS = len(os.sched_getaffinity(0))
# Windows as often as they can be: what is tested is what they show.
OPTIONS = ["--overhead-budget", "100", "--as-root"]
# Of whatever else runs on this machine.
BEFORE_OTHERS = ["nice", "-n", "-15"]


@dataclass
class Met:
    """A traced run of meet.c: its report, and when its threads came to each barrier by their own clocks."""

    report: Report
    tids: list[int]
    planted: list[int]
    arrivals_ns: np.ndarray  # by thread, call and round

    def finding(self, rule: str) -> Finding | None:
        return next((one for one in self.report.findings if one.rule == rule), None)

    def disturbed(self, planted: int | None = None) -> bool:
        """Programs other than the `planted` one had the CPUs: what the threads were late for was not their own doing."""
        table = self.report.preemptions
        table = table[(table["name"] == "decode") & ~table["next"].isin([0, planted, *self.tids])]
        decode_ns = self.report.by_phase.set_index("phase").loc["decode", "dur_ns"]
        return bool(table.groupby("tid")["offcpu_ns"].sum().max() > 0.03 * decode_ns)

    def seen_ns(self) -> np.ndarray:
        """The arrivals in those calls that the report has seen, by thread and barrier."""
        phases = self.report.phases.set_index("id").loc[self.report.barriers.late_by_call.index]
        begin_ns, end_ns = phases["begin_ns"].to_numpy(np.int64), phases["end_ns"].to_numpy(np.int64)
        place = np.searchsorted(begin_ns, self.arrivals_ns[0, :, 0]) - 1
        inside = (place >= 0) & (self.arrivals_ns[0, :, -1] <= end_ns[place])
        return self.arrivals_ns[:, inside, :].reshape(len(self.tids), -1)


@pytest.fixture(scope="module")
def meet(trace, program, tmp_path_factory):
    def run(barrier, plant, threads, calls=180, rounds=ROUNDS):
        log = tmp_path_factory.mktemp("meet") / "log"
        command = [*BEFORE_OTHERS, program("meet.c", "-fopenmp"), barrier, plant, threads, calls, rounds, log]
        # with the threads of gcc's OpenMP asleep at a barrier, as there are more of them than CPUs
        done = trace(command, options=OPTIONS, env={"OMP_WAIT_POLICY": "passive"})
        arrivals_ns = np.fromfile(log, np.uint64).astype(np.int64).reshape(threads, calls, rounds)
        tids = [line["tid"] for line in done.lines]
        planted = [line["tid"] for line in done.lines if line["delays"]]
        met = Met(build_report(done.recording), tids, planted, arrivals_ns)
        if met.report.barriers.summary["calls_seen"] < 3 and os.getloadavg()[0] > 2 * N_CPUS:
            pytest.skip("the machine is so busy that too few windows were opened")
        return met

    return run


def assert_as_the_program_knows(met):
    """Each barrier of the calls that were seen, with who came last, who waited and who was late for how long."""
    seen_ns, barriers = met.seen_ns(), met.report.barriers
    decode = barriers.by_phase.set_index("phase").loc["decode"]
    assert decode["calls_seen"] >= 3
    assert (decode["per_call"], decode["count"]) == (ROUNDS, seen_ns.shape[1])
    assert barriers.summary["entries"] == seen_ns.size <= barriers.summary["windows"]["hits"]
    assert barriers.summary["calls_disordered"] == 0
    table = barriers.by_thread.set_index("tid").loc[met.tids]
    last_ns = seen_ns.max(axis=0)
    # a thread's own reading is a little before its entry is told, and it may be put off its CPU in between
    waits_ns = (last_ns - seen_ns).sum(axis=1)
    assert table["wait_ns"].to_numpy(np.int64) == pytest.approx(waits_ns, rel=0.05, abs=2_000 * seen_ns.shape[1])
    late_ns = last_ns - np.sort(seen_ns, axis=0)[-2]
    late_of = [late_ns[seen_ns.argmax(axis=0) == place].sum() for place in range(len(met.tids))]
    assert table["late_ns"].to_numpy(np.int64) == pytest.approx(late_of, rel=0.05, abs=2_000 * seen_ns.shape[1])


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
    met = meet(barrier, plant, threads)
    assert_as_the_program_knows(met)
    (planted,) = met.planted
    causes = met.report.barriers.by_thread.set_index("tid").loc[planted, "causes"]
    # of each delay that part for which all others were there already
    delays_ns = met.seen_ns().shape[1] // 10 * DELAY_NS
    assert 0.3 <= causes[cause] / delays_ns <= 1.5
    assert cause == max(("slower", "asleep", "fault"), key=lambda one: causes.get(one, 0))
    found = met.finding("straggler")
    if met.disturbed():
        pytest.skip("other programs had the CPUs: they are what the threads were late for")
    assert found is not None
    assert found.threads == (planted,)
    if threads <= N_CPUS:
        assert found.title.endswith(cause)


@pytest.mark.parametrize(("barrier", "threads"), [("spin", 2), ("futex", 4)])
@pytest.mark.skipif(N_CPUS < 2, reason="threads that spin need a CPU each")
def test_a_balanced_run_has_no_straggler(meet, barrier, threads):
    met = meet(barrier, "none", threads, calls=300)
    assert_as_the_program_knows(met)
    assert met.finding("straggler") is None or met.disturbed()


@pytest.mark.skipif(N_CPUS < 2, reason="one CPU for each thread")
def test_a_thread_beside_a_cpu_hog(meet, program):
    """The second thread is pinned to CPU 1, and so is the hog."""
    command = [*BEFORE_OTHERS, "taskset", "-c", "1", program("hot.c"), "work", "60"]
    hog = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        met = meet("spin", "none", 2)
    finally:
        hog.kill()
        hog.wait()
    assert_as_the_program_knows(met)
    if met.disturbed(hog.pid):
        pytest.skip("other programs than the hog had the CPUs")
    name = f"{program('hot.c').name} ({hog.pid})"
    for rule in ("straggler", "preemption"):
        found = met.finding(rule)
        assert found is not None
        assert met.tids[1] in found.threads
        assert name in found.title
    assert met.finding("straggler").threads == (met.tids[1],)


@pytest.mark.parametrize(("barrier", "threads"), [("spin", 2), ("futex", 4)])
@pytest.mark.skipif(N_CPUS < 2, reason="threads that spin need a CPU each")
def test_parts_of_a_long_prefill(trace, program, tmp_path, barrier, threads):
    """Windows see a piece from its middle: each barrier in it is one that the program noted, with its last thread."""
    log = tmp_path / "log"
    command = [*BEFORE_OTHERS, program("meet.c", "-fopenmp"), barrier, "busy", threads, 1, 9_000, log, 5]
    done = trace(command, options=OPTIONS)
    if os.getloadavg()[0] > 2 * N_CPUS and not len(done.recording.windows):
        pytest.skip("the machine is so busy that no window was opened")
    prefill = build_report(done.recording).barriers.by_phase.set_index("phase").loc["prefill"]
    assert (prefill["calls_seen"], prefill["threads"]) == (0, threads)
    assert prefill["parts_seen"] >= 1
    gatherer, pairs = BarrierEvents(done.recording.windows, done.recording.phases), SwitchPairs()
    events = ByKind(done.recording.events)
    gatherer.add(events, pairs.add(events))
    found = gatherer.result()
    assert len(found.instances) == prefill["count"] > 100
    arrivals_ns = np.fromfile(log, np.uint64).astype(np.int64).reshape(threads, -1)
    last_ns = arrivals_ns.max(axis=0)
    # a thread's own reading is a little before its entry is told
    round_of = np.searchsorted(last_ns, found.instances["last_ns"].to_numpy(np.int64), side="right") - 1
    assert len(np.unique(round_of)) == len(round_of)
    assert sum(np.diff(np.sort(round_of)) > 1) <= len(found.parts) - 1 + prefill["count"] // 100
    tids = np.array([line["tid"] for line in done.lines])
    came_last = tids[arrivals_ns.argmax(axis=0)][round_of] == found.instances["last_tid"].to_numpy()
    assert came_last.mean() > 0.9
    whole_ns = (last_ns[round_of] - arrivals_ns.min(axis=0)[round_of]).sum()
    assert found.instances["skew_ns"].sum() == pytest.approx(whole_ns, rel=0.05, abs=2_000 * len(round_of))


def test_one_thread_too_many(meet):
    """They spin, so each barrier takes as long as the scheduler lets one of them spin. It is told within seconds."""
    begin = time.monotonic()
    met = meet("spin", "none", N_CPUS + 1, calls=20, rounds=10)
    first = met.report.findings[0]
    assert (first.rule, first.figure, first.threshold) == ("oversubscription", N_CPUS + 1, N_CPUS)
    assert first.severity == "critical"
    assert time.monotonic() - begin < 30

"""perf's counters, against the events that a program opens itself, and against what is counted by tracepoints."""

import csv
import subprocess

import pytest

from bitnet_trace.analysis.report import build_report

SOFTWARE = ["context-switches", "cpu-migrations", "page-faults", "task-clock"]


@pytest.fixture(scope="module")
def counted(program, trace):
    names = [*SOFTWARE, "minor-faults", "major-faults", "msr/tsc/", "sched:sched_process_exit", "cycles"]
    command = [program("counters.c"), 3, 101]
    return trace(command, options=["--counters", ",".join(names)])


def sums(traced, tids=None):
    """{counter: count} of some threads, all when None."""
    rows = traced.recording.perf
    names = [one["name"] for one in traced.recording.meta["counters"]]
    if tids is not None:
        rows = rows[rows["tid"].isin(tids)]
    return {names[number]: int(n) for number, n in rows.groupby("counter")["count"].sum().items()}


def test_equal_to_what_the_program_counts_of_itself(counted):
    counted.assert_nothing_lost()
    (truth,) = counted.lines
    threads = counted.recording.threads
    workers = threads.loc[(threads["pid"] == truth["pid"]) & (threads["tid"] != truth["pid"]), "tid"]
    assert len(workers) == 3
    found = sums(counted, workers)
    assert {name: found[name] for name in SOFTWARE[:3]} == {name: truth[name] for name in SOFTWARE[:3]}
    assert found["cpu-migrations"] >= 3 * 2 * 11 - 3
    assert found["context-switches"] >= 3 * 101
    # from switch to switch, and not from the moment within it at which the kernel starts the clock
    assert found["task-clock"] == pytest.approx(truth["task-clock"], rel=0.1, abs=1e6)


def test_equal_to_what_is_counted_by_tracepoints(counted):
    found, total = sums(counted), build_report(counted.recording).total.iloc[0]
    assert found["page-faults"] == found["minor-faults"] + found["major-faults"]
    # counting begins within the first execve: what that faults on before is no fault of the program's
    assert 0 <= total["faults_minor"] + total["faults_major"] - found["page-faults"] < 20
    # perf counts a thread that was moved when it runs again: moved twice meanwhile, once
    assert 0 <= total["migrations"] - found["cpu-migrations"] <= 10
    # before that, and when it gives back its memory, it is on the CPU and perf's clock is not
    assert 0 <= total["cpu_ns"] - found["task-clock"] < 10_000_000
    assert found["sched:sched_process_exit"] <= 4


def test_phases_add_up_and_what_is_missing_says_why(counted):
    report = build_report(counted.recording)
    table = report.perf.by_phase
    by_phase = table[table["phase"] != "total"].groupby("counter")["value"].sum()
    total = table[table["phase"] == "total"].set_index("counter")["value"]
    assert by_phase.to_dict() == total.to_dict()
    assert report.perf.by_thread.groupby("counter")["value"].sum().to_dict() == total.to_dict()
    assert total["msr/tsc/"] > 0
    if not report.run["host"]["pmu"]:
        assert any("PMU" in reason for reason in report.perf.missing)
        assert "cycles" not in total


def test_like_perf_stat(program, trace, tmp_path):
    """Of two runs of one program: the tracer's holding it adds a switch or two for each stop."""
    perf = subprocess.run(["perf", "--version"], capture_output=True, check=False)
    if perf.returncode:
        pytest.skip("no perf")
    command = ["setarch", "-R", program("counters.c"), "2", "101"]
    events = "context-switches,cpu-migrations,page-faults"
    output = tmp_path / "perf.csv"
    subprocess.run(["perf", "stat", "-x,", "-o", output, "-e", events, *command], check=True, capture_output=True)
    lines = [line for line in output.read_text().splitlines() if line and not line.startswith("#")]
    truth = {row[2]: int(row[0]) for row in csv.reader(lines)}
    traced = trace(command, options=["--counters", events])
    found = sums(traced)
    stops = traced.recording.meta["cost"]["ptrace_stops"]
    assert found["page-faults"] == pytest.approx(truth["page-faults"], abs=30)
    assert found["cpu-migrations"] == pytest.approx(truth["cpu-migrations"], abs=10)
    # preempted by others more or less often
    assert found["context-switches"] == pytest.approx(truth["context-switches"], abs=60 + 2 * stops)


def test_with_counts_only(program, trace):
    traced = trace([program("counters.c"), 2, 101], detail="counts", options=["--counters", "page-faults"])
    total = build_report(traced.recording).total.iloc[0]
    assert 0 <= total["faults_minor"] + total["faults_major"] - sums(traced)["page-faults"] < 20


@pytest.mark.parametrize(
    ("names", "said"),
    [("cycels", "did you mean cycles?"), ("nosuch/event=1/", "no PMU nosuch"), ("msr/evnt=1/", "msr has no evnt")],
)
def test_a_name_that_is_none(trace, names, said):
    failed = trace(["true"], options=["--counters", names], exit_code=1)
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not failed.folder.exists()

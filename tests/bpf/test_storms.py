"""Processes and threads by the thousand: nothing is lost, each has its rows, and all that they count themselves is there."""

import pandas as pd
import pytest

from bitnet_trace.analysis.report import build_report

FAULTS = {
    "minor": ["faults_user_minor", "faults_kernel_minor", "faults_populate_minor"],
    "major": ["faults_user_major", "faults_kernel_major", "faults_populate_major"],
}
# as the program names its calls
CALLS = {"maps": "mmap_calls", "yields": "sched_yield_calls", "reads": "read_calls"}


def storm(trace, program, detail, *arguments):
    run = trace([program("storm.c"), *arguments], detail)
    run.assert_nothing_lost()
    return run


def lines_of(run, name):
    return pd.DataFrame([line for line in run.lines if line["name"] == name])


def by_process(run):
    """Counters summed by process."""
    pids = run.recording.phases.set_index("id")["pid"]
    table = run.counters.reset_index()
    return table.groupby(table["phase"].map(pids).astype(int)).sum()


def by_thread(run):
    return run.counters.groupby(level="tid").sum()


def assert_calls(measured, lines):
    """`measured`: a row of counters for each of `lines`."""
    for key, column in CALLS.items():
        differing = lines[measured[column].to_numpy() != lines[key]]
        assert not len(differing), (column, differing)


def assert_kernel_agrees(run, n_threads):
    """Of each thread the kernel's own accounting was received, and what was counted is the same."""
    table = build_report(run.recording).taskstats
    assert len(table) == n_threads
    assert set(table["at"]) == {"exit"}
    for name in ("switches_voluntary", "switches_involuntary", "all_faults_minor", "all_faults_major"):
        differing = table[table[f"difference_{name}"] != 0]
        assert not len(differing), differing[["tid", f"difference_{name}", f"kernel_{name}"]]


@pytest.mark.parametrize("kind", ["forks", "execs"])
def test_a_thousand_short_children(trace, program, detail, kind):
    leaf = [program("leaf.c", "-static")] if kind == "execs" else []
    run = storm(trace, program, detail, kind, 1000, *leaf)
    lines = lines_of(run, "child")
    assert len(lines) == 1000
    measured = by_process(run).loc[lines["pid"]].reset_index(drop=True)
    assert_calls(measured, lines)
    for key, columns in FAULTS.items():
        assert (measured[columns].sum(axis=1) == lines[key]).all(), key
    # the very last switch may or may not be in the kernel's sum
    assert (lines["voluntary"] - measured["switches_voluntary"]).between(0, 1).all()
    assert (measured["switches_involuntary"] == lines["involuntary"]).all()
    threads = run.recording.threads.set_index("tid")
    assert len(threads) == 1001
    assert threads["end_ns"].notna().all()
    assert threads.loc[lines["pid"], "exit_code"].tolist() == lines["status"].tolist()
    assert_kernel_agrees(run, 1001)


def test_processes_that_end_while_their_threads_run(trace, program, detail):
    """What a thread does after another has ended the process is the process's still."""
    run = storm(trace, program, detail, "ends", 300)
    lines = lines_of(run, "child")
    report = build_report(run.recording)
    table = report.by_thread
    assert len(table) == 3 * 300 + 1
    assert table["comm"].notna().all()
    assert set(table["pid"].value_counts()[lines["pid"]]) == {3}
    assert "unknown" not in report.by_phase["phase"].tolist()


@pytest.mark.parametrize(("kind", "n"), [("alive", 500), ("quick", 5000)])
def test_threads(trace, program, detail, kind, n):
    """500 that are alive at the same time; 5,000 that come and go."""
    run = storm(trace, program, detail, kind, n)
    (process,) = (line for line in run.lines if line["name"] == "process")
    lines = lines_of(run, "thread")
    assert len(set(lines["tid"])) == n
    measured = by_thread(run).loc[lines["tid"]].reset_index(drop=True)
    assert_calls(measured, lines)
    # after its own reading it ends
    assert (measured[FAULTS["minor"]].sum(axis=1) - lines["minor"]).between(0, 8).all()
    measured = by_process(run).loc[process["pid"]]
    for key, columns in FAULTS.items():
        assert measured[columns].sum() == process[key], key
    assert 0 <= process["voluntary"] - measured["switches_voluntary"] <= n + 1
    assert measured["switches_involuntary"] == process["involuntary"]
    recorded = run.recording.threads.set_index("tid")
    assert set(recorded.index[recorded["pid"] == process["pid"]]) == {process["pid"], *lines["tid"]}
    assert recorded["end_ns"].notna().all()
    assert_kernel_agrees(run, n + 2)

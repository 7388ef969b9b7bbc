"""What belongs to the target is recorded, whole, and nothing else: forks, vforks, threads, execs."""

import subprocess

import pytest

pytestmark = pytest.mark.untimed

FAULT_COLUMNS = {
    "minor": ["faults_user_minor", "faults_kernel_minor", "faults_populate_minor"],
    "major": ["faults_user_major", "faults_kernel_major", "faults_populate_major"],
}


def by_process(run):
    """Counters summed by process, over all of its phases and threads."""
    pids = run.recording.phases.set_index("id")["pid"]
    table = run.counters.reset_index()
    assert set(table["phase"]) <= set(pids.index)
    return table.groupby(table["phase"].map(pids).astype(int)).sum()


def assert_life(measured, line, n_threads=1):
    """All of a process's life against wait4(2)."""
    for key, columns in FAULT_COLUMNS.items():
        assert sum(measured[name] for name in columns) == line[key], (key, line)
    # a thread's very last switch, from which it does not come back, may or may not be in the kernel's sum
    assert 0 <= line["voluntary"] - measured["switches_voluntary"] <= n_threads, line
    assert measured["switches_involuntary"] == line["involuntary"], line
    if line["maps"] >= 0:
        assert measured["mmap_calls"] == line["maps"]


def run_family(trace, program, detail, *arguments):
    done = trace([program("family.c"), *arguments], detail)
    done.assert_nothing_lost()
    return done


def test_short_children(trace, program, detail):
    run = run_family(trace, program, detail, "children", 200)
    processes = by_process(run)
    assert len(run.lines) == 200
    for line in run.lines:
        assert_life(processes.loc[line["pid"]], line)
    threads = run.recording.threads.set_index("tid")
    assert len(threads) == 201
    assert [int(threads.loc[line["pid"], "exit_code"]) for line in run.lines] == [line["status"] for line in run.lines]
    assert threads["end_ns"].notna().all()


def test_threads(trace, program, detail):
    run = run_family(trace, program, detail, "threads", 300)
    process = next(line for line in run.lines if line["name"] == "process")
    threads = [line for line in run.lines if line["name"] == "thread"]
    assert len(threads) == len({line["tid"] for line in threads}) == 300
    assert_life(by_process(run).loc[process["pid"]], process, n_threads=301)
    for line in threads:
        measured = run.total([line["tid"]])
        assert measured["mmap_calls"] - line["maps"] in (0, 1)  # glibc may make the thread an arena
        assert 0 <= sum(measured[FAULT_COLUMNS["minor"]]) - line["minor"] <= 8  # after its own reading it ends
    recorded = run.recording.threads
    assert set(recorded.loc[recorded["pid"] == process["pid"], "tid"]) == {process["pid"], *(t["tid"] for t in threads)}


@pytest.mark.parametrize(("kind", "n"), [("spawned", 20), ("execs", 7)])
def test_programs_that_execute_others(trace, program, detail, kind, n):
    run = run_family(trace, program, detail, kind, n)
    processes = by_process(run)
    assert len(run.lines) == (n if kind == "spawned" else 1)
    for line in run.lines:
        assert_life(processes.loc[line["pid"]], line)


def test_exec_by_a_thread_that_is_not_the_leader(trace, program, detail):
    run = run_family(trace, program, detail, "thread_execs", 20)
    processes = by_process(run)
    assert len(run.lines) == 20
    for line in run.lines:
        assert_life(processes.loc[line["pid"]], line, n_threads=4)
    threads = run.recording.threads
    for line in run.lines:
        own = threads[threads["pid"] == line["pid"]].set_index("tid")
        assert own["end_ns"].notna().all()
        assert own.loc[line["pid"], "end_ns"] == own["end_ns"].max()
        assert own.loc[line["pid"], "comm"] == program("family.c").name[:15]


def test_nothing_is_counted_before_the_programs_first_execve(trace, program, data_file, detail):
    """Our own child waits and changes its user before it: that is not the target's."""
    run = trace([program("work.c"), data_file, "touch"], detail)
    phases = run.recording.phases
    assert set(run.counters.index.get_level_values("phase")) <= set(phases["id"])
    assert 0 not in phases["id"].tolist()
    events = run.recording.events
    if len(events):
        assert events["ts_ns"].min() >= phases["begin_ns"].min()
    # by then Python has made hundreds of faults; a program of this size makes 200 to load
    total = run.total([run.lines[0]["pid"]])
    assert total["faults_user_minor"] < 2 * 1009 + 600
    assert total["mmap_calls"] < 40


CHAINS = {
    "exec": 'exec env A=1 "$0" "$@"',
    "fork": 'true; env A=1 "$0" "$@"; exit $?',
    "subshell": '(true | (env A=1 nice -n 0 "$0" "$@"))',
    "background": '"$0" "$@" & wait $!',
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_program_behind_others(trace, program, data_file, detail, chain):
    run = trace(["sh", "-c", CHAINS[chain], program("work.c"), data_file, "touch"], detail)
    run.assert_nothing_lost()
    assert len(run.lines) == 2
    calls = run.calls(run.lines[0]["pid"])
    for line, phase in zip(run.lines, calls["id"], strict=True):
        measured = run.total([line["tid"]], [phase])
        assert measured["faults_user_minor"] >= 1009
        assert measured["mmap_calls"] == measured["munmap_calls"] == 1


def test_the_same_program_of_somebody_else_is_not_recorded(trace, program, data_file, detail):
    """It runs all the time, maps the same file with the same probes, and faults and switches."""
    path = program("work.c")
    items = ["touch", "sleeps", "read_calls", "touch,sleeps"]
    outsider = subprocess.Popen(
        ["sh", "-c", f"while :; do {path} {data_file} {' '.join(items)} >/dev/null; done"], start_new_session=True
    )
    try:
        run = trace([path, data_file, *items], detail)
    finally:
        outsider.terminate()
        outsider.wait()
    run.assert_nothing_lost()
    tids = {line["tid"] for line in run.lines}
    pid = run.lines[0]["pid"]
    assert set(run.recording.threads["tid"]) == tids
    assert set(run.recording.phases["pid"]) == {pid}
    assert set(run.recording.events["tid"].tolist()) <= tids
    assert set(run.counters.index.get_level_values("tid")) == tids
    assert len(run.calls(pid)) == 2 * len(items)
    assert run.total(sorted(tids))["read_bytes"] == run.total([pid])["read_bytes"]
    (phase,) = run.calls(pid)["id"].tolist()[5:6]
    line = next(line for line in run.lines if line["name"] == "read_calls" and line["round"] == 1)
    assert run.total([pid], [phase])["read_calls"] == line["counts"]["read_calls"]


def test_what_outlives_the_recording_is_closed_at_its_end(trace, detail):
    """A process that sleeps on: its time is accounted for up to the end, and nothing is counted that did not happen."""
    run = trace(["sh", "-c", "sleep 9 >/dev/null 2>&1 & sleep 0.5"], detail)
    threads = run.recording.threads
    (sleeper,) = threads[(threads["comm"] == "sleep") & threads["end_ns"].isna()].itertuples()
    begin_ns = run.recording.events["ts_ns"].max() - int(run.total([sleeper.tid])[["cpu_ns", "offcpu_ns"]].sum())
    assert abs(begin_ns - sleeper.start_ns) < 5e6
    counted = run.total([sleeper.tid])
    assert counted["offcpu_ns"] > 0.3e9
    assert counted["switches_voluntary"] >= 1

"""What is counted against the kernel's own accounting of each thread, and what becomes of that accounting."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture import delay_accounting
from bitnet_trace.recording.reader import open_recording

N_THREADS = 64
COUNTS = ("switches_voluntary", "switches_involuntary", "all_faults_minor", "all_faults_major")
EXITS = "exits.c"
TICK_NS = 10_000_000  # at most


@pytest.fixture(scope="module")
def contended(trace, program, detail):
    """64 threads, each with 20 ms to compute, on a few CPUs."""
    run = trace([program(EXITS), N_THREADS, 20], detail)
    run.assert_nothing_lost()
    return run


@pytest.fixture(scope="module")
def table(contended):
    return build_report(contended.recording).taskstats.set_index("tid")


def test_every_exit_is_received(contended, table):
    (pid,) = {line["pid"] for line in contended.lines}
    assert set(table.index) == {pid, *(line["tid"] for line in contended.lines)}
    assert len(table) == N_THREADS + 1
    assert set(table["at"]) == {"exit"}
    assert contended.recording.meta["received"]["taskstats"] == N_THREADS + 1
    assert contended.recording.meta["losses"]["taskstats"] == 0
    told = contended.recording.meta["taskstats"]
    assert told["reason"] is None
    assert told["dropped_messages"] == 0


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_kernels(table, name):
    differing = table[table[f"difference_{name}"] != 0]
    assert not len(differing), differing[[name, f"kernel_{name}"]]


def test_the_program_had_to_wait(contended, table):
    """What the comparison rests on: there was contention, and what the threads say of themselves is in it."""
    assert (table["kernel_switches_involuntary"] > 0).sum() > N_THREADS // 2
    for line in contended.lines:
        row, usage = table.loc[line["tid"]], line["end"]
        assert row["kernel_switches_voluntary"] >= usage["voluntary"] >= line["sleeps"]
        assert 0 <= row["kernel_all_faults_minor"] - usage["minor"] <= 8
        assert row["kernel_runq_wait_ns"] >= usage["run_delay_ns"] > 0


def test_waits_for_a_cpu_are_the_kernels_within_five_percent(table):
    """All but one: a guest may lose the CPU between the kernel's reading of its clock and the tracepoint."""
    workers = table[table["kernel_runq_wait_ns"] > 50_000_000]
    assert len(workers) > N_THREADS // 2
    together = workers["difference_runq_wait_ns"].sum() / workers["kernel_runq_wait_ns"].sum()
    assert abs(together) < 0.05
    share = (workers["difference_runq_wait_ns"].abs() / workers["kernel_runq_wait_ns"]).astype(float)
    assert (share >= 0.05).sum() <= 1, workers[share >= 0.05].T.to_string()


def test_time_on_a_cpu_is_the_kernels(contended, table):
    """Each computes for 20 ms; the kernel's sum stands still since the last tick before the exit."""
    for line in contended.lines:
        row = table.loc[line["tid"]]
        assert row["kernel_cpu_ns"] >= 20_000_000 - TICK_NS
        assert row["cpu_ns"] >= 20_000_000 * 0.95
    assert (~table["agrees"]).sum() <= 1, table[~table["agrees"]].T.to_string()


def test_what_the_kernel_does_not_account_is_missing(contended, table):
    if delay_accounting.why_off() is None:
        pytest.skip("kernel.task_delayacct is on")
    assert table["blkio_delay_ns"].isna().all()
    assert table["wpcopy_count"].isna().all()
    assert "--allow-system-changes" in contended.recording.meta["taskstats"]["delay_reason"]
    assert table["hiwater_rss_bytes"].gt(0).all()


def test_system_changes_are_for_the_run(trace, program):
    before = delay_accounting.SWITCH.read_text()
    run = trace([program(EXITS), 3, 1], options=["--allow-system-changes"])
    assert delay_accounting.SWITCH.read_text() == before
    assert run.recording.meta["taskstats"]["delay_reason"] is None
    table = build_report(run.recording).taskstats
    assert table["blkio_delay_ns"].notna().all()
    assert table["wpcopy_count"].sum() > 0  # the first pages that the program wrote to


@pytest.mark.parametrize("how", ["killed", "terminated"])
def test_system_changes_end_with_the_tracer(trace, program, tmp_path, how):
    if delay_accounting.why_off() is None:
        pytest.skip("kernel.task_delayacct is on")
    command = [sys.executable, "-m", "bitnet_trace", "run", "-q", "--allow-system-changes", "-o", tmp_path / "x.btrace"]
    tracer = subprocess.Popen([*command, "--", program(EXITS), "2", "1", "wait"], stdout=subprocess.PIPE, text=True)
    line = json.loads(tracer.stdout.readline())
    assert delay_accounting.SWITCH.read_text().strip() == "1"
    if how == "terminated":
        tracer.terminate()  # passed on to the program
        assert tracer.wait(30) == 128 + signal.SIGTERM
    else:
        tracer.kill()
        tracer.wait(30)
        os.kill(line["pid"], signal.SIGKILL)
        # another run on this machine may have set it back already
        _wait_until(lambda: delay_accounting.leftover() == "0" or delay_accounting.SWITCH.read_text().strip() == "0")
        trace([program(EXITS), 1, 1])
    assert delay_accounting.SWITCH.read_text().strip() == "0"
    assert delay_accounting.leftover() is None


def test_threads_that_have_not_ended_are_asked(program, tmp_path):
    """Interrupted twice the tracer goes, and the program stays: what it has used so far is recorded."""
    folder = tmp_path / "x.btrace"
    command = [sys.executable, "-m", "bitnet_trace", "run", "-q", "-o", folder, "--", program(EXITS), "5", "1", "wait"]
    tracer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    line = json.loads(tracer.stdout.readline())
    pid = line["pid"]
    try:
        time.sleep(0.5)  # the program says that it waits before it does
        for _ in range(2):
            tracer.send_signal(signal.SIGINT)
            time.sleep(0.2)
        tracer.wait(30)
        recording = open_recording(folder)
        stats = recording.taskstats.set_index("tid")
        assert stats.loc[[pid]].query("at == 'running'")["nvcsw"].ge(1).all()
        table = build_report(recording).taskstats.set_index("tid")
        assert table.loc[pid, "at"] == "running"
        assert (table.drop(pid)["at"] == "exit").all()
        assert len(table) == 6
        assert recording.meta["losses"]["taskstats"] == 0
    finally:
        tracer.kill()
        os.kill(pid, signal.SIGKILL)


def test_a_full_buffer_is_a_loss(program, tmp_path):
    """More exits than there is room for, while nobody reads."""
    code = (
        "import bitnet_trace.capture.taskstats as t, subprocess, sys\n"
        "t._BUFFER_BYTES = 4096\n"
        "exits = t.Taskstats(); assert exits.reason is None, exits.reason\n"
        "lines = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True).stdout.splitlines()\n"
        "import json; tids = [json.loads(line)['tid'] for line in lines]; pid = json.loads(lines[0])['pid']\n"
        "known = {tid: {'tid': tid, 'pid': pid, 'start_ns': 1, 'end_ns': 2, 'exit_code': 0} for tid in tids}\n"
        "rows = exits.take(known)\n"
        "print(len(known), len(rows), exits.lost(known), exits.dropped)\n"
        "exits.close(); assert exits.dropped > 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, program(EXITS), "300", "0"], stdout=subprocess.PIPE, check=True, text=True
    )
    known, received, lost, dropped = map(int, done.stdout.split())
    assert known == 300
    assert received + lost == 300
    assert 0 < lost <= dropped


def _wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

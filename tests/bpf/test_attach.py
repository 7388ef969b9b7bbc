"""A program that runs already: what it does from then on is counted, and it is left as it was."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bitnet_trace.analysis.phases import name_phases
from bitnet_trace.analysis.report import build_report
from tests.bpf.conftest import TOOL, Traced

pytestmark = pytest.mark.untimed

CALLS, PAGES, YIELDS = 101, 7, 13


class Attended:
    """tests/programs/attended.c, which works when it is asked to."""

    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = json.loads(self.process.stdout.readline())["pid"]

    def work(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def status(self, name):
        return re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{self.pid}/status").read_text(), re.M)[1]

    def code(self):
        """What of its own file it has mapped to execute, as it is in its memory."""
        maps = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        line = next(one for one in maps if " r-xp " in one and os.path.realpath(f"/proc/{self.pid}/exe") in one)
        begin, end = (int(edge, 16) for edge in line.split()[0].split("-"))
        with open(f"/proc/{self.pid}/mem", "rb") as memory:
            memory.seek(begin)
            return memory.read(end - begin)


@pytest.fixture
def attended(program):
    one = Attended(program("attended.c"))
    yield one
    one.process.stdin.close()
    assert one.process.wait(timeout=20) == 0


@contextlib.contextmanager
def attached(folder, pid, *options):
    """The tracer, from when it says that it traces; has ended after it."""
    command = [*TOOL, "attach", "-p", str(pid), "-o", str(folder), *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = tracer.stderr.readline()
        assert "tracing" in line, line + tracer.stderr.read()
        yield tracer
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        tracer.errors = tracer.communicate(timeout=60)[1]


def traced(folder, tracer):
    assert tracer.returncode == 0, tracer.errors
    return Traced(folder, 0, "", tracer.errors)


def test_what_it_does_from_then_on_is_counted(attended, detail, tmp_path):
    code, threads = attended.code(), attended.status("Threads")
    attended.work()  # before: not counted
    with attached(tmp_path / "a.btrace", attended.pid, "--detail", detail) as tracer:
        said = attended.work()
        assert attended.status("TracerPid") == "0"
    run = traced(tmp_path / "a.btrace", tracer)
    run.assert_nothing_lost()

    phases = name_phases(run.recording.phases)
    assert phases["name"].value_counts()["decode"] == CALLS - 1
    assert phases["name"].value_counts()["prefill"] == 1
    assert phases["role"].iloc[0] == "attached"
    worker = run.total([said["worker_tid"]])
    calls = run.calls(attended.pid)["id"].tolist()
    # the page of code in which a probe was placed is mapped anew, and faults once more
    assert 0 <= run.total([attended.pid], calls)["faults_user_minor"] - CALLS * PAGES <= 1
    assert worker["sched_yield_calls"] == CALLS * YIELDS
    if detail == "events":
        for tid, readings in ((attended.pid, said["main"]), (said["worker_tid"], said["worker"])):
            at_least = run.between(tid, readings[0]["after_ns"], readings[1]["before_ns"])
            at_most = run.between(tid, readings[0]["before_ns"], readings[1]["after_ns"])
            for key, name in (("voluntary", "switches_voluntary"), ("involuntary", "switches_involuntary")):
                assert at_least[name] <= readings[1][key] - readings[0][key] <= at_most[name], (tid, name)

    report = build_report(run.recording)
    assert report.summary["ttft_ns"] is None
    assert report.run["exit_code"] is None
    assert set(report.by_thread["role"]) >= {"main"}

    # as it was before
    assert attended.status("TracerPid") == "0"
    assert attended.status("Threads") == threads
    assert attended.code() == code
    attended.work()


def scraped(port):
    """Values by (name, values of the labels in the order of their names)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    return {(one.name, *(value for _, value in sorted(one.labels.items()))): one.value for one in samples}


def test_metrics_are_those_of_the_report(attended, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with attached(tmp_path / "a.btrace", attended.pid, "--prometheus", str(port)) as tracer:
        attended.work()
        deadline = time.monotonic() + 30
        while (found := scraped(port)).get(("bitnet_trace_tokens_total", "decode")) != CALLS - 1:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
    run = traced(tmp_path / "a.btrace", tracer)
    decode = build_report(run.recording).by_phase.set_index("phase").loc["decode"]
    assert found["bitnet_trace_page_faults_total", "minor", "decode"] == decode["faults_minor"] > 0
    assert found["bitnet_trace_phase_duration_seconds_count", "decode"] == CALLS - 1
    assert found["bitnet_trace_cpu_seconds_total", "decode"] == pytest.approx(decode["cpu_ns"] / 1e9)
    run.assert_nothing_lost()
    losses = run.recording.meta["losses"]
    assert found["bitnet_trace_events_lost_total",] <= losses["ticks"] + losses["recursion"]
    assert found["bitnet_trace_target_up",] == 1
    with pytest.raises(urllib.error.URLError):
        scraped(port)


def test_it_ends_while_it_is_traced(program, tmp_path):
    attended = Attended(program("attended.c"))
    with attached(tmp_path / "a.btrace", attended.pid) as tracer:
        attended.work()
        attended.process.kill()
        attended.process.wait()
        tracer.wait(timeout=30)
    run = traced(tmp_path / "a.btrace", tracer)
    assert run.recording.meta["exit_status"] == -signal.SIGKILL
    assert run.recording.complete
    assert len(run.calls(attended.pid)) == CALLS


def test_for_a_while(attended, tmp_path):
    with attached(tmp_path / "a.btrace", attended.pid, "--duration", "0.5") as tracer:
        tracer.wait(timeout=30)
    run = traced(tmp_path / "a.btrace", tracer)
    assert 0.4e9 < run.recording.meta["wall_ns"] < 3e9
    # asleep all the time: the whole of it is off the CPU
    assert run.total([attended.pid])["offcpu_ns"] >= 0.4e9


@pytest.mark.parametrize(
    ("pid", "message"),
    [("4194304", "there is no process"), ("2", "one of the kernel's own")],
)
def test_what_cannot_be_traced(pid, message, tmp_path):
    done = subprocess.run(
        [*TOOL, "attach", "-p", pid, "-o", str(tmp_path / "a.btrace")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "a.btrace").exists()

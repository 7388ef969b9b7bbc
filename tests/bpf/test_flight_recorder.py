"""The flight recorder catches what happens once in a while, and its recording explains it."""

import re
import signal
import subprocess
import time

import pytest

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.reader import open_recording
from tests.bpf.conftest import TOOL

STOPPED_S = 0.2


@pytest.fixture
def decoding(program):
    """A program that decodes some ten tokens a second, for as long as it is let."""
    command = ["/bin/sh", "-c", f"exec {program('endless.c')}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def recorded(tracer, seconds=30):
    """The path of the recording that the tracer says it has made, and why."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        line = tracer.stderr.readline()
        found = re.search(r"bitnet-trace: (.*): recorded in (.*)", line)
        if found:
            return found[1], found[2]
        assert line, "the tracer has ended"
    raise AssertionError("nothing was recorded")


def test_a_thread_that_was_stopped(decoding, tmp_path):
    path = tmp_path / "flight.btrace"
    options = ["--ring", "5s", "--slower", "150", "-o", str(path)]
    tracer = subprocess.Popen([*TOOL, "attach", "-p", str(decoding.pid), *options], stderr=subprocess.PIPE, text=True)
    try:
        assert "tracing" in tracer.stderr.readline()
        time.sleep(2)
        assert not path.exists()
        decoding.send_signal(signal.SIGSTOP)
        time.sleep(STOPPED_S)
        decoding.send_signal(signal.SIGCONT)
        why, where = recorded(tracer)
        assert where == str(path)
        assert re.search(r"token \d+ took 2\d\d ms", why)

        # the user wants one more
        tracer.send_signal(signal.SIGUSR1)
        why, where = recorded(tracer)
        assert why == "asked for"
        assert where == str(tmp_path / "flight-2.btrace")
    finally:
        tracer.send_signal(signal.SIGINT)
        errors = tracer.communicate(timeout=30)[1]
    assert tracer.returncode == 0, errors
    recording = open_recording(path)
    assert recording.complete
    assert not recording.warnings
    report = build_report(recording)
    assert 1e9 < report.run["wall_ns"] < 8e9
    assert set(report.by_phase["phase"]) >= {"decode"}
    # which token, how long, and that its thread was off the CPU for no reason of its own
    times = report.token_time
    slow = times.loc[times["dur_ns"].idxmax()]
    assert STOPPED_S * 1e9 <= slow["dur_ns"] < 2 * STOPPED_S * 1e9
    assert slow["rest_ns"] > 0.8 * STOPPED_S * 1e9
    assert times["dur_ns"].median() < 60e6


def test_options():
    done = subprocess.run([*TOOL, "attach", "-p", "1", "--slower", "9"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--ring" in done.stderr
    done = subprocess.run([*TOOL, "attach", "-p", "1", "--ring", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2

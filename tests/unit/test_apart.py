"""What is computed in a process of its own comes back as if it had been computed here."""

import os
import signal

import pytest
from traces import write_inference

from bitnet_trace.analysis import report
from bitnet_trace.analysis.apart import begun_apart
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.render import json


def test_the_result_is_a_forks():
    pid = begun_apart(os.getpid)()
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):  # it has been waited for
        os.kill(pid, 0)


def test_errors_are_told_here():
    def fails():
        raise TraceError("no", "do")

    with pytest.raises(TraceError, match="no"):
        begun_apart(fails)()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_fork_that_is_killed_is_done_without(number):
    here = os.getpid()

    def work():
        if os.getpid() != here:
            os.kill(os.getpid(), number)
        return os.getpid()

    assert begun_apart(work)() == here


def test_a_report_is_the_same(tmp_path, monkeypatch):
    path = write_inference(tmp_path / "a.btrace")
    monkeypatch.setattr(report, "_MANY_EVENTS", 0)
    assert json.render(report.build_report(open_recording(path), may_fork=True)) == json.render(
        report.build_report(open_recording(path))
    )

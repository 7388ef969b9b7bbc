"""The live view of programs that run: its last figures, its terminal, and what becomes of both."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture.options import Options
from bitnet_trace.capture.session import trace
from bitnet_trace.capture.view import View
from bitnet_trace.recording.reader import open_recording
from tests.bpf import kernel_objects
from tests.bpf.conftest import TOOL
from tests.unit.test_live_fold import differences

WORK = "for i in 1 2 3 4 5 6; do echo; sleep 0.1; done | {}"
FOREVER = "while echo; do sleep 0.05; done | {}"


def test_the_last_figures_are_the_reports(program, tmp_path):
    frames = []
    view = View(lambda frame: bool(frames.append(frame)), 0.3)
    command = ["/bin/sh", "-c", WORK.format(program("attended.c"))]
    result = trace(command, Options(output=tmp_path / "x.btrace", keep_output=False, view=view))
    assert result.exit_status == 0
    assert len(frames) >= 3
    assert frames[-1].ended
    assert frames[-1].status == "ended, exit code 0"
    report = build_report(open_recording(tmp_path / "x.btrace"))
    assert frames[-1].decoded_tokens == report.summary["decoded_tokens"] > 500
    assert not differences(frames[-1], report)
    assert frames[-1].lost == report.health["lost"] <= 2  # samples that a hypervisor took the CPU away from


class Terminal:
    """The tool on a terminal of its own."""

    def __init__(self, *arguments, tool=TOOL, columns="110"):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS=columns, LINES="30")
            os.execv(tool[0], [*tool, *map(str, arguments)])
        self.mode = termios.tcgetattr(self.descriptor)
        self.seen = b""

    def wait_for(self, pattern, seconds=40, after=0):
        """Until it was written, after so many bytes."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen[after:]):
            assert time.monotonic() < deadline, self.seen[-3000:]
            self.read(0.2)

    def read(self, seconds):
        if select.select([self.descriptor], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.descriptor, 1 << 16)

    def press(self, keys):
        os.write(self.descriptor, keys.encode())

    def end(self, seconds=40):
        """The exit code, when it has ended by itself."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.read(0.1)
            if pid:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, self.seen[-3000:]

    def first_child(self):
        """Of the tool that is the screen's process."""
        children = open(f"/proc/{self.pid}/task/{self.pid}/children").read().split()  # noqa: SIM115
        return int(children[0])

    def is_restored(self):
        left, entered = self.seen.rfind(b"\x1b[?1049l"), self.seen.rfind(b"\x1b[?1049h")
        mode = termios.tcgetattr(self.descriptor)
        return left > entered >= 0 and mode[3] == self.mode[3] and self.seen.rfind(b"\x1b[?25h") > entered


@pytest.fixture
def terminal():
    opened = []

    def start(*arguments, **more):
        opened.append(Terminal(*arguments, **more))
        return opened[-1]

    yield start
    for one in opened:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)
        os.close(one.descriptor)


def test_its_end_is_said_and_the_screen_stays(terminal, program):
    one = terminal("top", "-d", "0.3", "--", "/bin/sh", "-c", WORK.format(program("attended.c")) + "; exit 7")
    one.wait_for(rb"exit code 7")
    assert os.waitpid(one.pid, os.WNOHANG) == (0, 0)
    one.press("q")
    assert one.end() == 7
    assert one.is_restored()


def test_a_run_that_is_recorded_meanwhile(terminal, program, tmp_path):
    path = tmp_path / "x.btrace"
    command = ["/bin/sh", "-c", WORK.format(program("attended.c")) + "; echo said; exit 3"]
    one = terminal("run", "--live", "-o", path, "--", *command)
    one.wait_for(rb"exit code 3")
    one.press("q")
    assert one.end() == 3
    assert one.is_restored()
    assert b"said" not in one.seen.rpartition(b"?1049h")[2]
    recording = open_recording(path)
    assert recording.complete
    assert (path / "stdout.log").read_text().endswith("said\n")
    assert build_report(recording).summary["decoded_tokens"] > 500


def test_a_screen_that_is_killed(terminal, program):
    """Is one that was left: what was started for it is ended."""
    path = program("attended.c")
    one = terminal("top", "-d", "0.3", "--", "/bin/sh", "-c", FOREVER.format(path))
    one.wait_for(rb"decode")
    os.kill(one.first_child(), signal.SIGKILL)
    assert one.end() == 128 + signal.SIGTERM
    assert one.is_restored()
    assert not subprocess.run(["pgrep", "-f", str(path)], capture_output=True, check=False).stdout


@pytest.fixture
def attended(program):
    """A process group that works without end."""
    command = ["/bin/sh", "-c", FOREVER.format(program("attended.c"))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_runs_goes_on(terminal, attended):
    one = terminal("top", "-d", "0.3", "-p", attended.pid)
    one.wait_for(rb"decode")
    one.press("q")
    assert one.end() == 0
    assert one.is_restored()
    assert attended.poll() is None


def test_a_process_that_is_stopped_goes_on_and_is_killed(terminal, attended):
    one = terminal("top", "-d", "0.3", "-p", attended.pid)
    one.wait_for(rb"decode")
    os.killpg(attended.pid, signal.SIGSTOP)
    one.wait_for(rb"stopped")
    before = len(one.seen)
    os.killpg(attended.pid, signal.SIGCONT)
    one.wait_for(rb"running", after=before)
    os.killpg(attended.pid, signal.SIGKILL)
    one.wait_for(rb"signal 9")
    assert os.waitpid(one.pid, os.WNOHANG) == (0, 0)
    one.press("q")
    assert one.end() == 0


def test_forks_and_execs_are_said(terminal, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    one = terminal(
        "top", "-d", "0.3", "--", "/bin/sh", "-c", f"(read x < {fifo}; exit 5) & wait; exec sleep 1; : ", columns="200"
    )
    one.wait_for(rb"\(sh\) was started by")
    fifo.write_text("go on\n")
    one.wait_for(rb"\(sh\) has ended, exit code 5")
    one.wait_for(rb"runs /\S*/sleep now")
    one.wait_for(rb"ended, exit code 0")
    assert os.waitpid(one.pid, os.WNOHANG) == (0, 0)
    one.press("q")
    assert one.end() == 0


def test_a_tracer_that_is_killed(terminal, attended):
    """The terminal is put back, the program goes on, and nothing of ours is left in the kernel."""
    before = kernel_objects.all_of_them()
    shell = ["/bin/sh", "-c", '"$@"; echo "ended with $?"; read line', "sh", *TOOL]  # whose terminal it is
    one = terminal("top", "-d", "0.3", "-p", attended.pid, tool=shell)
    one.wait_for(rb"decode")
    os.kill(one.first_child(), signal.SIGKILL)
    one.wait_for(rb"ended with 137")
    deadline = time.monotonic() + 20
    while not one.is_restored():
        assert time.monotonic() < deadline, one.seen[-3000:]
        one.read(0.1)
    assert attended.poll() is None
    while kernel_objects.all_of_them() - before - kernel_objects.held():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_screen_that_fails(terminal, program):
    """Is one that was left; the terminal is put back."""
    fails = "import bitnet_trace.live.head as head; head.strip = None; from bitnet_trace.cli import main; main()"
    command = ["/bin/sh", "-c", FOREVER.format(program("attended.c"))]
    one = terminal("top", "-d", "0.3", "--", *command, tool=[sys.executable, "-c", fails])
    assert one.end() != 0
    assert one.is_restored()


def test_a_recording_is_asked_for(terminal, program, tmp_path):
    attended = subprocess.Popen(["/bin/sh", "-c", FOREVER.format(program("attended.c"))], stdout=subprocess.DEVNULL,
                                start_new_session=True)  # fmt: skip
    path = tmp_path / "x.btrace"
    try:
        one = terminal("top", "-d", "0.3", "--ring", "5s", "-o", path, "-p", attended.pid)
        one.wait_for(rb"decode")
        one.press("w")
        one.wait_for(rb"asked for: recorded in")
        one.press("q")
        assert one.end() == 0
        assert one.is_restored()
    finally:
        os.killpg(attended.pid, signal.SIGKILL)
        attended.wait()
    assert build_report(open_recording(path)).summary["decoded_tokens"] > 100


def test_what_cannot_be_started(terminal):
    one = terminal("top", "--", "/no/such/program")
    assert one.end() == 1
    assert b"no program" in one.seen
    assert b"Traceback" not in one.seen

"""A shell and its user see of a traced program what they see of it alone: each script runs with and without the tracer."""

import contextlib
import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bitnet_trace.recording.reader import open_recording
from tests.bpf.conftest import TOOL

PROMPT = "ready> "
DEADLINE_S = 30.0


@pytest.fixture(params=["alone", "traced"], scope="module")
def t(request, tmp_path_factory) -> Path:
    """The command `t`, which runs its arguments; recordings are numbered by the process."""
    folder = tmp_path_factory.mktemp(request.param)
    tool = f"{shlex.join(TOOL)} run -q -o {folder}/$$.btrace -- " if request.param == "traced" else ""
    (folder / "t").write_text(f'#!/bin/sh\nexec {tool}"$@"\n')
    (folder / "t").chmod(0o755)
    return folder / "t"


def environment(t: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{t.parent}:{os.environ['PATH']}", "PS1": PROMPT, "TERM": "dumb"}


def usual_signals() -> None:
    """As a login has them: whoever runs the tests may ignore those of the keyboard."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """An interactive bash, typed at."""

    def __init__(self, t: Path) -> None:
        self._seen = ""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            usual_signals()
            os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment(t))
        self.until(PROMPT)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def hang_up(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def until(self, pattern: str) -> str:
        """What is shown up to and with the pattern."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self._seen)):
            ready, _, _ = select.select([self.descriptor], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self._seen!r}"
            self._seen += os.read(self.descriptor, 65536).decode(errors="replace")
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown

    def line(self, command: str, pattern: str = re.escape(PROMPT)) -> str:
        """Types a command; what is shown after it, up to the pattern."""
        self.type(command + "\n")
        self.until(re.escape(command) + "\r\n")
        return self.until(pattern)


def until(condition) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def python(folder: Path, *lines: str) -> str:
    """The command that runs a Python program of these lines under `t`."""
    (folder / "program.py").write_text("\n".join(lines))
    return f"t /usr/bin/python3 -I {folder}/program.py"


@pytest.fixture
def terminal(t):
    with Terminal(t) as one:
        yield one


def stopped(job: str) -> str:
    """What the shell says of a job that was stopped."""
    return f"\r\n[1]+  Stopped                 {job}\r\n"


# ---- keys and jobs --------------------------------------------------------------------------------------------------


def test_a_job_is_stopped_and_goes_on_in_the_background_and_in_front(terminal):
    job = "t sh -c 'echo up; read x; echo got $x; exec sleep 100'"
    assert terminal.line(job, "up\r\n") == "up\r\n"
    terminal.type("\x1a")
    assert terminal.until(PROMPT) == f"^Z{stopped(job)}{PROMPT}"
    assert "\r\n" + terminal.line("jobs") == stopped(job) + PROMPT
    # it reads the terminal from the background, which stops it: the shell may have heard of that before its prompt
    assert terminal.line("bg").replace(stopped(job), "") == f"[1]+ {job} &\r\n{PROMPT}"
    terminal.type("\n")
    while "Stopped" not in (shown := terminal.line("jobs")):
        pass
    assert f"\r\n{shown}".endswith(stopped(job) + PROMPT)
    # the empty line that it was to read from the background may have given the shell one prompt more
    assert terminal.line("fg", "\r\n").removeprefix(PROMPT) == job + "\r\n"
    assert terminal.line("hello", "got .*\r\n") == "got hello\r\n"
    terminal.type("\x03")
    assert terminal.until(PROMPT) == f"^C\r\n{PROMPT}"
    assert terminal.line("echo $?") == f"130\r\n{PROMPT}"
    assert terminal.line("jobs") == PROMPT


def test_a_program_that_takes_the_keys_itself(terminal, tmp_path):
    """Its shell waits: it is neither stopped nor ended."""
    command = python(
        tmp_path,
        "import os, signal, sys",
        "for number in (2, 20): signal.signal(number, lambda number, _: os.write(1, b'took %d\\n' % number))",
        "print('up', flush=True)",
        "for line in sys.stdin: print('read', line.strip(), flush=True)",
        "sys.exit(3)",
    )
    assert terminal.line(command, "up\r\n") == "up\r\n"
    for key, shown in (("\x1a", "^Ztook 20\r\n"), ("\x03", "^Ctook 2\r\n"), ("\x03", "^Ctook 2\r\n")):
        terminal.type(key)
        assert terminal.until("took .*\r\n") == shown
    assert terminal.line("word", "read .*\r\n") == "read word\r\n"
    terminal.type("\x04")
    assert terminal.until(PROMPT) == PROMPT
    assert terminal.line("echo $?") == f"3\r\n{PROMPT}"


def test_an_interrupt_ends_a_loop(terminal):
    for delay_s in (0.0, 0.5):  # also before the program is there
        command = f"for i in 1 2 3; do t sh -c 'echo up; exec sleep 100'; sleep {delay_s}; done"
        if delay_s:
            terminal.line(command, "up\r\n")
        else:
            terminal.type(command + "\n")
            terminal.until("done\r\n")
            time.sleep(0.4)
        terminal.type("\x03")
        assert "^C" in terminal.until(PROMPT)


def test_background_jobs(terminal):
    shown = terminal.line("t sleep 0.5 & wait; echo waited")
    assert re.sub(r"\d{2,}", "PID", shown) in (
        f"[1] PID\r\n[1]+  Done                    t sleep 0.5\r\nwaited\r\n{PROMPT}",
        f"[1] PID\r\nwaited\r\n[1]+  Done                    t sleep 0.5\r\n{PROMPT}",
    )
    shown = terminal.line("t sh -c 'sleep 0.5; exit 5' & fg; echo code $?")
    assert re.sub(r"\d{2,}", "PID", shown) == f"[1] PID\r\nt sh -c 'sleep 0.5; exit 5'\r\ncode 5\r\n{PROMPT}"


def test_leaving_the_shell_with_a_stopped_job(terminal):
    job = "t sh -c 'echo up; exec sleep 100'"
    terminal.line(job, "up\r\n")
    terminal.type("\x1a")
    assert terminal.until(PROMPT) == f"^Z{stopped(job)}{PROMPT}"
    assert terminal.line("exit") == f"exit\r\nThere are stopped jobs.\r\n{PROMPT}"
    terminal.type("exit\n")
    with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
        while select.select([terminal.descriptor], [], [], DEADLINE_S)[0]:
            os.read(terminal.descriptor, 65536)


# ---- the terminal itself --------------------------------------------------------------------------------------------


def test_a_password_is_not_shown(terminal, tmp_path):
    command = python(tmp_path, "import getpass", "print(len(getpass.getpass('Word: ')))")
    assert terminal.line(command, "Word: ") == "Word: "
    terminal.type("secret\n")
    assert terminal.until(PROMPT) == f"\r\n6\r\n{PROMPT}"
    assert terminal.line("echo shown") == f"shown\r\n{PROMPT}"  # and the echo is on again


IN_FRONT = "signal.signal(signal.SIGTTOU, signal.SIG_IGN); os.setpgid(0, 0); os.tcsetpgrp(0, os.getpgrp())"


@pytest.mark.parametrize("group", ["pass", IN_FRONT])
def test_the_size_of_the_terminal(terminal, tmp_path, group):
    """Told by stdout, also to a program in a foreground group of its own."""
    command = python(
        tmp_path,
        f"import os, signal; {group}",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})",
        "signal.signal(signal.SIGWINCH, lambda *_: None)  # ignored by default, so that nobody could wait for it",
        "while True:",
        "    print(*(size := os.get_terminal_size(1)), flush=True)",
        "    if size.columns == 99: break",
        "    signal.sigwait({signal.SIGWINCH})",
    )
    fcntl.ioctl(terminal.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    assert terminal.line(command, "\\d+ \\d+\r\n") == "77 33\r\n"
    for size in (88, 99):
        fcntl.ioctl(terminal.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 33, size, 0, 0))
        terminal.until(f"{size} 33\r\n")
    terminal.until(PROMPT)


@pytest.mark.parametrize("trap", ["", "trap '' HUP"])
def test_the_terminal_goes_away(t, tmp_path, trap):
    """Who does not ignore the hang-up ends by it; who does goes on, and finds no terminal."""
    script, end = tmp_path / "script", tmp_path / "end"
    gone = f"while [ ! -e {tmp_path}/gone ]; do sleep 0.02; done"
    script.write_text(f"{trap}\necho up $$\n{gone}\necho more\necho $? >{end}\n")
    with Terminal(t) as terminal:
        pid = int(terminal.line(f"t sh {script}", "up (\\d+)\r\n").split()[1])
        terminal.hang_up()
        if trap:
            (tmp_path / "gone").touch()
            until(end.exists)
        until(lambda: not Path(f"/proc/{pid}").exists())
    assert end.exists() == bool(trap)
    if trap:
        until(end.read_text)
        assert end.read_text() != "0\n"
    recordings = list(t.parent.glob("*.btrace"))
    assert bool(recordings) == (t.parent.name.startswith("traced"))
    until(lambda: all(open_recording(path).complete for path in recordings))


# ---- pipelines and orphans ------------------------------------------------------------------------------------------


def bash(t: Path, script: str) -> tuple[str, str]:
    done = subprocess.run(
        ["bash", "-c", script], env=environment(t), capture_output=True, text=True, timeout=60, check=True,
        preexec_fn=usual_signals,
    )  # fmt: skip
    return done.stdout, done.stderr


PIPELINES = {
    "echo x | t cat | cat": "x\n0 0 0\n",
    "yes | t head -1": "y\n141 0\n",
    "t yes | head -1": "y\n141 0\n",
    "t sh -c 'echo out; echo err >&2; exit 3' 2>&1 >/dev/null | cat": "err\n3 0\n",
    "t setsid -w sh -c 'echo far; exit 4' | cat": "far\n4 0\n",
    "t true 2>/dev/full | cat": "0 0\n",
    "t sh -c 'echo out; exit 6' <&- 2>&- | cat": "out\n6 0\n",
    "t sh -c 'cat >&2; exit 6' <<<word 2>&1 >&- | cat": "word\n6 0\n",
}


def test_pipelines(t):
    with ThreadPoolExecutor(4) as pool:
        shown = pool.map(lambda script: bash(t, f'{script}; echo "${{PIPESTATUS[@]}}"'), PIPELINES)
        assert dict(zip(PIPELINES, shown, strict=True)) == {script: (out, "") for script, out in PIPELINES.items()}


def test_an_orphan_goes_on(terminal, tmp_path):
    """The prompt is there when the program has ended; what its child prints then is shown, and kept."""
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    assert terminal.line(f"t sh -c '({wait}; echo late; echo >{tmp_path}/end) & echo early'") == f"early\r\n{PROMPT}"
    assert terminal.line("echo $?") == f"0\r\n{PROMPT}"
    (tmp_path / "go").touch()
    assert terminal.until("late\r\n") == "late\r\n"
    until((tmp_path / "end").exists)


def test_what_an_orphan_prints_is_kept(tmp_path):
    script = f"(while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo late) & echo early"
    command = [*TOOL, "run", "-q", "-o", str(tmp_path / "x"), "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tracer:
        assert tracer.wait(DEADLINE_S) == 0
        (tmp_path / "go").touch()
        assert tracer.stdout.read() == b"early\nlate\n"
    until(lambda: (tmp_path / "x" / "stdout.log").read_text() == "early\nlate\n")
    assert open_recording(tmp_path / "x").complete

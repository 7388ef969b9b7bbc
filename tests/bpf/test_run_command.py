"""`bitnet-trace run` as its user meets it: exit codes, errors, streams, signals, whose files they are."""

import contextlib
import os
import pty
import random
import select
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from bitnet_trace.recording.reader import open_recording
from tests.bpf.conftest import TOOL, TOOL_ANYWHERE

pytestmark = pytest.mark.untimed


def tool(*arguments, **options):
    options = {"capture_output": True, "timeout": 60, "check": False, **options}
    return subprocess.run([*TOOL, "run", *map(str, arguments)], **options)


def assert_one_error(done, folder, *words):
    """One line that says what is wrong, one that says what to do, nothing left behind."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert len(lines) == 2, lines
    assert lines[0].startswith("bitnet-trace: ")
    assert lines[1].startswith("  hint: ")
    for word in words:
        assert word in lines[0]
    assert done.stdout == b""
    assert not folder.exists()


# ---- exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "code"), [(["true"], 0), (["false"], 1), (["sh", "-c", "exit 42"], 42)])
def test_exit_code_is_the_programs(tmp_path, command, code):
    assert tool("-o", tmp_path / "x", "--", *command).returncode == code
    recording = open_recording(tmp_path / "x")
    assert recording.complete
    assert recording.meta["exit_status"] == code


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, signal.SIGPIPE])
def test_death_by_a_signal_is_128_and_its_number(tmp_path, number):
    assert tool("-o", tmp_path / "x", "--", "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number
    recording = open_recording(tmp_path / "x")
    assert recording.complete
    assert recording.meta["exit_status"] == -number
    assert len(recording.events) > 50


# ---- what cannot be run ---------------------------------------------------------------------------------------------


def test_limits_are_the_programs_and_not_the_tracers(tmp_path):
    limits = "ulimit -S -n 24; ulimit -S -t 1; ulimit -S -v 400000; "
    show = "for one in n t v; do ulimit -S -$one; ulimit -H -$one; done; while :; do :; done"
    shell = ["sh", "-c", limits + 'exec "$@"', "sh"]
    expected, done = (
        subprocess.run([*shell, *prefix, "sh", "-c", show], capture_output=True, timeout=60, check=False)
        for prefix in ([], [*TOOL, "run", "-o", tmp_path / "x", "--"])
    )
    assert done.stdout == expected.stdout != b""
    assert expected.returncode == -signal.SIGXCPU
    assert (done.returncode, open_recording(tmp_path / "x").complete) == (128 + signal.SIGXCPU, True)


def test_no_such_program(tmp_path):
    done = tool("-o", tmp_path / "x", "--", "nosuchprogram-bitnet")
    assert_one_error(done, tmp_path / "x", "nosuchprogram-bitnet")


def test_no_such_path(tmp_path):
    assert_one_error(tool("-o", tmp_path / "x", "--", tmp_path / "no/such"), tmp_path / "x", "no/such")


def test_directory(tmp_path):
    assert_one_error(tool("-o", tmp_path / "x", "--", str(tmp_path)), tmp_path / "x", "directory")


def test_not_executable(tmp_path):
    (tmp_path / "plain").write_text("hello")
    assert_one_error(tool("-o", tmp_path / "x", "--", tmp_path / "plain"), tmp_path / "x", "not executable")


@pytest.mark.parametrize("text", ["echo hello\n", "#!/no/such/interpreter\n", "", "\x7fELF garbage"])
def test_what_the_kernel_cannot_execute(tmp_path, text):
    path = tmp_path / "script"
    path.write_text(text)
    path.chmod(0o755)
    assert_one_error(tool("-o", tmp_path / "x", "--", path), tmp_path / "x", str(path))


def test_existing_output_is_not_touched(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("precious")
    done = tool("-o", tmp_path / "x", "--", "touch", tmp_path / "ran")
    assert (done.returncode, done.stderr.decode().count("\n")) == (1, 2)
    assert b"exists" in done.stderr
    assert not (tmp_path / "ran").exists()
    # --force replaces recordings only
    assert tool("--force", "-o", tmp_path / "x", "--", "touch", tmp_path / "ran").returncode == 1
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "x" / "mine").read_text() == "precious"


def test_force_replaces_a_recording(tmp_path):
    assert tool("-o", tmp_path / "x", "--", "echo", "one").returncode == 0
    assert tool("-o", tmp_path / "x", "--", "true").returncode == 1
    assert tool("--force", "-o", tmp_path / "x", "--", "echo", "two").returncode == 0
    assert (tmp_path / "x" / "stdout.log").read_text() == "two\n"
    assert open_recording(tmp_path / "x").meta["command"] == ["echo", "two"]


def test_without_root(tmp_path):
    """Nobody, who may read all files, wherever the checkout lies, but is not root."""
    capability = "+dac_read_search"
    as_nobody = [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
    ]  # fmt: skip
    done = subprocess.run(
        [*as_nobody, *TOOL_ANYWHERE, "run", "-o", str(tmp_path / "x"), "--", "true"],
        capture_output=True, timeout=60, check=False, cwd="/",
    )  # fmt: skip
    assert_one_error(done, tmp_path / "x", "root")
    assert b"sudo bitnet-trace" in done.stderr


# ---- streams --------------------------------------------------------------------------------------------------------


def test_pipes_carry_the_same_bytes(tmp_path, program):
    words = os.urandom(300_007)
    command = [program("streams.c")]
    alone = subprocess.run(command, input=words, capture_output=True, timeout=60, check=False)
    traced = tool("-q", "-o", tmp_path / "x", "--", *command, input=words)
    assert alone.stdout.startswith(b"pipe\n")
    assert alone.stdout.endswith(words)
    assert (traced.returncode, traced.stdout, traced.stderr) == (7, alone.stdout, alone.stderr)
    assert (tmp_path / "x" / "stdout.log").read_bytes() == alone.stdout
    assert (tmp_path / "x" / "stderr.log").read_bytes() == alone.stderr


def test_streams_of_a_crashing_program_are_whole(tmp_path, program):
    alone = subprocess.run([program("streams.c"), "crash"], input=b"", capture_output=True, timeout=60, check=False)
    traced = tool("-q", "-o", tmp_path / "x", "--", program("streams.c"), "crash", input=b"")
    assert alone.returncode == -signal.SIGSEGV
    assert (traced.returncode, traced.stdout, traced.stderr) == (139, alone.stdout, alone.stderr)
    assert open_recording(tmp_path / "x").complete


def in_terminal(command):
    """(exit code, what the terminal shows) of a command with a terminal of its own on all three streams."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the last writer has closed it
        while piece := os.read(terminal, 65536):
            shown += piece
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_terminals_show_the_same_bytes(tmp_path, program):
    path = str(program("streams.c"))
    code, shown = in_terminal([path])
    assert code == 7
    assert b"terminal" in shown
    # of two streams on one terminal the order is not the program's alone: one at a time
    for redirection, first in (("2>/dev/null", b"terminal"), (">/dev/null", b"Terminal")):
        alone = in_terminal(["/bin/sh", "-c", f"{path} {redirection}"])
        tracer = f"{' '.join(TOOL)} run -q --force -o {tmp_path}/x -- {path} {redirection}"
        assert in_terminal(["/bin/sh", "-c", tracer]) == alone
        assert alone[1].startswith(first)
    assert (tmp_path / "x" / "stderr.log").read_bytes().startswith(b"Terminal\r\n")


def test_no_output_keeps_no_words(tmp_path, program):
    done = tool("-q", "--no-output", "-o", tmp_path / "x", "--", "echo", "a secret prompt")
    assert done.stdout == b"a secret prompt\n"
    assert not [path for path in (tmp_path / "x").iterdir() if path.suffix == ".log"]
    assert open_recording(tmp_path / "x").complete


def test_stdin_is_the_programs(tmp_path):
    assert tool("-q", "-o", tmp_path / "x", "--", "cat", input=b"one\ntwo").stdout == b"one\ntwo"


# ---- signals --------------------------------------------------------------------------------------------------------

TRAPPING = "trap 'echo got; exit 5' {}; echo ready; while :; do sleep 0.05; done"


@contextlib.contextmanager
def running(*arguments):
    process = subprocess.Popen(
        [*TOOL, "run", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()


def read_until_end(pipe, seconds):
    """What comes until the last writer has closed the pipe; fails when that takes longer."""
    found, deadline = b"", time.monotonic() + seconds
    while select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
        piece = os.read(pipe.fileno(), 65536)
        if not piece:
            return found
        found += piece
    raise AssertionError(f"no end after {seconds} s: {found!r}")


@pytest.mark.parametrize("name", ["TERM", "HUP", "USR1"])
def test_signals_to_the_tracer_reach_the_program(tmp_path, name):
    with running("-q", "-o", tmp_path / "x", "--", "sh", "-c", TRAPPING.format(name)) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert process.stdout.read() == b"got\n"
        assert process.wait(30) == 5
        assert process.stderr.read() == b""
    assert open_recording(tmp_path / "x").complete


def test_interrupt_from_the_terminal(tmp_path):
    """Ctrl-C goes to the whole process group: once to the program, which it may handle, and the recording is ended."""
    with running("-q", "-o", tmp_path / "x", "--", "sh", "-c", TRAPPING.format("INT")) as process:
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == b"got\n"
        assert process.wait(30) == 5
    assert open_recording(tmp_path / "x").complete


def test_interrupted_twice_from_the_terminal(tmp_path):
    """A program that ends by the second Ctrl-C only has the time to: the recording has its end."""
    script = "trap 'n=${n}x; echo got; [ $n = xx ] && exit 5' INT; echo ready; while :; do sleep 0.05; done"
    with running("-q", "-o", tmp_path / "x", "--", "sh", "-c", script) as process:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            assert process.stdout.readline() == b"got\n"
        assert process.wait(30) == 5
    assert open_recording(tmp_path / "x").complete


def test_interrupted_before_anything_was_done():
    """Whenever it comes: no traceback from our first line on."""
    for wait_s in (0.03, 0.06, 0.09, 0.15, 0.3):
        process = subprocess.Popen([*TOOL, "report", "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(wait_s)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=30)[1]
        last = [line for line in error.splitlines() if b"bitnet_trace/" in line][-1:]
        assert all(b"__main__.py" in line for line in last), error  # Python's own start, and finding us, may show one


def test_killed_tracer_leaves_the_program_alone(tmp_path):
    """Also when it dies while the program is loading libraries, in which it is stopped again and again."""
    script = "echo ready; for i in 1 2 3 4 5; do /usr/bin/python3 -c 'import sqlite3'; done; echo still here"
    with running("-q", "-o", tmp_path / "x", "--", "sh", "-c", script) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(random.random() * 0.1)
        process.kill()
        process.wait()
        assert read_until_end(process.stdout, 20) == b"still here\n"
    recording = open_recording(tmp_path / "x")
    assert not recording.complete
    deadline = time.monotonic() + 5
    while (text := (tmp_path / "x" / "stdout.log").read_text()) != "ready\nstill here\n":
        assert time.monotonic() < deadline, text


def test_stopped_and_continued(tmp_path):
    """Job control works as without us: the program stops, and goes on."""
    script = "echo $$; kill -STOP $$; echo on; exit 4"
    with running("-q", "-o", tmp_path / "x", "--", "sh", "-c", script) as process:
        pid = int(process.stdout.readline())
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "Tt":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        assert Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] in "Tt"
        os.kill(pid, signal.SIGCONT)
        assert process.stdout.read() == b"on\n"
        assert process.wait(30) == 4


# ---- sudo -----------------------------------------------------------------------------------------------------------


def sudo(caller, *arguments):
    user, folder = caller
    as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    from_shell = ["sh", "-c", '"$@"; exit $?', "sh"]  # the user's own, in which sudo is called
    return subprocess.run(
        [*as_user, *from_shell, "sudo", "-n", *TOOL_ANYWHERE, "run", "-q", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/opt/own/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SECRET": "1"},
    )  # fmt: skip


def test_under_sudo_the_program_is_the_callers(caller):
    user, folder = caller
    script = 'id -u; id -g; id -G; echo "$USER $LOGNAME $HOME $PATH ${SUDO_UID-none}"; touch made; exit 6'
    done = sudo(caller, "-o", "x.btrace", "--env", "ADDED=1", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (6, "")
    uid, gid, groups, words = done.stdout.splitlines()
    assert (int(uid), int(gid)) == (user.pw_uid, user.pw_gid)
    assert {int(group) for group in groups.split()} == set(os.getgrouplist(user.pw_name, user.pw_gid))
    assert words.split()[:3] == [user.pw_name, user.pw_name, user.pw_dir]
    assert "/opt/own/bin" in words.split()[3].split(":")
    assert words.split()[4] == "none"
    assert (folder / "made").stat().st_uid == user.pw_uid
    recording = folder / "x.btrace"
    for path in (recording, *recording.iterdir()):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (user.pw_uid, user.pw_gid), path
        assert stat.S_IMODE(status.st_mode) & 0o077 == 0
    assert {path.name for path in recording.iterdir()} >= {"meta.json", "events.arrows", "stdout.log", "stderr.log"}


def test_under_sudo_as_root(caller):
    done = sudo(caller, "--as-root", "-o", "root.btrace", "--", "id", "-u")
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_under_sudo_a_program_that_the_caller_may_not_run(caller):
    _user, folder = caller
    private = folder / "private"
    private.write_text("#!/bin/sh\necho ran\n")
    private.chmod(0o700)
    os.chown(private, 0, 0)
    done = sudo(caller, "-o", "private.btrace", "--", "./private")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert not (folder / "private.btrace").exists()

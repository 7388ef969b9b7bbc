"""What is wrong with the input of any command is said in two lines: what, and what to do. Never a traceback."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from traces import write_inference

from bitnet_trace.cli import cli

TOOL = [sys.executable, "-m", "bitnet_trace"]
TRUE = "/bin/true"


def invoke(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), standalone_mode=False)


def assert_two_lines(code, stdout, stderr, *words):
    lines = stderr.splitlines()
    assert (code, stdout) == (1, ""), stderr
    assert len(lines) == 2, stderr
    assert lines[0].startswith("bitnet-trace: ")
    assert "internal error" not in lines[0]
    assert lines[1].startswith("  hint: ")
    for word in words:
        assert word in lines[0]


def shell(script, *arguments, **environment):
    """`script` is run by a shell in which "$@" is the tool with `arguments`."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *TOOL, *map(str, arguments)],
        capture_output=True, timeout=30, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_inference(tmp_path_factory.mktemp("bad") / "a.btrace")


# ---- probes ---------------------------------------------------------------------------------------------------------


def changed(**at):
    data = bytearray(Path(TRUE).read_bytes())
    for place, value in at.items():
        data[int(place[1:])] = value
    return bytes(data)


FILES = {
    "empty": (b"", "no ELF file"),
    "text": (b"hello\n", "no ELF file"),
    "header only": (changed()[:20], "no ELF file"),
    "cut": (changed()[:3000], "damaged"),
    "32 bits": (changed(_4=1), "not for x86-64"),
    "big-endian": (changed(_5=2), "not for x86-64"),
    "ARM": (changed(_18=40), "not for x86-64"),
    "core file": (changed(_16=4), "neither a program nor a shared library"),
    "script": (b"#!/bin/sh\n", "is a script"),
}


@pytest.mark.parametrize("kind", FILES)
def test_probes_of_a_file_that_is_none(tmp_path, kind):
    data, words = FILES[kind]
    path = tmp_path / kind
    path.write_bytes(data)
    result = invoke("probes", path)
    assert_two_lines(result.return_value, result.stdout, result.stderr, words)


def test_probes_of_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    for path in (
        "/dev/zero",
        "/dev/null",
        "/dev/urandom",
        tmp_path,
        "",
        tmp_path / "none",
        "x" * 5000,
        "/proc/self/mem",
    ):
        result = invoke("probes", path)
        assert_two_lines(result.return_value, result.stdout, result.stderr)
    for name in ("fifo", "loop", "dangling"):
        result = invoke("probes", tmp_path / name)
        assert_two_lines(result.return_value, result.stdout, result.stderr)


@pytest.mark.parametrize("begin", [b"", changed()], ids=["zeros", "program"])
def test_probes_of_a_sparse_file_of_10_gb(tmp_path, begin):
    path = tmp_path / "sparse"
    path.write_bytes(begin)
    os.truncate(path, 10 << 30)
    result = invoke("probes", path)
    if begin:
        assert result.return_value is None
    else:
        assert_two_lines(result.return_value, result.stdout, result.stderr, "no ELF file")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, who becomes somebody else")
def test_files_that_one_may_not_read(tmp_path, recording):
    (tmp_path / "program").write_bytes(changed())
    (tmp_path / "program").chmod(0o700)
    user = {"user": 65534, "group": 65534, "extra_groups": [], "capture_output": True, "text": True, "check": False}
    for arguments in (["probes", tmp_path / "program"], ["report", recording]):
        done = subprocess.run([*TOOL, *arguments], **user)
        assert_two_lines(done.returncode, done.stdout, done.stderr, "Permission denied")


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"n\xff\xfe", b"new\nline", b"\x1b[2Jclear", "ä µ".encode()])
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_names_that_are_no_text(tmp_path, name, encoding):
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:
        file.write(changed())
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "300"}
    done = subprocess.run([*TOOL, "probes", path], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    assert b"no engine recognised" in done.stdout.splitlines()[0]
    done = subprocess.run([*TOOL, "report", path], capture_output=True, text=True, env=environment, check=False)
    assert_two_lines(done.returncode, done.stdout, done.stderr, "is not a recording")
    assert "\x1b" not in done.stderr


# ---- run, demo, report: what is refused before anything is done -----------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--"],
        ["run", "--env", "=x", "--", "true"],
        ["run", "--buffer", "3", "--", "true"],
        ["run", "--detail", "all", "--", "true"],
        ["demo", "--size", "big"],
        ["demo", "--tokens", "0"],
        ["demo", "x"],
        ["doctor", "x"],
        ["report"],
        ["report", "a", "b"],
        ["report", "a", "--format", "pdf"],
        ["probes", "a", "b"],
        ["nothing"],
    ],
)
def test_wrong_usage_is_2(monkeypatch, capsys, arguments):
    from bitnet_trace.cli import main

    monkeypatch.setattr(sys, "argv", ["bitnet-trace", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: ")
    assert "Traceback" not in err


@pytest.mark.skipif(os.geteuid() != 0, reason="run asks for root first")
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-o", "{tmp}/a", "--", "no-such-program"],
        ["run", "-o", "{tmp}/a", "--", "{tmp}"],
        ["run", "-o", "{tmp}/a", "--", "{tmp}/text"],
        ["run", "-o", "{tmp}/a", "--", "x" * 5000],
        ["run", "-o", "{tmp}/a", "--", ""],
        ["run", "-o", "{tmp}", "--", "true"],
        ["run", "-o", "/dev/null", "--", "true"],
    ],
)
def test_run_of_what_cannot_be_run(tmp_path, arguments):
    (tmp_path / "text").write_text("x")
    result = invoke(*(one.format(tmp=tmp_path) for one in arguments))
    assert_two_lines(result.return_value, result.stdout, result.stderr)
    assert not (tmp_path / "a").exists()


def test_a_report_is_never_written_over_a_device_or_a_folder(tmp_path, recording):
    os.mkfifo(tmp_path / "fifo")
    result = invoke("report", recording, "-o", tmp_path / "fifo", "--force")
    assert_two_lines(result.return_value, result.stdout, result.stderr, "not a regular file")
    assert [one.name for one in tmp_path.iterdir()] == ["fifo"]
    assert not (tmp_path / "fifo").is_file()


# ---- where the output goes ------------------------------------------------------------------------------------------

COMMANDS = (["--help"], ["probes"], ["probes", TRUE, "--json"], ["report"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_output_that_nobody_takes(recording, command):
    arguments = [*command, recording] if command == ["report"] else command
    done = shell('"$@" | true; exit ${PIPESTATUS[0]}', *arguments)
    assert (done.returncode in (0, 1, 141), done.stderr) == (True, b"")
    done = shell('"$@" >/dev/full', *arguments)
    assert_two_lines(done.returncode, done.stdout.decode(), done.stderr.decode(), "No space left on device")
    done = shell('"$@" >&-', *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    done = shell('"$@" <&- 2>&- | head -1', *arguments)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1


def on_terminal(*arguments, **environment):
    """What is written to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*TOOL, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment}
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # EIO: the other side is closed
            break
        if not data:
            break
        output += data
    os.close(ours)
    return process.wait(30), output.decode()


@pytest.mark.parametrize("command", [["report"], ["probes", TRUE]], ids=" ".join)
def test_terminals_that_are_narrow_or_without_colour(recording, command):
    arguments = [*command, recording] if command == ["report"] else command
    code, output = on_terminal(*arguments, TERM="xterm", COLUMNS="20", NO_COLOR="1")
    assert code == 0
    assert "\x1b[3" not in output  # colours; rich keeps bold
    assert "Traceback" not in output
    code, output = on_terminal(*arguments, TERM="xterm", COLUMNS="100", NO_COLOR="")
    assert code == 0
    assert "\x1b[" in output
    for columns in ("0", "x"):
        done = shell('"$@"', *arguments, COLUMNS=columns)
        assert (done.returncode, done.stderr) == (0, b"")

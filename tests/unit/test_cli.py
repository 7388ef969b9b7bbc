"""The group: exit codes, error lines, and what start-up may import."""

import os
import signal
import subprocess
import sys

import click
import pytest

from bitnet_trace import __version__, cli
from bitnet_trace.errors import TraceError


def invoke(monkeypatch, body, *arguments):
    """Exit code of `bitnet-trace probe-me` whose body is given."""

    @click.command()
    def command():
        return body()

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: command)
    monkeypatch.setattr(sys, "argv", ["bitnet-trace", "probe-me", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def raising(error):
    def body():
        raise error

    return body


def test_exit_code_of_the_command_is_kept(monkeypatch):
    assert invoke(monkeypatch, lambda: 139) == 139
    assert invoke(monkeypatch, lambda: None) is None


def test_trace_error_is_one_line_and_a_hint(monkeypatch, capsys):
    error = TraceError("no symbol llama_decode in libllama.so", hint="bitnet-trace probes ./llama-cli")
    assert invoke(monkeypatch, raising(error)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("bitnet-trace: no symbol llama_decode in libllama.so\n  hint: bitnet-trace probes ./llama-cli\n")


def test_os_error_names_the_file(monkeypatch, capsys):
    assert invoke(monkeypatch, raising(PermissionError(13, "Permission denied", "/x/y.btrace"))) == 1
    assert capsys.readouterr().err.startswith("bitnet-trace: /x/y.btrace: Permission denied\n  hint: ")


def test_defect_is_told_without_traceback(monkeypatch, capsys):
    monkeypatch.delenv("BITNET_TRACE_DEBUG", raising=False)
    assert invoke(monkeypatch, raising(KeyError("phase"))) == 1
    err = capsys.readouterr().err
    assert err.startswith("bitnet-trace: internal error: KeyError: 'phase'\n")
    assert "BITNET_TRACE_DEBUG=1" in err


def test_debug_lets_the_error_through(monkeypatch):
    monkeypatch.setenv("BITNET_TRACE_DEBUG", "1")
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: click.Command("c", callback=raising(TraceError("x"))))
    monkeypatch.setattr(sys, "argv", ["bitnet-trace", "c"])
    with pytest.raises(TraceError):
        cli.main()


def test_an_interrupt_is_died_of():
    """130 to a shell, whose loop ends too; what was printed before is not lost."""
    program = """
import click, sys
from bitnet_trace import cli, entry

@click.command()
def command():
    print("so far")
    raise KeyboardInterrupt

cli.LazyGroup.get_command = lambda self, ctx, name: command
sys.argv = ["bitnet-trace", "any"]
entry.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "so far\n"
    assert "Traceback" not in done.stderr


def test_usage_errors_are_2(monkeypatch, capsys):
    assert invoke(monkeypatch, lambda: 0, "--no-such-option") == 2
    assert "no such option" in capsys.readouterr().err.lower()


@pytest.mark.parametrize("command", ["run", "top", "attach", "experiment"])
def test_an_unknown_option_is_not_the_program(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bitnet-trace", command, "--detial", "events", "--", "/bin/true"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "--detial" in capsys.readouterr().err


def test_unknown_command_is_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bitnet-trace", "trce"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "trce" in capsys.readouterr().err


def test_reader_that_goes_away_is_quiet():
    """`bitnet-trace … | head -1` with more output than a pipe holds."""
    script = (
        "import sys, click; from bitnet_trace import cli\n"
        "@click.command()\n"
        "def command():\n"
        "    for _ in range(100_000): click.echo('x' * 99)\n"
        "cli.LazyGroup.get_command = lambda self, ctx, name: command\n"
        "sys.argv = ['bitnet-trace', 'command']\n"
        "cli.main()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == cli.READER_GONE


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_there_and_named_so(name):
    context = click.Context(cli.cli)
    command = cli.cli.get_command(context, name)
    assert command.name == name
    assert command.help


def test_start_imports_nothing_heavy():
    """What `run` pays before it does anything: the traced program should start within a second."""
    heavy = {"pandas", "pyarrow", "numpy", "rich", "bcc", "gguf", "ctypes", "asyncio"}
    script = "import sys, bitnet_trace.cli; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True).stdout
    assert heavy.isdisjoint(modules.split())


def test_version_and_help_import_no_command():
    script = (
        "import sys; from bitnet_trace import cli\n"
        "sys.argv = ['bitnet-trace', sys.argv[1]]\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not any(m.startswith('bitnet_trace.commands') for m in sys.modules)\n"
    )
    for option, expected in (("--version", f"bitnet-trace {__version__}\n"), ("--help", "Commands:")):
        done = subprocess.run(
            [sys.executable, "-c", script, option], capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout

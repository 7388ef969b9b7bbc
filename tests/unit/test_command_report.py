"""`bitnet-trace report` as a user types it."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from traces import write_inference

from bitnet_trace.commands.report import report
from bitnet_trace.errors import TraceError


@pytest.fixture
def recording(tmp_path):
    return write_inference(tmp_path / "a.btrace")


def run(*arguments):
    return CliRunner().invoke(report, [str(one) for one in arguments], catch_exceptions=False)


@pytest.mark.parametrize(
    ("form", "start"),
    [("text", "bitnet-trace report: a"), ("markdown", "# bitnet-trace"), ("json", "{"), ("html", "<!doctype html>")],
)
def test_formats(recording, form, start):
    result = run(recording, "--format", form)
    assert result.exit_code == 0
    assert result.output.startswith(start)
    assert "\x1b" not in result.output


def test_help_says_what_it_does_and_shows_an_example():
    output = run("--help").output
    assert "bitnet-trace report llama-cli.btrace --format json" in output
    assert "--format html -o report.html" in output


def test_output_file_is_not_overwritten_without_force(recording, tmp_path):
    target = tmp_path / "report.json"
    assert run(recording, "--format", "json", "-o", target).output == ""
    first = target.read_text()
    assert json.loads(first)["schema"] == 1
    with pytest.raises(TraceError, match="exists already"):
        run(recording, "-o", target)
    assert target.read_text() == first
    run(recording, "-o", target, "--force")
    assert target.read_text().startswith("bitnet-trace report")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.btrace", "report.json"]


def test_a_link_is_replaced_and_not_written_through(recording, tmp_path):
    victim, target = tmp_path / "victim", tmp_path / "report.md"
    victim.write_text("precious")
    target.symlink_to(victim)
    with pytest.raises(TraceError, match="exists already"):
        run(recording, "-o", target)
    run(recording, "-o", target, "--force")
    assert victim.read_text() == "precious"
    assert not target.is_symlink()


def test_a_place_that_cannot_be_written(recording, tmp_path):
    with pytest.raises(TraceError, match="cannot write"):
        run(recording, "-o", tmp_path / "no" / "report.md")


def shell(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "bitnet_trace", "report", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_what_is_wrong_is_said_in_two_lines(tmp_path):
    result = shell(tmp_path / "none.btrace")
    assert result.returncode == 1
    assert result.stdout == b""
    first, second = result.stderr.decode().splitlines()
    assert first == f"bitnet-trace: {tmp_path / 'none.btrace'} does not exist"
    assert second.startswith("  hint: ")


def test_wrong_usage_is_2(recording):
    assert shell(recording, "--format", "pdf").returncode == 2


def test_a_terminal_that_knows_only_ascii(recording):
    result = shell(recording, PYTHONIOENCODING="ascii", COLUMNS="60")
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    assert max(len(line) for line in result.stdout.decode().splitlines()) <= 60

"""Several tracers and several programs at once: each recording is of its own program, and whole."""

import contextlib
import itertools
import os
import signal
import subprocess
import time

import pytest

from tests.bpf.conftest import TOOL, Traced

MINOR_FAULTS = ["faults_user_minor", "faults_kernel_minor", "faults_populate_minor"]
ITEMS = ("touch", "read_calls", "memory_calls", "yields", "touch,read_fresh,populate,lock_pages")


@contextlib.contextmanager
def tracers(*commands):
    """Started one after the other, all running; ended by their ids when a test fails."""
    started = [
        subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        yield started
    finally:
        for tracer in started:
            with contextlib.suppress(ProcessLookupError):
                if tracer.poll() is None:
                    os.kill(tracer.pid, signal.SIGKILL)
            tracer.communicate()


def run_command(folder, detail, *command):
    return [*TOOL, "run", "-q", "--detail", detail, "-o", folder, "--", *command]


def finished(tracer, folder):
    output, errors = tracer.communicate(timeout=100)
    assert (tracer.returncode, errors) == (0, "")
    run = Traced(folder, tracer.returncode, output, errors)
    run.assert_nothing_lost()
    return run


def assert_own_counts(run, items=ITEMS):
    """What the program says of itself, and of nobody else."""
    tids = {line["tid"] for line in run.lines}
    (pid,) = {line["pid"] for line in run.lines}
    assert set(run.recording.threads["tid"]) == tids
    calls = run.calls(pid)
    assert len(calls) == 2 * len(items)
    for line in run.lines:
        phase = calls.iloc[2 * line["item"] + line["round"]]["id"]
        measured = run.total([line["tid"]], [phase])
        for key, count in line["counts"].items():
            if key.endswith(("_calls", "_bytes")):
                assert measured[key] == count, (line["name"], line["round"], key)
        readings = [reading["minor"] for reading in line["readings"]]
        assert readings[2] - readings[1] <= measured[MINOR_FAULTS].sum() <= readings[3] - readings[0], line["name"]


def test_two_tracers_on_two_programs(program, data_file, tmp_path, detail):
    folders = [tmp_path / "a", tmp_path / "b"]
    commands = [run_command(folder, detail, program("work.c"), data_file, *ITEMS) for folder in folders]
    with tracers(*commands) as started:
        runs = [finished(tracer, folder) for tracer, folder in zip(started, folders, strict=True)]
    for run in runs:
        assert_own_counts(run)
    (a, b) = ({line["pid"] for line in run.lines} for run in runs)
    assert not a & b


@pytest.fixture
def library(program):
    return program("decoder.c", "-shared", "-fPIC")


def test_another_process_calls_the_same_library(trace, program, library, detail):
    """Its calls hit the same probes, and are counted nowhere."""
    outsider = subprocess.Popen(
        [program("loader.c", "-ldl"), library, "main", "100000", "0"], stdout=subprocess.DEVNULL
    )
    try:
        run = trace([program("loader.c", "-ldl"), library, "main", 101, 0], detail)
        assert outsider.poll() is None
    finally:
        outsider.kill()
        outsider.wait()
    run.assert_nothing_lost()
    (line,) = run.lines
    assert set(run.recording.phases["pid"]) == {line["pid"]}
    assert set(run.counters.index.get_level_values("tid")) == {line["tid"]}
    calls = run.calls(line["pid"])
    assert calls["n_tokens"].tolist() == [5, *[1] * 100]
    assert calls["n_sampled"].tolist() == [1] * 101
    hits = {probe["name"]: probe["hits"] for probe in run.recording.meta["probes"] if probe["role"] == "decode"}
    assert hits["decode begin"] == 101


def test_one_starts_while_another_ends(program, data_file, tmp_path):
    """Short runs that overlap, each beginning somewhere in the one before or in its end."""
    folders = [tmp_path / str(number) for number in range(3)]
    command = [program("work.c"), data_file, "touch", "read_calls"]
    with contextlib.ExitStack() as stack:
        started, details = [], itertools.cycle(["events", "counts"])
        for folder in folders:
            started += stack.enter_context(tracers(run_command(folder, next(details), *command)))
            time.sleep(0.5)
        for tracer, folder in zip(started, folders, strict=True):
            assert_own_counts(finished(tracer, folder), ("touch", "read_calls"))


def test_a_tracer_in_a_tracer(tmp_path):
    """The outer one makes way for the inner one's ptrace: both record, each what is its own."""
    inner = [*TOOL, "run", "-q", "-o", tmp_path / "inner", "--", "echo", "hello"]
    command = run_command(tmp_path / "outer", "events", *inner)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    of_inner, of_outer = (Traced(tmp_path / name, 0, "", "").recording for name in ("inner", "outer"))
    assert set(of_inner.threads["comm"]) == {"echo"}
    assert "echo" in set(of_outer.threads["comm"])

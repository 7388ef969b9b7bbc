"""Other programs that trace what we trace: each works as without the other, and what is counted is whole."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bitnet_trace.analysis.phases import name_phases
from tests.bpf.conftest import TOOL, Traced
from tests.bpf.test_family import assert_life, by_process

pytestmark = pytest.mark.untimed

ITEMS = ("touch", "read_calls", "memory_calls", "futex_calls", "touch,read_fresh")
COUNTED = {"faults_user_minor", "faults_kernel_minor", "mmap_calls", "munmap_calls", "read_calls", "futex_calls"}


def needs(tool):
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"there is no {tool} here: apt-get install {tool}")


def assert_counted(run, items=ITEMS):
    """All calls of work.c have a phase, and in the second round of each item is counted what it did."""
    run.assert_nothing_lost(most_recursions=2000)  # debuggers make the whole system flush TLBs
    works = [line for line in run.lines if "counts" in line]
    (pid,) = {line["pid"] for line in works}
    calls = run.calls(pid)
    assert len(calls) == 2 * len(items)
    # To stand still for a debugger at each system call is not to be idle between two calls of the engine. The last item
    # of ITEMS waits for its threads there.
    named = name_phases(run.recording.phases).query("role == 'decode'").sort_values("begin_ns")["name"]
    assert named.tolist()[:8] == ["prefill"] + ["decode"] * 7
    for line in works:
        if line["round"] == 1:
            phase = calls.iloc[2 * line["item"] + 1]["id"]
            measured = run.total([line["tid"]], [phase])
            expected = {name: n for name, n in line["counts"].items() if name in COUNTED}
            assert {name: int(measured[name]) for name in expected} == expected, line["name"]
    return pid


def assert_told(run, pid, tracer):
    (warning,) = run.recording.meta["warnings"]
    assert re.match(rf"process {pid} is traced by {tracer} \(process \d+\): libraries opened there", warning)


# ---- a target that runs a debugger ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["traceme", "seize"])
def test_a_program_under_a_debugger(trace, program, data_file, detail, kind):
    debugger = program("debugger.c")
    run = trace([debugger, kind, program("work.c"), data_file, *ITEMS], detail)
    pid = assert_counted(run)
    assert_told(run, pid, debugger.name[:15])
    (line,) = [line for line in run.lines if line["name"] == "debugger"]
    assert line["child"] == pid
    assert line["stops"] >= (1 if kind == "traceme" else 2 + 4)  # exec; as strace: its own stop, and the threads


@pytest.mark.parametrize("kind", ["traceme", "seize"])
def test_lives_of_what_a_debugger_starts(trace, program, kind):
    run = trace([program("debugger.c"), kind, program("family.c"), "children", 50])
    run.assert_nothing_lost()
    lines = [line for line in run.lines if line["name"] == "child"]
    assert len(lines) == 50
    for line in lines:
        assert_life(by_process(run).loc[line["pid"]], line)


def test_a_program_that_asks_its_parent_to_trace_it(trace, program, data_file):
    """The parent is us: it stays held, and is not stopped for good at its exec."""
    run = trace([program("debugger.c"), "itself", "sh", "-c", "kill -TERM $$"], exit_code=128 + signal.SIGTERM)
    assert not run.stderr
    assert not run.recording.meta["warnings"]


def test_what_everybody_is_refused_stays_refused(trace, program, data_file):
    run = trace([program("debugger.c"), "refused", program("work.c"), data_file, *ITEMS])
    assert_counted(run)
    assert not run.recording.meta["warnings"]


def test_a_held_process_that_is_seized_while_it_runs(trace, program):
    """By a part of the target: thread by thread. What it opens later is looked at, not waited for."""
    library = program("decoder.c", "-shared", "-fPIC")
    loader = program("loader.c", "-ldl")
    run = trace([program("debugger.c"), "running", loader, library, "thread", 500, 700])
    run.assert_nothing_lost()
    assert run.stderr == "visited 2 threads\n"
    (line,) = run.lines
    assert_told(run, line["pid"], program("debugger.c").name[:15])
    assert 200 <= len(run.calls(line["pid"])) <= 500


@needs("strace")
def test_strace(trace, program, data_file, tmp_path):
    command = ["strace", "-f", "-o", tmp_path / "log", program("work.c"), data_file, *ITEMS]
    run = trace(command)
    assert_told(run, assert_counted(run), "strace")
    assert (tmp_path / "log").read_text().count("+++ exited with 0 +++") == 1 + 2  # threads of the last item
    assert not run.stderr
    assert trace(["strace", "-o", "/dev/null", "sh", "-c", "exit 42"], exit_code=42).stderr == ""


@needs("gdb")
def test_gdb(trace, program, data_file):
    command = [program("work.c"), data_file, *ITEMS]
    # no word of gdb's amidst the program's
    script = [
        "-nx",
        "-ex",
        "set debuginfod enabled off",
        "-ex",
        "set print thread-events off",
        "-ex",
        "break do_item",
        "-ex",
        "run",
        "-ex",
        "delete",
    ]
    run = trace(["gdb", "-batch", *script, "-ex", "continue", "--args", *command])
    assert re.search(r"Breakpoint 1, .*do_item", run.stdout)
    assert "exited normally" in run.stdout
    assert_told(run, assert_counted(run), "gdb")


# ---- a debugger that runs us ----------------------------------------------------------------------------------------


def trace_under(outer, command, folder):
    """`trace` of conftest.py, by a tool that another program traces."""
    tool = [*TOOL, "run", "-q", "-o", str(folder), "--", *map(str, command)]
    done = subprocess.run([*outer, *tool], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return Traced(folder, done.returncode, done.stdout, done.stderr)


def test_a_tracer_under_a_debugger(program, data_file, tmp_path):
    """The program's own functions and those of the libraries that it is linked to are probed before it runs."""
    outer = program("debugger.c")
    command = [program("work.c"), data_file, *ITEMS]
    run = trace_under([outer, "seize"], command, tmp_path / "x")
    assert_told(run, assert_counted(run), outer.name[:15])
    library = program("decoder.c", "-shared", "-fPIC")
    linked = program("loader.c", "-ldl", "-Wl,--no-as-needed", str(library))
    run = trace_under([outer, "seize"], [linked, library, "main", 17, 0], tmp_path / "y")
    run.assert_nothing_lost()
    (line,) = [line for line in run.lines if "tid" in line]
    assert len(run.calls(line["pid"])) == 17
    assert_told(run, line["pid"], outer.name[:15])


@needs("strace")
def test_a_tracer_under_strace(program, data_file, tmp_path):
    run = trace_under(["strace", "-f", "-o", "/dev/null"], [program("work.c"), data_file, *ITEMS], tmp_path / "x")
    assert_told(run, assert_counted(run), "strace")


# ---- debuggers that come and go -------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(command, folder):
    """A traced run that is under way: the process, and the target's number once it is there."""
    arguments = [*TOOL, "run", "-q", "-o", str(folder), "--", *map(str, command)]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process, find(str(command[0]), process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()


def find(program, tracer):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and tracer.poll() is None:
        for path in Path("/proc").glob("[0-9]*/exe"):
            with contextlib.suppress(OSError):
                if os.readlink(path) == program:
                    return int(path.parent.name)
        time.sleep(0.01)
    raise AssertionError(f"{program} did not start")


def attached(command, seconds):
    """What a debugger says that is interrupted after a while. It has to be attached by then."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=20)[0]


@needs("strace")
@needs("gdb")
def test_debuggers_that_attach_to_a_running_program(program, data_file, tmp_path):
    """Its engine was found, so that it is not held any more."""
    items = [*ITEMS, *["sleeps"] * 24, "touch"]  # 2 times 53 ms or more each
    with running([program("work.c"), data_file, *items], tmp_path / "x") as (process, pid):
        time.sleep(0.1)
        assert "attached" in attached(["strace", "-f", "-o", tmp_path / "log", "-p", str(pid)], 0.5)
        gdb = [
            "gdb",
            "-nx",
            "-batch",
            "-ex",
            "set debuginfod enabled off",
            "-ex",
            "bt",
            "-ex",
            "detach",
            "-p",
            str(pid),
        ]
        assert "llama_decode" in attached(gdb, 15)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "nanosleep" in (tmp_path / "log").read_text()
    run = Traced(tmp_path / "x", process.returncode, out, err)
    assert_counted(run, items)
    assert not run.recording.meta["warnings"]


@needs("strace")
def test_a_debugger_from_elsewhere_gets_a_held_process_at_its_second_try(program, tmp_path):
    library = program("decoder.c", "-shared", "-fPIC")
    with running([program("loader.c", "-ldl"), library, "thread", 700, 2700], tmp_path / "x") as (process, pid):
        time.sleep(0.2)
        strace = ["strace", "-f", "-o", tmp_path / "log", "-p", str(pid)]
        assert "Operation not permitted" in attached(strace, 5)
        time.sleep(1.2)
        assert "attached" in attached(strace, 0.5)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    run = Traced(tmp_path / "x", process.returncode, out, err)
    run.assert_nothing_lost()
    assert 300 <= len(run.calls(pid)) <= 700
    assert_told(run, pid, "strace")


@needs("perf")
def test_perf_beside_us(program, data_file, tmp_path):
    items = [*ITEMS, *["sleeps"] * 12, "touch"]
    events = "page-faults,context-switches,task-clock"
    with running([program("work.c"), data_file, *items], tmp_path / "x") as (process, pid):
        commands = [
            ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-o", tmp_path / "perf.data", "-p", str(pid)],
            ["perf", "stat", "-e", events, "-p", str(pid)],
        ]
        others = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for one in commands]
        out, err = process.communicate(timeout=30)
        said = [other.communicate(timeout=20)[0].decode() for other in others]
    assert (process.returncode, err) == (0, "")
    assert (tmp_path / "perf.data").stat().st_size > 1000
    assert "context-switches" in said[1]
    assert_counted(Traced(tmp_path / "x", process.returncode, out, err), items)

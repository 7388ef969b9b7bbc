"""Programs that do odd things: they do them as they would untraced, and all that they did is counted."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bitnet_trace.analysis.report import build_report
from tests.bpf.conftest import TOOL, TOOL_ANYWHERE, Traced

pytestmark = pytest.mark.untimed

FAULTS = {
    "minor": ["faults_user_minor", "faults_kernel_minor", "faults_populate_minor"],
    "major": ["faults_user_major", "faults_kernel_major", "faults_populate_major"],
}


def by_process(run):
    """Counters summed by process."""
    pids = run.recording.phases.set_index("id")["pid"]
    table = run.counters.reset_index()
    return table.groupby(table["phase"].map(pids).astype(int)).sum()


def assert_life(measured, line):
    """All of a process's life against wait4(2)."""
    for key, columns in FAULTS.items():
        assert measured[columns].sum() == line[key], (key, line)
    # the very last switch may or may not be in the kernel's sum
    assert 0 <= line["voluntary"] - measured["switches_voluntary"] <= 1, line
    assert measured["switches_involuntary"] == line["involuntary"], line


def test_executes_itself_under_other_names(trace, program, detail):
    run = trace([program("changing.c"), 7], detail)
    run.assert_nothing_lost()
    (line,) = run.lines
    measured = by_process(run).loc[line["pid"]]
    assert_life(measured, line)
    own = measured["mmap_calls"] - line["maps"]
    assert own > 0  # the dynamic linker's, which are the same in each of the 8 programs
    assert own % 8 == 0
    thread = run.recording.threads.set_index("tid").loc[line["pid"]]
    assert (thread["comm"], thread["exit_code"]) == ("name 0", 0)


def test_is_stopped_and_continued(trace, program, detail):
    run = trace([program("stopping.c")], detail)
    run.assert_nothing_lost()
    (line,) = run.lines
    assert line["stops"] == 14
    measured = by_process(run).loc[line["pid"]]
    assert_life(measured, line)
    assert (measured["mmap_calls"], measured["read_calls"]) == (line["maps"], line["reads"])


def test_is_stopped_and_continued_from_outside(tmp_path, detail):
    """The first program, again and again, while it makes processes: all of them end, and each is recorded."""
    script = f"echo $$; while [ ! -e {tmp_path}/enough ]; do /bin/true; done; echo end"
    command = [*TOOL, "run", "-q", "--detail", detail, "-o", tmp_path / "x", "--", "sh", "-c", script]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as tracer:
        pid = int(tracer.stdout.readline())
        for _ in range(20):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.005)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.005)
        (tmp_path / "enough").touch()
        assert tracer.stdout.readline() == "end\n"
        assert tracer.wait(30) == 0
    run = Traced(tmp_path / "x", 0, "", "")
    run.assert_nothing_lost()
    assert run.recording.threads["end_ns"].notna().all()
    assert (run.recording.threads["exit_code"] == 0).all()


@pytest.mark.parametrize("kind", ["vfork", "parent", "untraced"])
def test_children_by_other_ways_than_fork(relatives, kind):
    lines = [line for line in relatives.lines if line["name"] == kind]
    assert len(lines) == 11
    processes = by_process(relatives)
    threads = relatives.recording.threads.set_index("tid")
    for line in lines:
        measured = processes.loc[line["pid"]]
        assert measured["mmap_calls"] == line["maps"]
        assert measured["sched_yield_calls"] == line["yields"]
        assert 0 <= measured[FAULTS["minor"]].sum() - line["minor"] <= 20, line  # after its own reading it ends
        assert threads.loc[line["pid"], "exit_code"] == line["status"]


@pytest.fixture(scope="module")
def relatives(trace, program, detail):
    run = trace([program("relatives.c"), 33], detail)
    run.assert_nothing_lost()
    return run


@pytest.mark.parametrize(("order", "detail"), [("before", "events"), ("after", "counts")])
def test_deletes_itself_and_its_library(trace, program, detail, order, tmp_path):
    own = shutil.copy(program("vanishing.c", "-ldl"), tmp_path / "vanishing")
    library = shutil.copy(program("decoder.c", "-shared", "-fPIC"), tmp_path / "libllama.so")
    run = trace([own, library, order, 17], detail)
    run.assert_nothing_lost()
    assert not list(tmp_path.iterdir())
    calls = run.calls(run.lines[0]["pid"])
    assert calls["n_tokens"].tolist() == [5, *[1] * 16]
    assert calls["n_sampled"].tolist() == [1] * 17
    assert not run.recording.meta["warnings"]


@pytest.mark.parametrize("mode", ["filter", "strict"])
def test_filters_its_system_calls(trace, program, detail, mode):
    """The filter kills for any call but the program's own: tracing adds none."""
    run = trace([program("filtered.c"), mode, 101], detail)
    run.assert_nothing_lost()
    (line,) = run.lines
    calls = run.calls(line["pid"])
    assert calls["n_tokens"].tolist() == [5, *[1] * 100]
    assert calls["n_sampled"].tolist() == [1] * 101
    assert run.total([line["tid"]])["sched_yield_calls"] == line["yields"]


def test_makes_32_bit_system_calls(trace, program, detail):
    """By the same numbers other calls: not counted as what they are not, and told."""
    run = trace([program("compat.c", "-static")], detail)
    (line,) = run.lines
    measured = by_process(run).loc[line["pid"]]
    for name in ("read_calls", "sched_yield_calls", "futex_calls"):
        assert measured[name] == line[name], name
    assert not measured[["mmap_calls", "munmap_calls", "mremap_calls", "madvise_calls", "mlock_calls"]].any()
    assert f"{line['calls_32']:,} system calls of 32-bit code" in run.recording.meta["warnings"][0]


def test_many_end_with_the_first(trace, program, detail):
    """Their parent is the first program: the recording ends with it, and theirs are whole."""
    run = trace([program("crowd.c"), 200], detail)
    run.assert_nothing_lost()
    assert len(run.lines) == 200
    processes, threads = by_process(run), run.recording.threads.set_index("tid")
    for line in run.lines:
        measured = processes.loc[line["pid"]]
        assert measured["mmap_calls"] == line["maps"]
        assert measured["read_calls"] == 1
        assert measured[FAULTS["minor"]].sum() >= line["minor"]
        assert threads.loc[line["pid"], "exit_code"] == line["status"]
    kernel = build_report(run.recording).taskstats
    assert len(kernel) == 201
    assert set(kernel["at"]) == {"exit"}
    assert not kernel[["difference_all_faults_minor", "difference_switches_voluntary"]].any().any()


# ---- setuid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "way"), [("root", "first"), ("root", "behind a shell"), ("nobody", "first")])
def test_is_setuid(caller, program, owner, way):
    """It is who it would be untraced: ptrace by root takes no identity away."""
    user, folder = caller
    path = Path(shutil.copy(program("ids.c"), folder / f"ids-{owner}"))
    shutil.chown(path, owner)
    path.chmod(0o4755)
    command = [str(path)] if way == "first" else ["sh", "-c", f"{path}; exit $?"]
    as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]

    def run(*before):
        done = subprocess.run(
            [*as_user, *before, *command], cwd=folder, capture_output=True, text=True, timeout=60, check=True
        )
        return json.loads(done.stdout)

    alone = run()
    assert (alone["uid"], alone["euid"], alone["secure"]) == (user.pw_uid, pwd.getpwnam(owner).pw_uid, 1)
    traced = run("sudo", "-n", *TOOL_ANYWHERE, "run", "-q", "-o", "x.btrace", "--force", "--")
    pid = traced.pop("pid")
    del alone["pid"]
    assert traced == alone
    found = Traced(folder / "x.btrace", 0, "", "")
    found.assert_nothing_lost()
    assert by_process(found).loc[pid, "mmap_calls"] >= 101

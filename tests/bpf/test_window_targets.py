"""Targets that windows must not harm: exceptions through probed frames, seccomp filters, a library that is replaced."""

import os
import shutil
import signal
import subprocess
import time

from tests.bpf import kernel_objects
from tests.bpf.conftest import TOOL

PLENTY = ["--overhead-budget", "100"]


def test_exceptions_through_counted_functions(trace, program):
    """Nothing is put on the stack: what throws through a probed frame is caught where it should be."""
    run = trace([program("calls.cpp"), "throwing", 1009], options=[*PLENTY, "--functions", "llama_decode"])
    assert len(run.lines) == 1009
    assert sum(line["thrown"] for line in run.lines) == 1009 // 3


def test_a_seccomp_filter(trace, program):
    command = [program("filtered.c"), "filter", 20_011]
    run = trace(command, options=[*PLENTY, "--functions", "llama_sampler_sample"])
    assert run.lines[0]["calls"] == 20_011


def test_a_program_that_is_replaced_while_it_runs(trace, program, tmp_path):
    """The file that is mapped is probed, whatever has its name by now."""
    path = tmp_path / "replaced"
    shutil.copy(program("windows.c"), path)
    script = 'p=$1; shift; ("$p" "$@") & sleep 1; cp /bin/true "$p.new"; mv "$p.new" "$p"; wait $!'
    run = trace(["sh", "-c", script, "sh", path, "spin", 2, 3001, 53, 200], options=PLENTY)
    assert [line["entered"] for line in run.lines] == [3001 * 53] * 2


def test_nothing_is_left_of_a_window_when_the_tracer_is_killed(program, tmp_path):
    before = kernel_objects.all_of_them()
    command = [program("windows.c"), "spin", "2", "8009", "53", "200"]
    tool = [*TOOL, "run", "-q", *PLENTY, "-o", str(tmp_path / "x.btrace"), "--", *map(str, command)]
    tracer = subprocess.Popen(tool, stdout=subprocess.PIPE, text=True)
    time.sleep(3)
    os.kill(tracer.pid, signal.SIGKILL)
    out = tracer.communicate(timeout=100)[0]  # the program's end: it holds the pipe
    assert out.count("entered") == 2
    deadline = time.monotonic() + 20
    while left := kernel_objects.all_of_them() - before - kernel_objects.held():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)

"""What tracing is said to cost: of the target's own calls, whatever else the machine does."""

import json
import subprocess
import sys

import pytest

CALLS = 3_000_000
CALLER = f"import os\nfor _ in range({CALLS}): os.getppid()"


@pytest.fixture(scope="module")
def cost(trace):
    """Of a program that makes many system calls while another does the same."""
    endless = "import os\nwhile True: os.getppid()"
    with subprocess.Popen([sys.executable, "-c", endless]) as neighbour:
        try:
            run = trace([sys.executable, "-c", CALLER])
        finally:
            neighbour.kill()
    return run.recording.meta["cost"]


def test_calls_are_the_targets_own(cost):
    # from windows of a twentieth of the time
    assert 0.7 * CALLS < cost["calls"] < 1.4 * CALLS, json.dumps(cost)
    assert cost["bpf_runs"] < 3 * CALLS
    assert cost["others_runs"] > CALLS / 4


def test_parts_add_up(cost):
    parts = cost["kernel_ns"] + cost["uprobe_trap_ns_estimate"] + cost["tracer_competing_ns_estimate"]
    assert cost["overhead_pct_estimate"] == pytest.approx(100 * parts / cost["target_cpu_ns"], abs=0.01)
    # of two empty calls, and of the two programs that each of them runs
    assert 100 < cost["kernel_ns"] / cost["calls"] < 2_000

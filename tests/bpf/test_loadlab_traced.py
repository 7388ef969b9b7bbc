"""loadlab under our own tracer: the requests that it says it made are those that the kernel took."""

import json

import numpy as np
import pytest
from conftest import TOOL

from bitnet_trace.analysis.report import build_report

pytestmark = pytest.mark.untimed


def test_io_uring_requests_are_those_made(tmp_path, trace):
    model = tmp_path / "m.gguf"
    model.write_bytes(np.random.default_rng(3).bytes(5 << 20))
    ways = ["io_uring, depth 8", "io_uring, O_DIRECT, depth 8, registered", "mmap"]
    options = ["--repeats=2", "--block=64", "--format=json", *(f"--way={way}" for way in ways)]
    traced = trace([*TOOL, "loadlab", model, *options])
    made = [one["submitted"] for one in json.loads(traced.stdout)["trials"]]
    assert sum(made) == 2 * 2 * 2 * 80
    report = build_report(traced.recording)
    assert report.io["submitted"] == report.io["completed"] == sum(made)
    assert report.io["bytes"] == 2 * 2 * 2 * (5 << 20)

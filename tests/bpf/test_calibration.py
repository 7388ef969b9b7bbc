"""What a hit costs, measured on code of our own, against hits in another program."""

import json
import os
import subprocess
import time

import pytest

from bitnet_trace.capture import calibration, syscalls
from tests.bpf import kernel_objects


@pytest.fixture(scope="module")
def measured():
    return calibration.measure()


def test_every_class_is_measured(measured):
    assert {"nop", "emulated", "single-step"} <= set(measured)
    assert 50 < measured["nop"] < 20_000
    assert 50 < measured["emulated"] < 20_000
    assert measured["single-step"] > measured["emulated"]


def test_a_program_that_is_hit_takes_so_much_longer(measured, program):
    """The same program, alone and with a probe on the push that its function begins with."""
    path = program("hits.c")
    offset = kernel_objects.function_offset(path, "hit")
    hits = 20_000
    loaded = syscalls.load_multi_uprobe_program(syscalls.RETURN_ZERO, "test")
    ratios = []
    for _ in range(5):
        alone = float(subprocess.check_output([path, str(hits)]))
        link = syscalls.link_multi_uprobe(loaded, str(path), [offset], [0])
        probed = float(subprocess.check_output([path, str(hits)]))
        os.close(link)
        ratios.append((probed - alone) / hits / calibration.measure()["emulated"])
    os.close(loaded)
    assert 0.5 < sorted(ratios)[2] < 2.0, ratios


def test_kept_until_the_next_boot(tmp_path, measured):
    path = tmp_path / "folder" / "costs.json"
    assert calibration.cached(path) is None
    calibration._keep(measured, path)
    assert calibration.cached(path) == measured
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "boot_id": "another"}))
    assert calibration.cached(path) is None
    path.write_text("[")
    assert calibration.cached(path) is None


def test_nothing_stays_attached(measured):
    before = kernel_objects.all_of_them()
    calibration.measure()
    deadline = time.monotonic() + 10
    while left := kernel_objects.all_of_them() - before - kernel_objects.held():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)

"""The peak of resident memory of a phase against /proc/PID/status."""

import os

import pytest

pytestmark = pytest.mark.untimed

PAGE = 4096


def test_peak_of_each_phase(trace, program, detail):
    run = trace([program("resident.c")], detail)
    run.assert_nothing_lost()
    assert len(run.lines) == 6
    pid = run.lines[0]["pid"]
    calls = run.calls(pid)
    assert len(calls) == 6
    # the kernel keeps three counters (file, anonymous, shared) per CPU and adds up a part when it is larger than this
    batch_pages = max(32, 2 * os.cpu_count())
    tolerance = 3 * batch_pages * os.cpu_count() * PAGE
    for line, phase in zip(run.lines, calls["id"], strict=True):
        peak = run.counters.xs(phase, level="phase")["rss_peak_bytes"].max()
        assert abs(peak - line["resident_kib"] * 1024) <= tolerance, line
        assert line["resident_kib"] - line["after_kib"] > 4 * (line["pages"] - 1) - tolerance / 1024
    # of the process the largest, which is what the kernel's own high-water mark says
    peak = run.counters["rss_peak_bytes"].max()
    assert abs(peak - max(line["peak_kib"] for line in run.lines) * 1024) <= tolerance

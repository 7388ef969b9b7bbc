"""Tables of perf's counters, from hand-made counts of a PMU: this is how the hardware's path is tested."""

import numpy as np
import pytest
from traces import MS, write_inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture.counted import perf_rows
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import PERF_DTYPE
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as json_report
from bitnet_trace.render import text


def recorded(tmp_path, counters, rows):
    """A recording of two decode calls with those rows: (tid, phase, counter, count, enabled, running, until)."""
    whole = open_recording(write_inference(tmp_path / "whole.btrace"))
    writer = Writer(tmp_path / "a.btrace", {**whole.meta, "counters": counters})
    writer.phases(whole.phases.astype(object).where(whole.phases.notna(), None).to_dict("records"))
    writer.perf(np.array(rows, PERF_DTYPE))
    writer.close(0)
    return open_recording(tmp_path / "a.btrace"), whole.phases


def described(*names, **reasons):
    return [{"name": name, "unit": None, "scale": 1.0, "cpus": None, "reason": reasons.get(name)} for name in names]


def values(table, phase="total"):
    rows = table[table["phase"] == phase]
    return dict(zip(rows["counter"] if "counter" in rows else rows["rate"], rows["value"], strict=True))


def test_rates_and_multiplexing(tmp_path):
    names = ["cycles", "instructions", "dTLB-loads", "dTLB-load-misses", "page-walk-cycles", "cache-misses", "branches"]
    counts = [4_000_000, 6_000_000, 2_000_000, 30_000, 1_000_000, 100, 7]
    # the third had a place for a quarter of the time, the last for none
    running = [MS, MS, MS // 4, MS, MS, MS, 0]
    rows = [(100, 1, i, counts[i], MS, running[i], 0) for i in range(7)]
    recording, _ = recorded(tmp_path, described(*names), rows)
    report = build_report(recording)
    found = values(report.perf.by_phase)
    assert found["dTLB-loads"] == 8_000_000
    assert found["cycles"] == 4_000_000
    total = report.perf.by_phase[report.perf.by_phase["phase"] == "total"].set_index("counter")
    assert total.loc["dTLB-loads", ["running_pct", "how"]].tolist() == [25.0, "estimated"]
    assert total.loc["cycles", ["running_pct", "how"]].tolist() == [100.0, "counted"]
    rates = values(report.perf.rates)
    assert rates["instructions per cycle"] == pytest.approx(1.5)
    assert rates["dTLB load misses"] == pytest.approx(100 * 30_000 / 8_000_000)
    assert rates["cycles in page walks"] == pytest.approx(25.0)
    assert rates["dTLB-load-misses per 1,000 instructions"] == pytest.approx(5.0)
    shown = text.render(report, 120)
    assert "is estimated by that share" in " ".join(shown.split())
    assert "25.0 %" in shown
    (branches,) = [line for line in shown.splitlines() if line.split()[:1] == ["branches"]]
    assert branches.split()[-3:] == ["-", "0.0", "%"]


def test_kinds_of_cores_have_rates_of_their_own(tmp_path):
    names = [f"cpu_{kind}/{name}/" for kind in ("core", "atom") for name in ("cycles", "instructions")]
    rows = [
        (100, 1, 0, 100, MS, MS, 0),
        (100, 1, 1, 300, MS, MS, 0),
        (101, 1, 2, 100, MS, MS, 0),
        (101, 1, 3, 50, MS, MS, 0),
    ]
    recording, _ = recorded(tmp_path, described(*names), rows)
    rates = build_report(recording).perf.rates
    total = rates[rates["phase"] == "total"]
    assert dict(zip(total["pmu"], total["value"], strict=True)) == {"cpu_core": 3.0, "cpu_atom": 0.5}


def test_late_edges_and_what_is_missing(tmp_path):
    whole = open_recording(write_inference(tmp_path / "one.btrace"))
    phase = whole.phases[whole.phases["role"] == "decode"].iloc[0]
    late = int(phase["end_ns"]) + MS // 2
    recording, _ = recorded(
        tmp_path,
        described("page-faults", "cycles", cycles="this CPU has no PMU"),
        [(100, int(phase["id"]), 0, 5, 2 * MS, 2 * MS, late), (101, int(phase["id"]), 0, 5, 2 * MS, 2 * MS, 0)],
    )
    report = build_report(recording)
    assert report.perf.late_pct == pytest.approx(12.5)
    found = json_report.to_dict(report)["counters"]
    assert found["missing"] == {"this CPU has no PMU": ["cycles"]}
    assert [row["value"] for row in found["by_thread"]] == [5, 5]
    assert "cycles: - (this CPU has no PMU)" in text.render(report, 100)


def test_nothing_was_asked_for(tmp_path):
    report = build_report(open_recording(write_inference(tmp_path / "a.btrace")))
    assert report.perf is None
    assert json_report.to_dict(report)["counters"] is None


def test_rows_of_the_kernel_map():
    """Two threads, the second counter not on the second's CPUs."""
    key = np.array([7, 3], "<u4").tobytes()
    other = np.array([8, 3], "<u4").tobytes()
    taken = (
        key
        + np.array([99, 5, 10, 10, 6, 10, 4], "<u8").tobytes()
        + other
        + np.array([98, 1, 2, 2, 0, 0, 0], "<u8").tobytes()
    )
    rows = perf_rows(taken, [1, 4])
    assert rows.tolist() == [(7, 3, 1, 5, 10, 10, 99), (7, 3, 4, 6, 10, 4, 99), (8, 3, 1, 1, 2, 2, 98)]

"""Intervals of calls per token and of the time of a call hold the truth as often as they say."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import special

from bitnet_trace.analysis import intervals
from bitnet_trace.analysis.calls import _interval, counted
from bitnet_trace.analysis.durations import _edges, durations

CALL_NS = 1000
PROBES = {"probes": [{"symbol": "hot", "cost_class": "nop"}], "cost": {"around_ns": {"nop": 200}}}


def run_of(random, n_windows):
    """A run whose tokens call a function as often as they are long; windows open at random moments of it."""
    calls = random.integers(100, 1000, 400)
    ends = np.cumsum(calls * CALL_NS + 10)
    phases = pd.DataFrame({"id": range(400), "begin_ns": ends - calls * CALL_NS, "end_ns": ends})
    phases = phases.assign(name="decode", n_tokens=1)
    # a window is closed when a call that began in it is over; none begins before the last one was closed
    share = ends[-1] // n_windows
    begins = np.arange(n_windows) * share + random.integers(0, share - 3000 * CALL_NS, n_windows)
    closes = [int(ends[np.searchsorted(phases["begin_ns"], at)]) + 20 for at in begins]
    windows = pd.DataFrame({"what": "function:hot", "begin_ns": begins, "end_ns": closes})
    rows = [
        (0, row.id, calls[row.id], begin, end)
        for begin, end in zip(begins, closes, strict=True)
        for row in phases[(phases["end_ns"] > begin) & (phases["begin_ns"] < end)].itertuples()
    ]
    counts = pd.DataFrame(rows, columns=["probe", "phase", "calls", "begin_ns", "end_ns"])
    return SimpleNamespace(meta=PROBES, calls=counts, windows=windows), phases, float(calls.mean())


@pytest.mark.parametrize("n_windows", [4, 12])
def test_tokens_that_differ(n_windows):
    random = np.random.default_rng(7)
    inside, means = 0, []
    for _ in range(200):
        recording, phases, truth = run_of(random, n_windows)
        found = counted(recording, phases)["hot"]
        inside += abs(found.per_token - truth) <= found.half_width
        means.append(found.per_token / truth)
    assert np.mean(means) == pytest.approx(1, abs=0.04)  # long tokens are not passed over
    assert 180 <= inside <= 199  # of 200


def test_tokens_that_are_alike_leave_no_doubt():
    random = np.random.default_rng(7)
    recording, phases, _ = run_of(random, 3)
    recording.calls["calls"] = 503
    found = counted(recording, phases)["hot"]
    assert (found.per_token, found.n_tokens, found.half_width) == (503, 3, 0)


def test_a_single_token_tells_nothing_of_others():
    recording, phases, _ = run_of(np.random.default_rng(7), 1)
    assert counted(recording, phases)["hot"].half_width is None


def test_a_token_without_a_call_counts_as_none():
    recording, phases, _ = run_of(np.random.default_rng(7), 2)
    first = recording.calls["begin_ns"].min()
    recording.calls = recording.calls[recording.calls["begin_ns"] > first]
    other = counted(recording, phases)["hot"]
    assert other.n_tokens == 1 or 100 <= other.per_token * 2 < 1000


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40, 300, 5000, 10_000_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_intervals_of_counts_are_those_of_scipy(n, confidence):
    tail = (1 - confidence) / 2
    expected = special.gammaincinv(n, tail), special.gammaincinv(n + 1, 1 - tail)
    assert intervals.poisson(n, confidence) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("samples", "error"), [(3, 0.0), (30, 0.0), (300, 0.0), (300, 0.1)])
def test_samples_and_calls_together(samples, error):
    random = np.random.default_rng(5)
    drawn = random.poisson(samples, 2000)
    calls = 1 + random.normal(0, error / 1.96, 2000)
    spans = [_interval(int(n), error) for n in drawn if n]
    inside = [low <= samples * c <= high for (low, high), c in zip(spans, calls[drawn > 0], strict=True)]
    assert 0.93 <= np.mean(inside) <= 0.99


@pytest.mark.parametrize("ns", [0, 7, 8, 15, 16, 1000, 123_456, 5_000_000_000])
def test_buckets_are_an_eighth_of_a_doubling(ns):
    log = ns.bit_length() - 1
    low, high = _edges(ns if ns < 8 else (log - 2) << 3 | (ns >> (log - 3) & 7))
    assert low <= ns < high
    assert high - low <= max(ns / 8, 1)


def test_bursts_of_a_function():
    phases = pd.DataFrame({"id": [1, 2], "name": ["decode", "decode"]})
    rows = [(0, 1, 64, 90, 90 * 1100, 10, 20), (0, 1, 80, 10, 10 * 4200, 10, 20), (0, 2, 64, 100, 100 * 1090, 30, 40)]
    names = ["probe", "phase", "bucket", "calls", "total_ns", "begin_ns", "end_ns"]
    recording = SimpleNamespace(meta=PROBES, durations=pd.DataFrame(rows, columns=names))
    (row,) = durations(recording, phases).to_dict("records")
    assert (row["function"], row["phase"], row["bursts"], row["calls"]) == ("hot", "decode", 2, 200)
    assert row["mean_ns"] == (90 * 1100 + 10 * 4200 + 100 * 1090) // 200 - 200
    assert row["mean_low_ns"] < row["mean_ns"] < row["mean_high_ns"]
    assert row["histogram"] == {"824": 190, "3896": 10}
    assert 824 <= row["p50_ns"] <= 952 < 3896 <= row["p99_ns"]
    recording.durations = recording.durations[:1]
    assert durations(recording, phases)["mean_low_ns"].isna().all()

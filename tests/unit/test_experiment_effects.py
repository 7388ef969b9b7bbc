"""What an experiment makes of its runs: effects with intervals, and no differences where there are none."""

import itertools

import numpy as np
import pytest

from bitnet_trace.analysis.metrics import Metrics
from bitnet_trace.experiment import charts, effects, sections
from bitnet_trace.experiment.factors import this_machine
from bitnet_trace.experiment.figures import signed_percent
from bitnet_trace.experiment.outcome import outcome
from bitnet_trace.experiment.plan import cells as cells_of
from bitnet_trace.experiment.recordings import Traced
from bitnet_trace.experiment.spec import read
from bitnet_trace.experiment.verdict import doubts, reasons, verdict

SPEC = {"command": ["true"], "factors": {"null": ["a", "b"], "nice": [0, 5]}}


def made(seed, effect_of, n_blocks=8, noise=0.05, spec=SPEC):
    """Results of made-up runs of 50 tokens/s, with drift from block to block."""
    found = read(spec, "test", this_machine())
    cells = {cell.number: cell for cell in cells_of(found)}
    generator = np.random.default_rng(seed)
    results = []
    for block in range(n_blocks):
        drift = generator.normal(0, 0.3)
        for number, cell in cells.items():
            speed = 50 * np.exp(drift + generator.normal(0, noise)) * effect_of(cell.levels)
            figures = {"decode_tokens_per_s": float(speed), "wall_ns": 1e9}
            results.append(
                {
                    "kind": "untraced", "block": block, "cell": number, "levels": cell.levels, "why": None,
                    "figures": figures, "steal_pct": 0.0, "others_pct": 1.0,
                }
            )  # fmt: skip
    return found, cells, results


def test_an_effect_is_found_with_its_size_and_only_in_its_factor():
    found = outcome(*made(1, lambda levels: 0.8 if levels["nice"] == "5" else 1.0), {}, {})
    by_factor = {one.factor: one for one in found.of_factors}
    assert by_factor["nice"].real
    assert by_factor["nice"].low_pct < -20 < by_factor["nice"].high_pct
    assert by_factor["null"].real is False
    assert by_factor["null"].low_pct < 0 < by_factor["null"].high_pct
    lines = list(verdict(found))
    assert lines[0].startswith("nice 5 against 0: decode speed -2")
    assert "a real difference" in lines[0]
    assert "no real difference" in lines[1]


def test_of_experiments_without_a_difference_few_find_one():
    spec = {"command": ["true"], "factors": {"null": ["a", "b"]}}
    found = [outcome(*made(seed, lambda _: 1.0, n_blocks=6, spec=spec), {}, {}) for seed in range(200)]
    wrong = sum(any(one.real for one in each.of_factors) for each in found)
    # 5 % of 200 are 10; 20 have a chance of one in 400
    assert wrong < 20


def test_intervals_hold_the_true_effect():
    spec = {"command": ["true"], "factors": {"null": ["a", "b"]}}
    held = 0
    for seed in range(200):
        results = made(seed, lambda levels: 1.1 if levels["null"] == "b" else 1.0, n_blocks=5, spec=spec)
        (one,) = outcome(*results, {}, {}).of_factors
        held += one.low_pct < 10 < one.high_pct
    assert 180 <= held < 200


def test_cells_are_compared_as_factors_where_there_is_one_factor():
    spec = {"command": ["true"], "factors": {"null": ["a", "b", "c"]}}
    found = outcome(*made(3, lambda levels: {"a": 1, "b": 1.3, "c": 1}[levels["null"]], spec=spec), {}, {})
    for by_factor, by_cell in zip(found.of_factors, found.of_cells, strict=True):
        assert by_factor.pct == pytest.approx(by_cell.pct)
        assert by_factor.p_value == pytest.approx(by_cell.p_value)
        assert by_factor.real == by_cell.real


def test_one_block_tells_nothing_of_chance():
    found = outcome(*made(1, lambda _: 1.0, n_blocks=1), {}, {})
    assert all(one.real is None and one.low_pct is None for one in found.of_factors)
    assert all("not compared" in line for line in verdict(found))


def test_outliers_are_shown_and_not_left_out():
    assert effects.outliers([10.0, 10.1, 9.9, 10.05, 3.0]) == [3.0]
    assert effects.outliers([10.0, 3.0, 9.9]) == []
    assert effects.outliers([5.0] * 6) == []


def test_runs_that_do_not_count_are_told():
    found, cells, results = made(1, lambda _: 1.0)
    results[0].update(why="not as asked: thread 7 (x) had policy other, not fifo:5")
    result = outcome(found, cells, results, {}, {})
    assert len(effects.valid(result.runs, "untraced")) == len(results) - 1
    assert any("not as asked: thread 7" in line for line in doubts(result))
    tables = {grid.title: grid for part in sections.sections(result) for grid in part.tables}
    read_back = next(grid for title, grid in tables.items() if title.startswith("Read back"))
    assert [row[-1] for row in read_back.rows] == ["1", "0", "0", "0"]


def test_what_came_of_the_hugetlb_pool_is_shown():
    found, cells, results = made(1, lambda _: 1.0, n_blocks=2)
    for one in results:
        if one["cell"] > 2:
            one["read_back"] = {"hugetlb_bytes": [0 if one["cell"] == 3 else 8 << 20]}
    result = outcome(found, cells, results, {}, {})
    assert ["b, nice 0" in line for line in doubts(result) if "hugetlb pool" in line] == [True]
    tables = [grid for part in sections.sections(result) for grid in part.tables]
    read_back = next(grid for grid in tables if grid.title.startswith("Read back"))
    assert [row[-1] for row in read_back.rows] == ["-", "-", "0 B", "8.00 MiB"]


def test_what_is_not_known_is_a_dash():
    tables = [grid for part in sections.sections(outcome(*made(1, lambda _: 1.0), {}, {})) for grid in part.tables]
    counters = next(grid for grid in tables if grid.title == "Counters of the CPU")
    assert all(cell == "-" for row in counters.rows for cell in row[3:])
    assert "PMU" in counters.notes[0]


def test_counters_of_the_traced_runs_are_shown_with_their_ratios():
    counted = {"instructions": 3000, "cycles": 1000, "cache-references": 200, "cache-misses": 50, "dTLB-load-misses": 7}
    traced = {(cell, 0): Traced(None, perf=tuple(counted.items())) for cell in (1, 2)}
    found = outcome(*made(1, lambda _: 1.0), traced, {"host": {"pmu": True}})
    tables = [grid for part in sections.sections(found) for grid in part.tables]
    grid = next(grid for grid in tables if grid.title == "Counters of the CPU")
    assert grid.rows[0][3:] == ["3,000", "1,000", "7", "-", "200", "50", "3.00", "25.0 %"]
    assert grid.rows[2][3:] == ["-"] * 8
    assert "no PMU" not in grid.notes[0]


def traced_run(speed, **parts_ns):
    times = {("time", "decode", key): float(ns) for key, ns in {"dur_ns": 1e9 / speed, **parts_ns}.items()}
    return Traced(Metrics("x.btrace", {("speed", "", "decode_tokens_per_s"): speed, **times}, {}, {}, []))


def with_traced(speed_of):
    """Two blocks of traced runs, of that speed by the level of `nice`."""
    found, cells, results = made(1, lambda levels: 0.5 if levels["nice"] == "5" else 1.0)
    traced = {}
    for number, block in itertools.product(cells, range(2)):
        speed = speed_of[cells[number].levels["nice"]]
        row = {"kind": "traced", "block": block, "cell": number, "levels": cells[number].levels, "why": None}
        results.append({**row, "figures": {"decode_tokens_per_s": speed}})
        traced[number, block] = traced_run(speed, compute_ns=1e7, runq_ns=1e9 / speed - 1e7)
    return outcome(found, cells, results, traced, {})


def test_traced_runs_give_the_reasons_and_where_the_time_went():
    found = with_traced({"0": 50.0, "5": 20.0})
    lines = list(reasons(found))
    assert any("decode: run-queue wait: 30.0 ms more per token, 100 % of the difference" in line for line in lines)
    tables = [grid for part in sections.sections(found) for grid in part.tables]
    (grid,) = (one for one in tables if one.title.startswith("Where the time of a token went"))
    assert grid.titles == ["cell", "null", "nice", "per token", "compute", "run queue"]
    assert grid.rows[0] == ["1", "a", "0", "20.0 ms", "10.0 ms", "10.0 ms"]
    assert grid.rows[1] == ["2", "a", "5", "50.0 ms", "10.0 ms", "40.0 ms"]


def test_traced_runs_that_differ_the_other_way_explain_nothing():
    lines = list(reasons(with_traced({"0": 20.0, "5": 25.0})))
    assert lines
    assert all("differ the other way: decode speed +25.0 %, untraced -" in line for line in lines)


def test_charts_hold_every_run_and_no_impossible_value():
    found = outcome(*made(2, lambda _: 1.0, n_blocks=2), {}, {})
    figure = charts.of_cells(found).figure
    assert sum(len(trace["x"]) for trace in figure["data"][:2]) == 8
    means = figure["data"][2]
    assert all(mean - below >= 0 for mean, below in zip(means["x"], means["error_x"]["arrayminus"], strict=True))
    (trace,) = charts.of_factors(found).figure["data"]
    assert all(mean - below > 0 for mean, below in zip(trace["x"], trace["error_x"]["arrayminus"], strict=True))


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (3.21, "+3.2 %"), (-50, "-50.0 %"), (1900, "×20.0"), (1e12, "> ×10,000")]
)
def test_percents(value, text):
    assert signed_percent(value) == text

"""compare: what is called real is, what is not is not, and what explains it comes first."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from busy import write_busy
from click.testing import CliRunner
from everything import write_everything

from bitnet_trace.analysis.compare import Group, compare, setup_differences
from bitnet_trace.analysis.differences import FALSE_DISCOVERIES
from bitnet_trace.analysis.metrics import COUNTS, CPU, SPEED, TIME, _model, metrics
from bitnet_trace.analysis.report import build_report
from bitnet_trace.columns import COUNTERS
from bitnet_trace.commands.compare import compare as command
from bitnet_trace.commands.compare import group_names, grouped
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.render import comparison


def metrics_of(path):
    return metrics(build_report(open_recording(path)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


def runs(folder, name, seed, n=4, **how):
    (folder / name).mkdir()
    return [write_busy(folder / name / f"{i}.btrace", seed=seed + i, **how) for i in range(n)]


@pytest.fixture(scope="module")
def base(folder):
    return [metrics_of(path) for path in runs(folder, "base", 100)]


@pytest.fixture(scope="module")
def hogged(folder):
    return [metrics_of(path) for path in runs(folder, "hogged", 200, slow=1.1, hog=0.3)]


@pytest.fixture(scope="module")
def pool(base):
    """40 runs of the same thing: one run's figures with noise of 3 %, and counts that vary as counts do."""
    rng = np.random.default_rng(1)

    def varied(key, value):
        counted = key[0] == COUNTS and not key[2].endswith(("_ns", "_bytes"))
        return float(rng.poisson(value)) if counted else value * rng.lognormal(0, 0.03)

    return [
        replace(base[0], values={key: varied(key, value) for key, value in base[0].values.items()}) for _ in range(40)
    ]


def test_splits_of_one_pool_differ_in_hardly_anything(pool):
    called, tried = 0, 0
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(40)
        half = [[pool[i] for i in part] for part in (order[:20], order[20:])]
        table = compare(Group("a", half[0]), Group("b", half[1])).table
        called += int(table["real"].sum())
        tried += len(table)
    assert tried > 20 * 100
    assert called / tried <= FALSE_DISCOVERIES / 5


def test_a_slower_decode_is_found_and_its_cause_comes_first(base, hogged):
    found = compare(Group("base", base), Group("hogged", hogged))
    speeds = found.family(SPEED).set_index("key")
    assert speeds.loc["decode_tokens_per_s", "real"]
    assert speeds.loc["decode_tokens_per_s", "difference_pct"] == pytest.approx(-9.1, abs=1)
    assert not speeds.loc["prefill_tokens_per_s", "real"]
    first = found.explanations[0]
    assert (first.phase, first.key, first.kind) == ("decode", "runq_ns", "cause")
    assert [name for name, _ in first.ran_instead] == ["llama-worker"]


def test_an_interval_leaves_out_zero_where_and_only_where_it_is_real(base, hogged):
    table = compare(Group("base", base), Group("hogged", hogged)).table
    spread = table[table["high"] > table["low"]]
    leaves_out = (spread["low"] > 0) | (spread["high"] < 0)
    assert leaves_out.tolist() == spread["real"].tolist()
    assert 3 < leaves_out.sum() < len(spread)


def test_intervals_cover_the_truth(pool):
    """Of intervals at 95 % of a true difference of 10 %, about 19 of 20 have it in them."""
    rng = np.random.default_rng(2)
    key = (SPEED, "", "decode_tokens_per_s")
    covered = 0
    for _ in range(120):
        groups = [
            Group(name, [replace(pool[0], values={key: value}) for value in rng.normal(mean, sd, n)])
            for name, mean, sd, n in (("a", 100, 3, 6), ("b", 90, 6, 9))
        ]
        row = compare(*groups).table.iloc[0]
        covered += bool(row["low"] <= -10 <= row["high"])
    assert 0.9 <= covered / 120 <= 0.99


def test_without_repeats_nothing_is_called_real(base, hogged):
    found = compare(Group("a", base[:1]), Group("b", hogged[:1]))
    assert found.table["real"].isna().all()
    words = list(comparison.words(found))
    assert "may be chance" in words[0]
    assert any(line.startswith("decode speed: ") and "%" in line for line in words)


def test_what_is_the_same_in_all_runs(base):
    key = (COUNTS, "load", "mmap_calls")
    a, b = ([replace(run, values={key: value}) for run in base[:3]] for value in (10.0, 12.0))
    assert compare(Group("a", a), Group("b", b)).table["real"].tolist() == [True]
    assert compare(Group("a", a), Group("b", a)).table["real"].tolist() == [False]
    assert compare(Group("a", a[:2]), Group("b", b[:2])).table["real"].tolist() == [False]


def test_a_run_without_samples_of_a_phase(base):
    """Its computing has spinning in it: compared with the sum of both in the others."""
    values = dict(base[0].values)
    spin, compute = (TIME, "prefill", "spin_ns"), (TIME, "prefill", "compute_ns")
    whole = values[spin] + values[compute]
    values[compute] = whole
    del values[spin]
    table = compare(Group("a", [base[0]]), Group("b", [replace(base[0], values=values)])).family(TIME)
    rows = table[table["phase"] == "prefill"].set_index("key")
    assert "spin_ns" not in rows.index
    assert rows.loc["compute_ns", ["base", "other"]].tolist() == [whole, whole]


def test_no_real_difference_is_said(base, pool):
    words = list(comparison.words(compare(Group("a", pool[:20]), Group("b", pool[20:]))))
    assert words[0] == "No real difference in speed."
    assert words[1].startswith("decode speed: ")
    assert words[1].endswith("no real difference.")


def test_other_engines_models_kernels_and_governors_are_named(base):
    other = replace(base[0], setup={**base[0].setup, "kernel": "6.1", "governor": "powersave", "model": "b.gguf"})
    named = setup_differences([Group("a", base), Group("b", [other])])
    assert named == [
        ("model", ["llama-worker", "b.gguf"]),
        ("kernel", ["6.18.0", "6.1"]),
        ("governor", ["-", "powersave"]),
    ]


def test_groups_of_the_command_line():
    assert [len(group) for group in grouped(["a", "b", "c"])] == [1, 1, 1]
    groups = grouped(["x/a", "x/b", "\0--", "y/a", "y/b"])
    assert group_names(groups) == ["x", "y"]
    assert group_names(grouped(["x/a.btrace", "y/a.btrace"])) == ["a (1)", "a (2)"]


@pytest.mark.parametrize("form", ["text", "markdown", "html", "json"])
def test_as_a_user_types_it(folder, base, hogged, form):
    paths = [[str(path) for path in sorted((folder / name).iterdir())] for name in ("base", "hogged")]
    arguments = ["--format", form, *paths[0][:2], "--", *paths[1][:2]]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "hogged" in result.output
    if form == "json":
        value = json.loads(result.output)
        assert [group["name"] for group in value["groups"]] == ["base", "hogged"]
        assert value["comparisons"][0]["explanations"][0]["key"] == "runq_ns"
    else:
        assert "run queue" in result.output


def test_one_recording_is_wrong_usage(folder, base):
    result = CliRunner().invoke(command, [str(folder / "base" / "0.btrace")])
    assert result.exit_code == 2


def test_counters_of_perf_and_tlbs_are_compared(folder):
    recording = open_recording(write_everything(folder / "everything.btrace", "page-faults"))
    recording.meta["tlbs"] = [{"of": "data", "level": 1, "page_bytes": 4096, "entries": 64}]
    ours = metrics(build_report(recording))
    keys = {(phase, key) for family, phase, key in ours.values if family == CPU}
    counter = ("decode", "page-faults")
    share = ("", "L1 TLB, pages of 4 KiB: weights in such pages, %")
    assert {counter, share} <= keys
    more = replace(ours, values={**ours.values, (CPU, *counter): 3 * ours.values[(CPU, *counter)]})
    groups = [Group("a", [ours] * 3), Group("b", [more] * 3)]
    found = compare(*groups)
    real = found.family(CPU)[found.family(CPU)["real"]]
    assert list(zip(real["phase"], real["key"], strict=True)) == [counter]
    (grid,) = [grid for part in comparison.sections(groups, [found]) for grid in part.tables if "perf" in grid.title]
    assert ["decode", "page-faults"] in [row[:2] for row in grid.rows]


def test_rare_counts_that_are_the_same_in_each_of_a_few_runs_are_chance(base):
    """Of three runs a side the few events of many kinds are often one number here and another there."""
    rng = np.random.default_rng(3)
    keys = [(COUNTS, "load", column.key) for column in COUNTERS if column.format == "count"]
    means = dict(zip(keys, np.tile([0.2, 0.5, 1, 2, 10], len(keys))[: len(keys)], strict=True))

    def drawn():
        return [
            replace(base[0], values={key: float(rng.poisson(mean)) for key, mean in means.items()}) for _ in range(3)
        ]

    assert set(base[0].units) >= set(keys)
    called = [int(compare(Group("a", drawn()), Group("b", drawn())).table["real"].sum()) for _ in range(150)]
    assert np.mean([n > 0 for n in called]) <= FALSE_DISCOVERIES


@pytest.mark.parametrize(
    ("command", "model"),
    [
        (["llama-cli", "-m", "/models/a.gguf", "-p", "b.gguf"], "a.gguf"),
        (["llama-cli", "-m", "/models/a.bin"], "a.bin"),
        (["/usr/bin/python3", "-m", "wrapper", "/models/a.gguf"], "a.gguf"),
        (["python", "-m", "wrapper"], None),
    ],
)
def test_the_model_of_a_command(command, model):
    maps = pd.DataFrame({"path": pd.Series([], dtype="string"), "length": []})
    report = SimpleNamespace(run={"command": command}, recording=SimpleNamespace(maps=maps))
    assert _model(report) == model

"""loadlab: every way loads the same bytes; the table is what the trials say."""

import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from bitnet_trace.commands.loadlab import loadlab
from bitnet_trace.loadlab import compare, trials
from bitnet_trace.loadlab.trials import Trial
from bitnet_trace.loadlab.ways import WAYS, Task

SIZE = 3 * (1 << 20) + 1009  # no multiple of a page, a block or a sector


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    path.write_bytes(np.random.default_rng(3).bytes(SIZE))
    return path


def run(*arguments):
    return CliRunner().invoke(loadlab, [str(one) for one in arguments], standalone_mode=False, catch_exceptions=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block_bytes", [1 << 16, 1 << 20, 1 << 24])
def test_every_way_loads_the_same_bytes(model, way, block_bytes):
    task = Task(str(model), SIZE, block_bytes)
    (trial,) = trials.run(task, [(way, trials.COLD, True)], lambda: None)
    if way == "copy to hugetlbfs" and trial.reason:
        assert "nr_hugepages" in trial.reason
        return
    assert trial.reason is None
    assert trial.checksum == zlib.crc32(model.read_bytes())
    assert trial.seconds_ns > 0
    assert trial.submitted == (-(-SIZE // block_bytes) if "io_uring" in way else 0)


def test_cold_and_warm(model):
    task = Task(str(model), SIZE, 1 << 20)
    for state, cached in ((trials.WARM, 100), (trials.COLD, 0)):
        (trial,) = trials.run(task, [("mmap", state, False)], lambda: None)
        assert trial.cached_pct == cached
        assert (trial.faults_major > 0) is (state == trials.COLD)


def test_every_repeat_has_all_trials_in_an_order_of_its_own():
    planned = trials.plan(WAYS, ["cold", "warm"], 4, seed=5)
    n = 2 * len(WAYS)
    repeats = [planned[at : at + n] for at in range(0, len(planned), n)]
    pairs = [[(way, state) for way, state, _ in one] for one in repeats]
    assert len(repeats) == 4
    assert all(sorted(one) == sorted(pairs[0]) for one in pairs)
    assert len({tuple(one) for one in pairs}) == 4
    assert [check for *_, check in planned] == [True] * n + [False] * 3 * n
    assert planned == trials.plan(WAYS, ["cold", "warm"], 4, seed=5)


def trial(way, seconds, state="cold", **values):
    counts = dict.fromkeys(("faults_minor", "faults_major", "switches", "calls", "submitted"), 6)
    return Trial(way, state, seconds_ns=round(seconds * 1e9), cpu_ns=10**8, **{**counts, **values})


def test_the_table():
    times = {"mmap": [1.0, 1.2, 1.1], "read": [1.15, 1.3, 1.2], "preadv": [3.0, 3.1, 3.2]}
    done = [trial(way, one) for way, seconds in times.items() for one in seconds]
    done.append(Trial("copy to hugetlbfs", "cold", reason="no pages"))
    table = compare.table(done, 2 * 10**9).set_index("way")
    assert table["rank"].dropna().to_dict() == {"mmap": 1, "read": 2, "preadv": 3}
    assert table["like_first"].dropna().to_dict() == {"mmap": "yes", "read": "yes", "preadv": "no"}
    for way, seconds in times.items():
        low, high = stats.t.interval(0.95, 2, np.mean(seconds), stats.sem(seconds))
        assert (table["seconds_low"][way], table["seconds_high"][way]) == pytest.approx((low, high))
        assert table["gb_per_s"][way] == pytest.approx(2 / np.mean(seconds))
    assert table["calls_per_gb"]["mmap"] == 3
    assert table["reason"]["copy to hugetlbfs"] == "no pages"


def test_one_trial_has_no_interval():
    row = compare.table([trial("mmap", 1)], 10**9).iloc[0]
    assert (row["seconds_mean"], row["n"]) == (1, 1)
    assert pd.isna(row["seconds_low"])


def test_text_and_json(model, tmp_path):
    done = run(model, "--repeats", 2, "--way", "mmap", "--way", "read", "--way", "copy to hugetlbfs")
    assert done.exit_code == 0
    assert done.stdout.count("Page cache") == 2
    assert "GB/s" in done.stdout
    done = run(model, "--repeats", 1, "--state", "cold", "--way", "mmap", "--format", "json", "-o", tmp_path / "x.json")
    value = json.loads((tmp_path / "x.json").read_text())
    assert value["size_bytes"] == SIZE
    assert [(row["way"], row["rank"], row["n"]) for row in value["ways"]] == [("mmap", 1, 1)]
    assert value["ways"][0]["seconds_low"] is None
    assert value["ways"][0]["checksum"] == zlib.crc32(model.read_bytes())
    assert len(value["trials"]) == 1
    assert "exists" in str(run(model, "-o", tmp_path / "x.json").exception.message)


def test_what_cannot_be_loaded(tmp_path):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("nothing", "empty", "fifo", "."):
        error = run(tmp_path / name).exception
        assert "\n" not in error.message
        assert error.hint
    assert "none of" in str(run(tmp_path / "empty", "--way", "telepathy").exception)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_under_sudo_it_loads_as_the_user(model, tmp_path):
    model.chmod(0o600)
    environment = {**os.environ, "SUDO_UID": "65534", "SUDO_GID": "65534", "SUDO_USER": "nobody"}
    command = [
        sys.executable,
        "-m",
        "bitnet_trace",
        "loadlab",
        str(model),
        "--repeats=1",
        "--way=mmap",
        "--format=json",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    model.chmod(0o644)
    assert {row["reason"] for row in json.loads(done.stdout)["ways"]} == {"Permission denied"}

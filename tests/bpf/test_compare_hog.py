"""A decode that a CPU hog slows by a tenth is found in repeated runs, and the hog is named as its cause."""

import os
import subprocess

import pytest

from bitnet_trace.analysis.compare import Group, compare
from bitnet_trace.analysis.metrics import SPEED, metrics
from bitnet_trace.analysis.report import build_report

N_TOKENS, N_RUNS, HOG_PCT = 60, 5, 12


@pytest.fixture(scope="module")
def groups(program, trace):
    """Runs alone and beside the hog, in turn."""
    path, cpu = program("tokens.c"), max(os.sched_getaffinity(0))
    runs = {"alone": [], "hogged": []}
    for _ in range(N_RUNS):
        for name, own in runs.items():
            hog = subprocess.Popen([path, "hog", str(cpu), str(HOG_PCT)]) if name == "hogged" else None
            try:
                own.append(metrics(build_report(trace([path, cpu, N_TOKENS], options=["--as-root"]).recording)))
            finally:
                if hog is not None:
                    hog.kill()
                    hog.wait()
    return [Group(name, own) for name, own in runs.items()]


def test_the_hog_is_the_first_explanation(groups):
    found = compare(*groups)
    speed = found.family(SPEED).set_index("key").loc["decode_tokens_per_s"]
    assert speed["real"], found.table
    assert -30 < speed["difference_pct"] < -5
    first = found.explanations[0]
    assert (first.phase, first.key) == ("decode", "runq_ns")
    assert first.share_pct > 50
    assert first.ran_instead[0][0] == "planted-hog"

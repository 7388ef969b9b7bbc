"""Operations of a graph that is known: by a program that notes its own times, and by the tensors of a model's file."""

import os

import numpy as np
import pytest

from bitnet_trace.analysis.absences import SwitchPairs
from bitnet_trace.analysis.barriers import BarrierEvents
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.operations import OperationEvents
from bitnet_trace.analysis.report import build_report
from bitnet_trace.commands.demo import decode_command, make_model

pytestmark = pytest.mark.requires_bpf

THREADS, CALLS, LAYERS = 2, 2000, 3
OPS = ["RMS_NORM", "MUL_MAT", "MUL_MAT", "ADD", "ADD"]  # of each layer
PLENTY = ["--overhead-budget", "100", "--as-root"]


@pytest.mark.parametrize(
    ("flags", "layout"),
    [(["-DODD"], "debug information"), (["-g0"], "version"), (["-DINLINED"], "debug information")],
    ids=["debug-information", "version", "inlined"],
)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < THREADS, reason="threads that spin need a CPU each")
def test_times_are_those_that_the_program_knows(trace, program, tmp_path, flags, layout):
    log = tmp_path / "log"
    command = ["nice", "-n", "-15", program("operations.c", *flags), THREADS, CALLS, log]
    run = trace(command, "ops", options=PLENTY)
    run.assert_nothing_lost()
    report = build_report(run.recording)
    found = report.operations
    assert found.summary["reason"] is None
    assert (found.summary["layout"], found.summary["unnamed"], found.summary["waits_known"]) == (layout, 0, True)
    n_seen = found.summary["calls_seen"]["decode"]
    assert n_seen >= 3

    by_op, by_layer, tensors = (
        table.set_index(key)["nodes_a_call"]
        for table, key in ((found.by_op, "op"), (found.by_layer, "layer"), (found.by_tensor, "tensor"))
    )
    assert by_op.to_dict() == {op: LAYERS * OPS.count(op) for op in OPS}
    assert by_layer.to_dict() == dict.fromkeys(range(LAYERS), len(OPS))
    assert {"blk.0.attn_q.weight", "blk.2.ffn_down.weight", "norm-1", "cache_k_l2"} <= set(tensors.index)
    assert (tensors == 1).all()

    calls = report.phases[report.phases["role"] == "decode"].sort_values("begin_ns").reset_index(drop=True)
    seen = calls.index[calls["id"].isin(report.barriers.late_by_call.index)]
    assert len(seen) == n_seen
    spans = np.fromfile(log, np.uint64).astype(np.int64).reshape(CALLS, LAYERS * len(OPS), THREADS, 2)[seen]
    parts = all_parts(run.recording)
    for place, own in enumerate([parts["tid"] == parts["pid"], parts["tid"] != parts["pid"]]):
        known_ns = (spans[:, :, place, 1] - spans[:, :, place, 0]).ravel()
        # beside it what a probe takes; a thread may be put off its CPU where only one of the two looks
        differs_ns = parts.loc[own, "time_ns"].to_numpy() - known_ns
        assert np.median(differs_ns) == pytest.approx(0, abs=3_000)
        assert np.mean(np.abs(differs_ns) < 5_000) > 0.8
    assert parts["time_ns"].sum() == found.by_op["time_ns"].sum()


def all_parts(recording):
    """A row per thread and node, as the report sums them up."""
    pairs, events = SwitchPairs(), ByKind(recording.events)
    barriers = BarrierEvents(recording.windows, recording.phases)
    operations = OperationEvents(recording.windows, recording.phases)
    barriers.add(events, pairs.add(events))
    operations.add(events)
    return operations.parts(barriers.result())


def test_each_matrix_of_a_model_is_multiplied_once_a_token(trace):
    pytest.importorskip("xllamacpp")
    run = trace(decode_command(make_model("tiny", None), 400, 2), "ops", options=PLENTY)
    found = build_report(run.recording).operations
    if not found.summary["calls_seen"].get("decode"):
        pytest.skip(f"no window held a whole token: {found.summary}")
    tensors = found.by_tensor[found.by_tensor["phase"] == "decode"].set_index("tensor")
    names = run.recording.tensors["name"]
    matrices = names[names.str.fullmatch(r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight")]
    assert len(matrices) == 8 * 7
    assert (tensors.loc[matrices, "nodes_a_call"] == 1).all()
    layers = found.by_layer[found.by_layer["phase"] == "decode"]
    assert sorted(layers["layer"]) == list(range(8))

"""Times of operations, from hand-made events of a graph of which everything is known."""

import pandas as pd
import pytest

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.layout import Kind
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as json_render
from bitnet_trace.render import text
from tests.unit.traces import PID, event, events, phase_row

MATMUL, NORM, UNKNOWN = 1, 2, 77
OTHER = PID + 1
POOL = 0x1000
NAMES = {10: "ffn_up-3", 11: "l_out-4 (view)", 12: "odd", 20: "blk.3.ffn_up.weight"}


def operation(ts_ns, tid, op, tensor, source=0):
    return event(Kind.OPERATION, ts_ns, 1, tid, op, tensor, source)


def barrier(ts_ns, tid):
    return event(Kind.BARRIER, ts_ns, 1, tid, 0, POOL)


# a product with a barrier within, a norm, and an operation of another number; then all wait for the call's end
CALL = events(
    operation(10, PID, MATMUL, 10, 20), operation(12, OTHER, MATMUL, 10, 20),
    barrier(20, PID), barrier(30, OTHER),
    barrier(60, PID), barrier(90, OTHER),
    operation(91, PID, NORM, 11), operation(92, OTHER, NORM, 11), operation(93, OTHER, NORM, 11),
    barrier(95, PID), barrier(96, OTHER),
    operation(97, PID, UNKNOWN, 12), operation(97, OTHER, UNKNOWN, 12),
    barrier(98, PID), barrier(99, OTHER),
)  # fmt: skip


@pytest.fixture
def recording(tmp_path):
    def written(batch=CALL, detail="ops", windows=True, **meta):
        asked = {"names": {str(PID): ["NONE", "MUL_MAT", "RMS_NORM"]}, "layout": "version", "reason": "none fits"}
        state = {"budget_pct": 2.0, "operations": asked, **meta}
        writer = Writer(tmp_path / "x.btrace", {"options": {"detail": detail}, "windows": state}, force=True)
        writer.phases([phase_row(1, 5, 100, n_sampled=1, n_tokens=1)])
        writer.graph_tensors({"ts_ns": 1, "pid": PID, "address": at, "name": name} for at, name in NAMES.items())
        row = {"what": "operations", "begin_ns": 1, "end_ns": 200, "hits": len(batch), "cost_ns": 5}
        writer.windows([row] * windows)
        writer.events(batch)
        writer.close(0)
        return open_recording(tmp_path / "x.btrace")

    return written


def by(table, key):
    return table.set_index(key)


def test_times_are_from_begins_to_barriers_less_waits_within(recording):
    found = build_report(recording()).operations
    assert found.summary["reason"] is None
    assert (list(found.summary["calls_seen"].values()), found.summary["waits_known"]) == ([1], True)
    ops = by(found.by_op, "op")
    assert ops["time_ns"].to_dict() == {"MUL_MAT": 50 - 10 + 78, "RMS_NORM": 4 + 4, "operation 77": 1 + 2}
    assert ops["wait_ns"].to_dict() == {"MUL_MAT": 10 + 30, "RMS_NORM": 1, "operation 77": 1}
    assert ops["nodes_a_call"].to_dict() == dict.fromkeys(ops.index, 1)
    assert ops["time_pct"].sum() == pytest.approx(100)
    assert by(found.by_layer, "layer")["time_ns"].to_dict() == {3: 118, 4: 8}
    assert by(found.by_tensor, "tensor")["time_ns"].to_dict() == {
        "blk.3.ffn_up.weight": 118,
        "l_out-4 (view)": 8,
        "odd": 3,
    }
    threads = by(found.by_thread, ["tid", "op"])["time_ns"]
    assert (threads[PID, "MUL_MAT"], threads[OTHER, "MUL_MAT"]) == (40, 78)


def test_without_barriers_the_next_node_ends_one(recording):
    found = build_report(recording(CALL[CALL["kind"] != Kind.BARRIER])).operations
    assert found.summary["waits_known"] is False
    ops = by(found.by_op, "op")
    assert ops["time_ns"].to_dict() == {"MUL_MAT": 81 + 80, "RMS_NORM": 6 + 5, "operation 77": 3 + 3}
    assert ops["wait_ns"].isna().all()


def test_a_tensor_may_get_another_name(recording):
    opened = recording()
    later = pd.DataFrame({"ts_ns": [50], "pid": [PID], "address": [11], "name": ["renamed-5"]}).astype(
        opened.graph_tensors.dtypes.to_dict()
    )
    opened.graph_tensors = pd.concat([opened.graph_tensors, later])
    layers = by(build_report(opened).operations.by_layer, "layer")["time_ns"]
    assert layers.to_dict() == {3: 118, 5: 8}


def test_what_is_not_known_is_told(recording):
    assert build_report(recording(detail="events")).operations is None
    report = build_report(recording(windows=False))
    assert report.operations.summary["reason"] == "none fits"
    assert "operations: - (none fits)" in text.render(report)
    odd = recording(operations={"names": {str(PID): [3, None]}, "layout": 5, "reason": 7}, windows=False)
    assert "no window" in build_report(odd).operations.summary["reason"]


def test_all_outputs_show_them(recording):
    report = build_report(recording())
    shown = json_render.to_dict(report)["operations"]
    assert shown["by_op"][0]["op"] == "MUL_MAT"
    assert shown["by_thread"][0]["tid"] == OTHER
    assert "Operations by tensor" in text.render(report)

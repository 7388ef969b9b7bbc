"""Recordings that are cut, damaged, incomplete or not recordings: partial data or one clear error, never more."""

import json
import os
import stat
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traces import META, event, events, put, write_inference

import bitnet_trace
from bitnet_trace.analysis.report import build_report
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.layout import Kind
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import EVENT_SCHEMA, SCHEMAS
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as json_report
from bitnet_trace.render import markdown, text

STREAMS = [f"{name}.arrows" for name in ("events", "phases", "threads", "maps", "areas", "tensors")]
FILES = ["meta.json", *STREAMS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A recording with every stream in two batches, as bytes by file name."""
    path = write_inference(tmp_path_factory.mktemp("whole") / "a.btrace")
    return {one.name: one.read_bytes() for one in path.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def report_all(path):
    """Everything that a user can make of the recording; None when it was refused in one line and a hint."""
    refusal = None
    try:
        report = build_report(open_recording(path))
        text.render(report, 80)
        markdown.render(report)
        json.loads(json_report.render(report))
    except TraceError as error:
        refusal = error
    if refusal is None:
        return report
    assert "\n" not in refusal.message
    assert refusal.hint
    return None


# BITNET_TRACE_EXAMPLES=1000 searches longer.
damaging = settings(
    deadline=None,
    max_examples=int(os.environ.get("BITNET_TRACE_EXAMPLES", "25")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(name=st.sampled_from(FILES), share=st.floats(0, 1))
@damaging
def test_a_file_cut_anywhere(whole, folder, name, share):
    cut = int(share * len(whole[name]))
    report = report_all(put(folder, {**whole, name: whole[name][:cut]}))
    if name in STREAMS:
        assert report is not None
        if cut < len(whole[name]) - 16:
            assert not report.health["complete"]


@given(name=st.sampled_from(FILES), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=4))
@damaging
def test_flipped_bits(whole, folder, name, flips):
    data = bytearray(whole[name])
    for share, bit in flips:
        data[int(share * (len(data) - 1))] ^= 1 << bit
    report_all(put(folder, {**whole, name: bytes(data)}))


@given(name=st.sampled_from(FILES), data=st.binary(max_size=200))
@damaging
def test_garbage_in_place_of_a_file(whole, folder, name, data):
    report_all(put(folder, {**whole, name: data}))


@given(missing=st.sets(st.sampled_from(FILES), min_size=1))
@damaging
def test_missing_files(whole, folder, missing):
    report = report_all(put(folder, {name: data for name, data in whole.items() if name not in missing}))
    if "meta.json" in missing:
        assert report is None
    else:
        assert report is not None
        assert not report.health["complete"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from([*META, "exit_status", "rows", "complete", "schema", "other"]), value=JSON)
@damaging
def test_any_value_in_meta(whole, folder, key, value):
    meta = {**json.loads(whole["meta.json"]), key: value}
    report_all(put(folder, {**whole, "meta.json": json.dumps(meta).encode()}))


ITEM_FIELDS = [(key, field) for key in ("probes", "timings_reported") for field in META[key][0]]


@given(place=st.sampled_from(ITEM_FIELDS), value=JSON)
@damaging
def test_any_value_inside_the_lists_of_meta(whole, folder, place, value):
    key, field = place
    meta = json.loads(whole["meta.json"])
    meta[key] = [{**meta[key][0], field: value}]
    assert report_all(put(folder, {**whole, "meta.json": json.dumps(meta).encode()})) is not None


def test_whole_batches_of_a_cut_stream_are_kept_in_order(tmp_path):
    writer = Writer(tmp_path / "a.btrace", META)
    sizes = []
    for first in range(0, 40, 10):
        writer.events(events(*(event(Kind.YIELD, ts_ns) for ts_ns in range(first, first + 10))))
        sizes.append((tmp_path / "a.btrace" / "events.arrows").stat().st_size)
    writer.close(0)
    stream = tmp_path / "a.btrace" / "events.arrows"
    data = stream.read_bytes()
    for n_batches, size in reversed(list(enumerate(sizes, start=1))):
        stream.write_bytes(data[: size - 1])
        recording = open_recording(tmp_path / "a.btrace")
        assert recording.events["ts_ns"].tolist() == list(range(10 * (n_batches - 1)))
        assert not recording.complete
        assert any("events.arrows is cut short" in line for line in recording.warnings)
        stream.write_bytes(data[:size])
        assert len(open_recording(tmp_path / "a.btrace").events) == 10 * n_batches


def test_rows_that_are_missing_at_a_batch_boundary_are_noticed(tmp_path, whole):
    path = put(tmp_path, whole)
    (path / "maps.arrows").unlink()
    recording = open_recording(path)
    assert not recording.complete
    assert recording.warnings == ["maps.arrows holds 0 of 1 rows"]


def test_events_come_in_pieces_of_the_asked_size(tmp_path):
    writer = Writer(tmp_path / "a.btrace", META)
    for first in range(0, 40, 10):
        writer.events(events(*(event(Kind.YIELD, ts_ns) for ts_ns in range(first, first + 10))))
    recording = open_recording(tmp_path / "a.btrace")
    for n_max, sizes in ((7, [7, 7, 7, 7, 7, 5]), (15, [15, 15, 10]), (40, [40]), (100, [40])):
        pieces = list(recording.event_batches(n_max))
        assert [len(piece) for piece in pieces] == sizes
        assert np.concatenate(pieces)["ts_ns"].tolist() == list(range(40))


def stream_of(schema, columns):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("what", ["type", "column missing", "column twice"])
def test_a_stream_of_other_columns_is_refused(tmp_path, whole, what):
    fields = list(EVENT_SCHEMA)
    if what == "type":
        fields[0] = fields[0].with_type(pa.int64())
    elif what == "column missing":
        del fields[0]
    else:
        fields.append(fields[0])
    schema = pa.schema(fields)
    data = stream_of(schema, [pa.array([1], type=field.type) for field in schema])
    with pytest.raises(TraceError, match=r"column ts_ns should be uint64"):
        open_recording(put(tmp_path, {**whole, "events.arrows": data}))


def test_a_column_name_that_is_no_text_is_refused(tmp_path, whole):
    data = whole["events.arrows"].replace(b"ts_ns", b"ts\xffns")
    assert data != whole["events.arrows"]
    with pytest.raises(TraceError, match="damaged"):
        open_recording(put(tmp_path, {**whole, "events.arrows": data}))


def test_columns_of_a_later_version_are_passed_over(tmp_path, whole):
    schema = EVENT_SCHEMA.insert(0, pa.field("later", pa.string()))
    columns = [pa.array(["x"]), *(pa.array([7], type=field.type) for field in EVENT_SCHEMA)]
    recording = open_recording(put(tmp_path, {**whole, "events.arrows": stream_of(schema, columns)}))
    assert recording.events.tolist() == [(7,) * 8]


@pytest.mark.parametrize("name", ["events", "threads"])
def test_columns_that_are_declared_otherwise_and_hold_the_same_are_read(tmp_path, whole, name):
    schema = pa.schema([pa.field(one.name, one.type, False, {"a": "b"}) for one in SCHEMAS[name]])
    data = stream_of(schema, [pa.array([7]).cast(one.type) for one in schema])
    assert len(getattr(open_recording(put(tmp_path, {**whole, f"{name}.arrows": data})), name)) == 1


@pytest.mark.parametrize("name", ["events", "phases"])
def test_a_null_where_none_may_be_is_damage(tmp_path, whole, name):
    schema = SCHEMAS[name]
    data = stream_of(schema, [pa.nulls(1, field.type) for field in schema])
    recording = open_recording(put(tmp_path, {**whole, f"{name}.arrows": data}))
    assert not recording.complete
    assert len(getattr(recording, name)) == 0


@pytest.mark.parametrize("field", [1, 2])
def test_a_message_without_its_type_or_its_header_is_damage(tmp_path, whole, field):
    data = bytearray(whole["areas.arrows"])
    message = 8  # after the mark and the length
    table = message + struct.unpack_from("<I", data, message)[0]
    layout = table - struct.unpack_from("<i", data, table)[0]
    struct.pack_into("<H", data, layout + 4 + 2 * field, 0)  # the field is not there
    recording = open_recording(put(tmp_path, {**whole, "areas.arrows": bytes(data)}))
    assert not recording.complete
    assert any("areas.arrows" in warning for warning in recording.warnings)


@pytest.mark.parametrize("schema", [0, -1, 2, "1", None, True, 1.0, [1]])
def test_other_schemas_are_refused(tmp_path, whole, schema):
    meta = {**json.loads(whole["meta.json"]), "schema": schema}
    with pytest.raises(TraceError) as caught:
        open_recording(put(tmp_path, {**whole, "meta.json": json.dumps(meta).encode()}))
    if schema == 2:
        assert "newer" in caught.value.hint


def test_deeply_nested_meta_is_refused(tmp_path, whole):
    nested = b'{"schema": 1, "host": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
    with pytest.raises(TraceError, match="damaged"):
        open_recording(put(tmp_path, {**whole, "meta.json": nested}))
    with pytest.raises(TraceError, match="damaged"):
        open_recording(put(tmp_path, {**whole, "meta.json": b'{"schema": 1, "x": ' + b"[" * 40 + b"]" * 40 + b"}"}))


def test_a_value_of_a_wrong_type_is_left_out_and_told(tmp_path, whole):
    meta = {**json.loads(whole["meta.json"]), "wall_ns": "long", "probes": [1], "start_ns": True}
    recording = open_recording(put(tmp_path, {**whole, "meta.json": json.dumps(meta).encode()}))
    assert not {"wall_ns", "probes", "start_ns"} & set(recording.meta)
    assert len(recording.warnings) == 3


@pytest.mark.parametrize("kind", ["nothing", "file", "empty folder", "pipe for a stream", "folder for a stream"])
def test_what_is_no_recording(tmp_path, whole, kind):
    path = tmp_path / "x.btrace"
    if kind == "file":
        path.write_text("x")
    elif kind == "empty folder":
        path.mkdir()
    elif kind != "nothing":
        put(tmp_path, whole)
        (path / "events.arrows").unlink()
        if kind == "pipe for a stream":
            os.mkfifo(path / "events.arrows")
            assert stat.S_ISFIFO((path / "events.arrows").stat().st_mode)
        else:
            (path / "events.arrows").mkdir()
    with pytest.raises(TraceError) as caught:
        open_recording(path)
    assert caught.value.hint


def test_python_users_open_a_recording_by_its_path(tmp_path, whole):
    report = bitnet_trace.open(str(put(tmp_path, whole)))
    assert report.by_phase.set_index("phase").loc["decode", "faults_minor"] == 5
    assert len(report.recording.events) == 38


def test_a_recording_whose_name_is_no_text(tmp_path, whole):
    path = put(tmp_path, whole).rename(tmp_path / os.fsdecode(b"caf\xe9.btrace"))
    recording = open_recording(path)
    assert (recording.complete, recording.warnings, recording.n_events) == (True, [], 38)

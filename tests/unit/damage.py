"""Damage to recordings, as hypothesis strategies: a recording is {file name: bytes}, a damage gives another one."""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from traces import MS, PID

from bitnet_trace.recording.layout import EVENT_DTYPE, Kind
from bitnet_trace.recording.schema import SCHEMAS

Files = dict[str, bytes]
STREAMS = tuple(f"{name}.arrows" for name in SCHEMAS)

# Where widths, signs and sums go wrong.
EDGES = (0, 1, 2, 7, 255, (1 << 15) - 1, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 53, 1 << 61)
LARGEST = (1 << 62, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1)
# Inside of the hand-made recording, whose clock begins at 1 s: what looks like an ordinary value.
PLAUSIBLE = (3, PID, PID + 1, 1000 * MS, 1100 * MS, 1200 * MS, 1270 * MS)
NUMBERS = st.sampled_from((*EDGES, *LARGEST, *PLAUSIBLE)) | st.integers(0, (1 << 64) - 1)
TEXTS = st.sampled_from(("decode", "load", "gap", "idle", "startup", "exit", "running", "", "\x1b[2J", "x" * 5000))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, *EDGES, *LARGEST, 1 << 200, 0.5, 1e308, float("nan"), float("inf")])
    | TEXTS
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def file_names(files: Files) -> list[str]:
    return sorted(name for name in files if not name.endswith(".log"))


def place(draw: Any, data: bytes) -> int:
    """A position, often near the begin, where headers are."""
    return min(draw(st.integers(0, 700) | st.integers(0, max(len(data) - 1, 0))), max(len(data) - 1, 0))


# ---- bytes ----------------------------------------------------------------------------------------------------------


def cut(draw: Any, files: Files) -> Files:
    name = draw(st.sampled_from(file_names(files)))
    return {**files, name: files[name][: place(draw, files[name])]}


def flip(draw: Any, files: Files) -> Files:
    name = draw(st.sampled_from(file_names(files)))
    data = bytearray(files[name])
    for _ in range(draw(st.integers(1, 4))):
        if data:
            data[place(draw, data)] ^= 1 << draw(st.integers(0, 7))
    return {**files, name: bytes(data)}


def overwrite(draw: Any, files: Files) -> Files:
    """A number in place of what was there: a length, an offset, a count, a value."""
    name = draw(st.sampled_from(file_names(files)))
    data, width = bytearray(files[name]), draw(st.sampled_from([4, 8]))
    at = place(draw, data) // width * width
    data[at : at + width] = (draw(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return {**files, name: bytes(data)}


def rearrange(draw: Any, files: Files) -> Files:
    """A piece is taken out, doubled, or put where another was."""
    name = draw(st.sampled_from(file_names(files)))
    data = files[name]
    first, second = sorted((place(draw, data), place(draw, data)))
    parts = {"out": b"", "double": data[first:second] * 2, "zeros": bytes(second - first), "garbage": b"\xa5\x5a" * 40}
    return {**files, name: data[:first] + parts[draw(st.sampled_from(sorted(parts)))] + data[second:]}


def swap(draw: Any, files: Files) -> Files:
    """One file in place of another, of this recording or of the hand-made one; or none."""
    names = file_names(files)
    name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    if draw(st.integers(0, 5)) == 0:
        return {key: data for key, data in files.items() if key != name}
    return {**files, name: files[other], other: files[name]}


# ---- meta.json ------------------------------------------------------------------------------------------------------


def change_meta(draw: Any, files: Files) -> Files:
    """Any value at any place of meta.json."""
    try:
        meta = json.loads(files["meta.json"])
    except (ValueError, KeyError, RecursionError):
        return files
    target, key = {"": meta}, ""
    while isinstance(target[key], dict | list) and target[key] and draw(st.integers(0, 3)):
        target = target[key]
        key = draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
    value = draw(JSON)
    target[key] = [value] * draw(st.sampled_from([1, 2, 20_000])) if draw(st.integers(0, 9)) == 0 else value
    return {**files, "meta.json": json.dumps(meta).encode()}


# ---- streams --------------------------------------------------------------------------------------------------------


def stream(schema: pa.Schema, batches: list[pa.RecordBatch], compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def fitting(value: int, kind: pa.DataType) -> int:
    """The low bits of `value` as a value of that type."""
    width = kind.bit_width
    value &= (1 << width) - 1
    return value - (1 << width) if pa.types.is_signed_integer(kind) and value >> (width - 1) else value


def column(draw: Any, kind: pa.DataType, n: int) -> pa.Array:
    """`n` values: a few drawn ones again and again, with nulls sometimes."""
    if pa.types.is_string(kind):
        values: list[Any] = draw(st.lists(TEXTS, min_size=1, max_size=4))
    elif pa.types.is_boolean(kind):
        values = draw(st.lists(st.booleans(), min_size=1, max_size=4))
    else:
        start, step = draw(NUMBERS), draw(st.sampled_from([0, 0, 1, 1 << 20, (1 << 64) - 1, 1 << 58]))
        drawn = draw(st.lists(NUMBERS, min_size=1, max_size=4))
        counted = [start + step * index for index in range(n)]
        values = [fitting(one, kind) for one in draw(st.sampled_from([drawn, counted]))]
    if draw(st.integers(0, 12)) == 0:
        values[draw(st.integers(0, len(values) - 1))] = None
    return pa.array((values * (n // len(values) + 1))[:n], type=kind)


def values_of_stream(draw: Any, files: Files) -> Files:
    """A well-formed stream of impossible values: negative, far apart, backwards, overlapping, the same id again."""
    name = draw(st.sampled_from(sorted(SCHEMAS)))
    n = draw(st.sampled_from([1, 2, 5, 40, 3000]))
    schema = SCHEMAS[name]
    columns = [column(draw, field.type, n) for field in schema]
    data = stream(schema, [pa.RecordBatch.from_arrays(columns, schema=schema)] * draw(st.sampled_from([1, 1, 3])))
    return {**files, f"{name}.arrows": data}


def some_column(draw: Any, files: Files) -> Files:
    """The stream as it is, but for one column."""
    name = draw(st.sampled_from(sorted(SCHEMAS)))
    try:
        table = pa.ipc.open_stream(files[f"{name}.arrows"]).read_all().combine_chunks()
    except (KeyError, pa.ArrowException, OSError):
        return files
    index = draw(st.integers(0, len(SCHEMAS[name]) - 1))
    field = SCHEMAS[name].field(index)
    if table.schema != SCHEMAS[name]:
        return files
    table = table.set_column(index, field, column(draw, field.type, len(table)))
    return {**files, f"{name}.arrows": stream(SCHEMAS[name], table.to_batches())}


OTHER_TYPES = st.sampled_from(
    [
        *(pa.int8(), pa.uint16(), pa.int64(), pa.float64(), pa.string(), pa.large_string(), pa.bool_(), pa.null()),
        *(pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.uint64()), pa.list_(pa.uint64())),
        *(pa.struct([("a", pa.uint64())]), pa.decimal128(20), pa.timestamp("ns"), pa.binary(), pa.string_view()),
        pa.run_end_encoded(pa.int32(), pa.uint64()),
    ]
)


def types_of_stream(draw: Any, files: Files) -> Files:
    """Other types, columns that no version has, columns twice or in another order, dictionaries."""
    name = draw(st.sampled_from(sorted(SCHEMAS)))
    fields = list(SCHEMAS[name])
    for _ in range(draw(st.integers(1, 2))):
        other = pa.field(draw(st.sampled_from(["later", fields[0].name, fields[-1].name])), draw(OTHER_TYPES))
        index = draw(st.integers(0, len(fields)))
        fields[index : index + draw(st.integers(0, 1))] = [other]
    schema = pa.schema(draw(st.permutations(fields)))
    arrays = []
    for kind in schema.types:
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind):
            arrays.append(column(draw, kind, 5))
        elif pa.types.is_dictionary(kind):
            arrays.append(
                pa.DictionaryArray.from_arrays(
                    pa.array([0] * 5, kind.index_type), pa.array([None, None], kind.value_type)
                )
            )
        elif pa.types.is_run_end_encoded(kind):
            arrays.append(pa.RunEndEncodedArray.from_arrays(pa.array([5], pa.int32()), pa.array([7], pa.uint64())))
        else:
            arrays.append(pa.nulls(5, kind))
    return {**files, f"{name}.arrows": stream(schema, [pa.RecordBatch.from_arrays(arrays, schema=schema)])}


def bomb(draw: Any, files: Files) -> Files:
    """A small stream that says that it is large: compressed zeros, or a length that no file has."""
    name = draw(st.sampled_from(sorted(SCHEMAS)))
    schema = SCHEMAS[name]
    compression = draw(st.sampled_from(["zstd", "lz4"]))
    n = draw(st.sampled_from([10, 100_000, 300_000]))
    zeros = [
        pa.array([""], pa.string()).take(pa.array(np.zeros(n, np.int32)))
        if pa.types.is_string(field.type)
        else pa.array(np.zeros(n, bool if pa.types.is_boolean(field.type) else field.type.to_pandas_dtype()))
        for field in schema
    ]
    data = bytearray(stream(schema, [pa.RecordBatch.from_arrays(zeros, schema=schema)], compression))
    if draw(st.booleans()):  # the length that stands before each compressed buffer
        at = data.find(struct.pack("<q", n * 8))
        if at >= 0:
            data[at : at + 8] = struct.pack("<q", draw(st.sampled_from([1 << 30, 1 << 36, 1 << 46, -1, -2])))
    return {**files, f"{name}.arrows": bytes(data)}


def crowd(draw: Any, files: Files) -> Files:
    """Very many threads, phases or processes, and waits that reach over all of them."""
    n = draw(st.sampled_from([300, 300, 3000, 3000, 20_000]))
    events = np.zeros(n, EVENT_DTYPE)
    count = np.arange(n, dtype=np.uint64)
    kinds = [Kind.SWITCH_OUT, Kind.SWITCH_IN, Kind.FUTEX, Kind.READ, Kind.MMAP, Kind.FAULT, Kind.RSS, Kind.IO_COMPLETE]
    events["kind"] = draw(st.sampled_from(kinds))
    events["ts_ns"] = 1000 * MS + count * draw(st.sampled_from([0, 1, MS]))
    events["tid"] = draw(st.sampled_from([PID, PID + count, count * 65_521 % (1 << 32)]))
    events["phase"] = draw(st.sampled_from([1, n, count + 1, (1 << 32) - 1 - count]))
    events["arg1"] = draw(st.sampled_from([0, 1000 * MS, (1 << 64) - 1]))
    events["arg2"] = draw(st.sampled_from([0, 1000 * MS, (1 << 64) - 1, count]))
    pids = draw(st.sampled_from([np.full(n, PID), PID + count, count % 3]))
    overlapped, closed = draw(st.booleans()), draw(st.booleans())
    begin_ns = (1000 * MS + count * draw(st.sampled_from([0, 1, MS]))).astype(np.int64)
    plain: dict[str, Any] = {
        "id": count + 1,
        "pid": pids,
        "tid": pids,
        "begin_ns": begin_ns,
        "role": pa.array([draw(st.sampled_from(["decode", "gap", "load", "none"]))] * n),
        "end_ns": pa.array(begin_ns + draw(st.sampled_from([0, MS, 1000 * MS]))) if closed else pa.nulls(n, pa.int64()),
        "overlapped": pa.array([overlapped] * n),
    }
    phases = []
    for one in SCHEMAS["phases"]:
        value = plain.get(one.name)
        if value is None:
            value = pa.array([False] * n) if pa.types.is_boolean(one.type) else np.zeros(n, np.int64)
        phases.append(pa.array(value).cast(one.type))
    rows = [pa.array(np.ascontiguousarray(events[name])) for name in EVENT_DTYPE.names or ()]
    made = {"events": rows, "phases": phases}
    for name in draw(st.sampled_from([["events"], ["phases"], ["events", "phases"]])):
        batch = pa.RecordBatch.from_arrays(made[name], schema=SCHEMAS[name])
        files = {**files, f"{name}.arrows": stream(SCHEMAS[name], [batch])}
    return files


DAMAGES = (
    *(cut, flip, overwrite, overwrite, rearrange, swap, change_meta, change_meta),
    *(values_of_stream, values_of_stream, some_column, some_column, types_of_stream, bomb, crowd),
)


@dataclass(frozen=True)
class Case:
    """A damaged recording; `done` says how."""

    done: tuple[str, ...]
    files: Files = field(repr=False)
    original: Files = field(repr=False)

    def tells_checksums(self) -> bool:
        return self.files.get("meta.json") == self.original["meta.json"]

    def changed_streams(self) -> set[str]:
        return {name for name in STREAMS if self.files.get(name) != self.original.get(name)}


@st.composite
def damaged(draw: Any, recordings: list[Case]) -> Case:
    """One to three damages of one of the recordings."""
    case = draw(st.sampled_from(recordings))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        damage = draw(st.sampled_from(DAMAGES))
        case = Case((*case.done, damage.__name__), damage(draw, case.files), case.original)
    return case

"""Reads a recording that may be whole, still growing, cut short or damaged.

Files are mapped and Arrow batches stay views of them, so opening costs no memory that the system cannot
take back. Nothing in a file is trusted: schema and every batch are checked before they are used.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bitnet_trace.errors import TraceError
from bitnet_trace.recording.checksums import STREAM_SUFFIX, Checksums, of_streams
from bitnet_trace.recording.flatbuffer import has_header, is_compressed
from bitnet_trace.recording.layout import EVENT_DTYPE
from bitnet_trace.recording.meta import count, load_meta
from bitnet_trace.recording.schema import NULLABLE, SCHEMAS, TIMES

_PANDAS_TYPES = {
    pa.uint32(): pd.Int64Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}
_DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)
# Of CLOCK_MONOTONIC: 146 years. Sums and differences of such times are in the range of int64.
_LATEST_NS = 1 << 62
# Each has a phase at least. What is done once for each stays within seconds.
_MAX_PROCESSES = 1 << 15


@dataclass
class Recording:
    """One recording. Times are CLOCK_MONOTONIC ns; tables use pandas' nullable dtypes, a missing value is pd.NA."""

    path: Path
    meta: dict[str, Any]
    # False when it was cut short (killed writer, full disk, still being written) or a part is unreadable.
    complete: bool
    warnings: list[str]
    _batches: dict[str, list[pa.RecordBatch]] = field(repr=False)

    @property
    def n_events(self) -> int:
        """How many events are stored."""
        return sum(batch.num_rows for batch in self._batches["events"])

    def event_batches(self, n_max: int = 2_000_000) -> Iterator[npt.NDArray[np.void]]:
        """The events as EVENT_DTYPE arrays of at most `n_max`, in the order of recording (nearly by time)."""
        for batch in _regrouped(self._batches["events"], n_max):
            events = np.empty(sum(part.num_rows for part in batch), dtype=EVENT_DTYPE)
            begin = 0
            for part in batch:
                end = begin + part.num_rows
                for name, column in zip(part.schema.names, part.columns, strict=True):
                    events[name][begin:end] = column.to_numpy()
                begin = end
            yield events

    def event_columns(self, n_max: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The same, as an array for each field of EVENT_DTYPE; copied only where pieces are put together."""
        for batch in _regrouped(self._batches["events"], n_max):
            columns = zip(*(part.columns for part in batch), strict=True)
            yield {
                name: parts[0].to_numpy() if len(parts) == 1 else np.concatenate([part.to_numpy() for part in parts])
                for name, parts in zip(SCHEMAS["events"].names, columns, strict=True)
            }

    @cached_property
    def events(self) -> npt.NDArray[np.void]:
        """All events as one EVENT_DTYPE array: 40 bytes each, so prefer `event_batches` for what may be large."""
        return np.concatenate([np.empty(0, dtype=EVENT_DTYPE), *self.event_batches()])

    @cached_property
    def phases(self) -> pd.DataFrame:
        """One row per phase, the columns of schema.PHASE_SCHEMA, by begin_ns and id."""
        return _last_of(self._table("phases"), ["id"], ["begin_ns", "id"])

    @cached_property
    def threads(self) -> pd.DataFrame:
        """One row per thread: tid, pid, comm, parent_tid, start_ns, end_ns, exit_code; by start_ns."""
        return _last_of(self._table("threads"), ["tid", "start_ns"], ["start_ns", "tid"])

    @cached_property
    def maps(self) -> pd.DataFrame:
        """File mappings: pid, ts_ns, address, length, offset, device, inode, path; in the order of recording."""
        return self._table("maps")

    @cached_property
    def areas(self) -> pd.DataFrame:
        """What address spaces held at some moments, the columns of schema.AREA_SCHEMA, in the order of recording."""
        return self._table("areas")

    @cached_property
    def residency(self) -> pd.DataFrame:
        """What was resident at some moments, the columns of schema.RESIDENCY_SCHEMA, in the order of recording."""
        return self._table("residency")

    @cached_property
    def tensors(self) -> pd.DataFrame:
        """The tensors of the model files, the columns of schema.TENSOR_SCHEMA."""
        return self._table("tensors")

    @cached_property
    def taskstats(self) -> pd.DataFrame:
        """The kernel's own accounting of threads, the columns of schema.TASKSTATS_SCHEMA, in the order of recording."""
        return self._table("taskstats")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Timer samples, the columns of schema.SAMPLE_SCHEMA, in the order of recording."""
        return self._table("samples")

    @cached_property
    def stacks(self) -> pd.DataFrame:
        """A row per frame of each stack, the columns of schema.STACK_SCHEMA."""
        return self._table("stacks")

    @cached_property
    def symbols(self) -> pd.DataFrame:
        """What addresses mean, the columns of schema.SYMBOL_SCHEMA: one row per process and address."""
        return self._table("symbols").drop_duplicates(["pid", "address"])

    @cached_property
    def windows(self) -> pd.DataFrame:
        """Spans of time in which costly probes were on, the columns of schema.WINDOW_SCHEMA, in order of recording."""
        return self._table("windows")

    @cached_property
    def calls(self) -> pd.DataFrame:
        """Calls of functions that were counted in windows, the columns of schema.CALL_SCHEMA."""
        return self._table("calls")

    @cached_property
    def durations(self) -> pd.DataFrame:
        """How long calls of functions took in bursts, the columns of schema.DURATION_SCHEMA."""
        return self._table("durations")

    @cached_property
    def scheduling(self) -> pd.DataFrame:
        """What threads asked of the scheduler and had when they ended, the columns of schema.SCHEDULING_SCHEMA."""
        return self._table("scheduling")

    @cached_property
    def numa(self) -> pd.DataFrame:
        """On which NUMA nodes memory was at some moments, the columns of schema.NUMA_SCHEMA."""
        return self._table("numa")

    @cached_property
    def perf(self) -> pd.DataFrame:
        """What perf's counters counted by thread and phase, the columns of schema.PERF_SCHEMA, as deltas."""
        return self._table("perf")

    @cached_property
    def graph_tensors(self) -> pd.DataFrame:
        """What tensors of the engine's graph are called, the columns of schema.GRAPH_TENSOR_SCHEMA."""
        return self._table("graph_tensors")

    @cached_property
    def stored_counters(self) -> pd.DataFrame:
        """The counters that the kernel kept (`--detail counts`): tid, phase and layout.COUNTER_FIELDS, as deltas."""
        return self._table("counters")

    def _table(self, name: str) -> pd.DataFrame:
        table = pa.Table.from_batches(self._batches[name], schema=SCHEMAS[name])
        frame = table.to_pandas(types_mapper=_PANDAS_TYPES.get)
        assert isinstance(frame, pd.DataFrame)
        return frame


def open_recording(path: str | os.PathLike[str], checksums: Checksums | None = None) -> Recording:
    """Opens the recording folder at `path`; `checksums`: of its streams, where they are under way already.

    A stream that is missing is empty; one that ends in the middle keeps its whole batches and is told in `warnings`.
    Raises TraceError where `path` is no recording, its meta.json is unreadable, or a stream holds other columns.
    """
    folder = Path(path)
    if not folder.exists():
        raise TraceError(f"{folder} does not exist", "bitnet-trace run -- CMD makes a recording")
    if not folder.is_dir():
        raise TraceError(f"{folder} is not a recording: it is not a folder", "name the .btrace folder itself")
    meta, warnings = load_meta(folder)
    complete = meta.get("complete") is True
    if not complete:
        warnings.append("the recording was cut short or is still being made")
    batches: dict[str, list[pa.RecordBatch]] = {}
    with ExitStack() as stack:
        if complete and checksums is None:
            checksums = stack.enter_context(of_streams(folder))
        for name in SCHEMAS:
            batches[name], damage = _read_stream(folder / (name + STREAM_SUFFIX), name)
            if complete and checksums is not None:
                damage = damage or _difference(name, batches[name], meta, checksums)
            if damage is not None:
                warnings.append(damage)
                complete = False
    _check_processes(folder, batches["phases"])
    return Recording(folder, meta, complete, warnings, batches)


def _read_stream(path: Path, name: str) -> tuple[list[pa.RecordBatch], str | None]:
    """The whole batches of one stream, and what is wrong with the rest of it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [], None
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}", "check who owns it") from None
    if not stat.S_ISREG(status.st_mode):
        raise TraceError(f"{path} is not a file", "record again")
    cut = f"{path.name} is cut short or damaged: what is after its last whole batch is left out"
    if status.st_size == 0:
        return [], cut
    batches: list[pa.RecordBatch] = []
    try:
        # as bytes: pyarrow takes names that are not UTF-8 so only
        messages = pa.ipc.MessageReader.open_stream(pa.memory_map(os.fsencode(path)))
        schema = _schema_of(messages.read_next_message())
    except PermissionError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}", "check who owns it") from None
    except (*_DAMAGE, StopIteration):
        return [], cut
    _check_schema(path, schema, name)
    while True:
        try:
            batches.append(_checked(messages.read_next_message(), schema, name))
        except StopIteration:
            return batches, None
        except _DAMAGE:
            return batches, cut


def _schema_of(message: pa.ipc.Message) -> pa.Schema:
    """Raises ValueError or what pyarrow raises, which crashes where a message holds no schema."""
    if message.type != "schema" or not has_header(memoryview(message.metadata)):
        raise ValueError("no schema")
    return pa.ipc.read_schema(message)


def _checked(message: pa.ipc.Message, schema: pa.Schema, name: str) -> pa.RecordBatch:
    """The batch of one message, with the columns of our own schema only. Raises ValueError or what pyarrow raises.

    What the writer never makes is damage: dictionaries, compression, buffers that share bytes (a small file could
    become a large table by any of them), nulls and times where none can be.
    """
    if message.type != "record batch" or is_compressed(memoryview(message.metadata)):
        raise ValueError("no plain record batch")
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    columns = [batch.column(field.name) for field in SCHEMAS[name]]
    if sum(buffer.size for column in columns for buffer in column.buffers() if buffer) > message.body.size:
        raise ValueError("buffers share bytes")
    for key, column in zip(SCHEMAS[name].names, columns, strict=True):
        if column.null_count and key not in NULLABLE[name]:
            raise ValueError("a null where none may be")
        if key in TIMES[name] and column.null_count < len(column):
            bounds = pc.min_max(column)
            if bounds["min"].as_py() < 0 or bounds["max"].as_py() > _LATEST_NS:
                raise ValueError("no time")
    # Other columns, and what the file says beside a column's type, are left behind here.
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[name])


def _difference(name: str, batches: list[pa.RecordBatch], meta: dict[str, Any], checksums: Checksums) -> str | None:
    """In what the stream of a whole recording is not what was written; None: in nothing that can be told."""
    file_name = name + STREAM_SUFFIX
    stored = count(meta["rows"].get(name, 0)) if "rows" in meta else None
    n_rows = sum(batch.num_rows for batch in batches)
    if stored is not None and n_rows != stored:
        return f"{file_name} holds {n_rows} of {stored} rows"
    noted = count(meta.get("crc32", {}).get(name))
    if noted is not None and checksums.of(file_name) not in (None, noted):
        return f"{file_name} is not as it was written: some of its values are wrong"
    return None


def _check_processes(folder: Path, phases: list[pa.RecordBatch]) -> None:
    pids = [batch.column("pid").to_numpy() for batch in phases]
    if pids and len(np.unique(np.concatenate(pids))) > _MAX_PROCESSES:
        raise TraceError(f"{folder} is damaged: its phases are of more than {_MAX_PROCESSES} processes", "record again")


def _check_schema(path: Path, schema: pa.Schema, name: str) -> None:
    try:
        names = schema.names
    except UnicodeDecodeError:
        names = []
    for wanted in SCHEMAS[name]:
        if names.count(wanted.name) != 1 or schema.field(wanted.name).type != wanted.type:
            raise TraceError(
                f"{path} is damaged or not of a recording: column {wanted.name} should be {wanted.type}", "record again"
            )


def _regrouped(batches: list[pa.RecordBatch], n_max: int) -> Iterator[list[pa.RecordBatch]]:
    """The batches in groups of at most `n_max` rows, larger ones cut."""
    group: list[pa.RecordBatch] = []
    room = n_max
    for batch in batches:
        offset = 0
        while offset < batch.num_rows:
            part = batch.slice(offset, min(room, batch.num_rows - offset))
            group.append(part)
            offset += part.num_rows
            room -= part.num_rows
            if not room:
                yield group
                group, room = [], n_max
    if group:
        yield group


def _last_of(table: pd.DataFrame, key: list[str], order: list[str]) -> pd.DataFrame:
    return table.drop_duplicates(key, keep="last").sort_values(order, kind="stable").reset_index(drop=True)

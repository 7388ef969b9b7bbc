"""Writes a recording: a folder of Arrow IPC streams and meta.json, whole after every batch.

The writer may run as root in a folder of another user, so every file is created through the folder's own
descriptor, exclusively and without following links; the folder itself through that of the one it lies in, which may be
renamed or swapped meanwhile.
"""

import contextlib
import errno
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bitnet_trace.errors import TraceError
from bitnet_trace.recording.arrays import from_numpy, from_values
from bitnet_trace.recording.checksums import STREAM_SUFFIX
from bitnet_trace.recording.layout import EVENT_DTYPE
from bitnet_trace.recording.schema import (
    COUNTER_DTYPE,
    LOG_NAMES,
    META_NAME,
    META_TEMPORARY_NAME,
    PERF_DTYPE,
    SAMPLE_ROW_DTYPE,
    SCHEMA_VERSION,
    SCHEMAS,
    STACK_ROW_DTYPE,
    STREAM_NAMES,
)

# Arrow columnar format, "IPC Streaming Format": continuation marker and a metadata length of zero.
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_REPLACEABLE = {META_NAME, META_TEMPORARY_NAME, *LOG_NAMES, *(name + STREAM_SUFFIX for name in STREAM_NAMES)}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Row = Mapping[str, Any]
# gets what a recording gets: the name of a stream and an array, or a list of rows
Sink = Callable[[str, Any], None]
_COLUMNS = {name: [(field.name, field.type) for field in schema] for name, schema in SCHEMAS.items()}


class Writer:
    """One recording while it is made. Not thread-safe.

    `path` becomes a new folder (mode 0700, files 0600, given to `owner` = (uid, gid) where that is set); it must not
    exist, unless `force` is set and it is a recording, which is then replaced. `meta` is what is known at the start.
    `sinks` get all that is appended, in the order in which it is.
    All methods raise TraceError where the disk or a permission says no; what was written before stays readable.
    """

    keeps = True  # what is appended
    takes_waits = True  # samples of threads that have waited, too

    def __init__(
        self,
        path: str | os.PathLike[str],
        meta: Mapping[str, Any],
        force: bool = False,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self.path = Path(path)
        self.sinks: list[Sink] = []
        self._owner = owner
        self._streams: dict[str, _Stream] = {}
        with _explained(self.path, f"mkdir -p {self.path.parent}"):
            self._parent = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folder = -1
        self._meta: dict[str, Any] = {"schema": SCHEMA_VERSION, **meta, "complete": False}
        try:
            self._folder = _create_folder(self._parent, self.path, force, owner)
            self._write_meta()
        except BaseException:
            if self._folder >= 0:
                self.discard()
            else:
                os.close(self._parent)
            raise

    @property
    def folder(self) -> int:
        """The recording's folder, open: also where another one has its name by now."""
        return self._folder

    @property
    def meta(self) -> dict[str, Any]:
        """What meta.json holds now."""
        return dict(self._meta)

    def events(self, batch: npt.NDArray[np.void]) -> None:
        """Appends events, an EVENT_DTYPE array."""
        self._append_array("events", batch, EVENT_DTYPE)

    def counters(self, array: npt.NDArray[np.void]) -> None:
        """Appends counters since the last call: a structured array of tid, phase and all of layout.COUNTER_FIELDS."""
        self._append_array("counters", array, COUNTER_DTYPE)

    def phases(self, rows: Iterable[Row]) -> None:
        """Appends rows of `PhaseLog.fold`; a later row of the same id replaces an earlier one."""
        self._append_rows("phases", rows)

    def threads(self, rows: Iterable[Row]) -> None:
        """Appends rows: tid, pid, comm, parent_tid, start_ns, end_ns or None, exit_code or None.

        A later row of the same tid and start_ns replaces an earlier one.
        """
        self._append_rows("threads", rows)

    def maps(self, rows: Iterable[Row]) -> None:
        """Appends file mappings: pid, ts_ns, address, length (bytes), offset, device, inode, path."""
        self._append_rows("maps", rows)

    def areas(self, rows: Iterable[Row]) -> None:
        """Appends what address spaces hold: schema.AREA_SCHEMA."""
        self._append_rows("areas", rows)

    def residency(self, rows: Iterable[Row]) -> None:
        """Appends what was resident: schema.RESIDENCY_SCHEMA."""
        self._append_rows("residency", rows)

    def tensors(self, rows: Iterable[Row]) -> None:
        """Appends tensors of model files: schema.TENSOR_SCHEMA."""
        self._append_rows("tensors", rows)

    def taskstats(self, rows: Iterable[Row]) -> None:
        """Appends the kernel's own accounting of threads: schema.TASKSTATS_SCHEMA, None for what is missing."""
        self._append_rows("taskstats", rows)

    def samples(self, samples: npt.NDArray[np.void], stacks: npt.NDArray[np.void]) -> None:
        """Appends samples (schema.SAMPLE_ROW_DTYPE) and the stacks that are new with them (STACK_ROW_DTYPE)."""
        self._append_array("stacks", stacks, STACK_ROW_DTYPE)
        self._append_array("samples", samples, SAMPLE_ROW_DTYPE)

    def symbols(self, rows: Iterable[Row]) -> None:
        """Appends what addresses mean: schema.SYMBOL_SCHEMA, None for what is not known."""
        self._append_rows("symbols", rows)

    def windows(self, rows: Iterable[Row]) -> None:
        """Appends windows in which costly probes were on: schema.WINDOW_SCHEMA."""
        self._append_rows("windows", rows)

    def calls(self, rows: Iterable[Row]) -> None:
        """Appends calls that were counted in windows: schema.CALL_SCHEMA."""
        self._append_rows("calls", rows)

    def durations(self, rows: Iterable[Row]) -> None:
        """Appends how long calls took in bursts: schema.DURATION_SCHEMA."""
        self._append_rows("durations", rows)

    def scheduling(self, rows: Iterable[Row]) -> None:
        """Appends what threads asked of the scheduler, and had: schema.SCHEDULING_SCHEMA, None for what was not set."""
        self._append_rows("scheduling", rows)

    def numa(self, rows: Iterable[Row]) -> None:
        """Appends on which NUMA nodes memory was: schema.NUMA_SCHEMA."""
        self._append_rows("numa", rows)

    def perf(self, array: npt.NDArray[np.void]) -> None:
        """Appends what perf's counters counted since the last call: schema.PERF_DTYPE."""
        self._append_array("perf", array, PERF_DTYPE)

    def graph_tensors(self, rows: Iterable[Row]) -> None:
        """Appends what tensors of the engine's graph are called: schema.GRAPH_TENSOR_SCHEMA."""
        self._append_rows("graph_tensors", rows)

    def update_meta(self, **values: Any) -> None:
        """Sets keys of meta.json; readers see the old file or the new one, never a part."""
        self._meta.update(values)
        self._write_meta()

    def close(self, exit_status: int | None, cut_short: bool = False) -> None:
        """Ends all streams and marks the recording complete; `exit_status` is as subprocess.returncode has it.

        `cut_short`: it is not complete, for a reason that the caller knows of.
        """
        if self._folder < 0:
            return
        try:
            for stream in self._streams.values():
                stream.close()
            rows = {name: stream.n_rows for name, stream in self._streams.items()}
            checksums = {name: stream.checksum for name, stream in self._streams.items()}
            failed = cut_short or any(stream.failure for stream in self._streams.values())
            self.update_meta(exit_status=exit_status, rows=rows, crc32=checksums, complete=not failed)
        finally:
            self._release()

    def discard(self) -> None:
        """Removes the recording: there was nothing to record. What others have put in its place stays."""
        with contextlib.suppress(OSError, TraceError):
            ours, there = os.fstat(self._folder), os.stat(self.path.name, dir_fd=self._parent, follow_symlinks=False)
            if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                _remove_recording(self._parent, self.path, set())
        self._release()

    def _release(self) -> None:
        for stream in self._streams.values():
            stream.release()
        os.close(self._folder)
        os.close(self._parent)
        self._folder = -1

    def append(self, name: str, rows: npt.NDArray[np.void] | list[Row]) -> None:
        """Appends to the stream `name` what a sink was given for it."""
        if not len(rows):
            return
        self._store(name, rows)
        for sink in self.sinks:
            sink(name, rows)

    def _append_array(self, name: str, array: npt.NDArray[np.void], dtype: np.dtype[np.void]) -> None:
        if array.dtype != dtype:
            ordered = np.empty(len(array), dtype)
            for field in dtype.names or ():
                ordered[field] = array[field]
            array = ordered
        self.append(name, array)

    def _append_rows(self, name: str, rows: Iterable[Row]) -> None:
        self.append(name, list(rows))

    def _store(self, name: str, rows: npt.NDArray[np.void] | list[Row]) -> None:
        if isinstance(rows, np.ndarray):
            columns = [from_numpy(rows[field.name]) for field in SCHEMAS[name]]
        else:
            names = [column for column, _ in _COLUMNS[name]]
            values = zip(*(tuple(map(row.get, names)) for row in rows), strict=True)
            columns = [from_values(column, kind) for column, (_, kind) in zip(values, _COLUMNS[name], strict=True)]
        self._stream(name).append(pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[name]))

    def _stream(self, name: str) -> "_Stream":
        stream = self._streams.get(name)
        if stream is None:
            file_name = name + STREAM_SUFFIX
            with _explained(self.path / file_name):
                descriptor = _create_file(self._folder, file_name, self._owner)
            stream = self._streams[name] = _Stream(descriptor, self.path / file_name, SCHEMAS[name])
        return stream

    def _write_meta(self) -> None:
        text = json.dumps(self._meta, indent=1, ensure_ascii=True, default=str) + "\n"
        with _explained(self.path / META_NAME):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(META_TEMPORARY_NAME, dir_fd=self._folder)
            descriptor = _create_file(self._folder, META_TEMPORARY_NAME, self._owner)
            try:
                _write_all(descriptor, text.encode())
            except OSError:
                os.unlink(META_TEMPORARY_NAME, dir_fd=self._folder)  # a part is of no use, and takes room
                raise
            finally:
                os.close(descriptor)
            os.replace(META_TEMPORARY_NAME, META_NAME, src_dir_fd=self._folder, dst_dir_fd=self._folder)


class _Stream:
    """One Arrow IPC stream; each batch is written whole or not at all."""

    def __init__(self, descriptor: int, path: Path, schema: pa.Schema) -> None:
        self._descriptor = descriptor
        self._path = path
        self._size = 0
        self._schema = schema
        self.n_rows = 0
        self.checksum = 0
        self.failure: TraceError | None = None

    def append(self, batch: pa.RecordBatch) -> None:
        if not self._size:
            self._write(self._schema.serialize())
        self._write(batch.serialize())
        self.n_rows += batch.num_rows

    def close(self) -> None:
        if self.failure is None:
            # A stream without its end is readable too: a full disk is no reason to fail here.
            with contextlib.suppress(TraceError):
                self._write(_END_OF_STREAM)

    def release(self) -> None:
        os.close(self._descriptor)

    def _write(self, data: Any) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            with _explained(self._path):
                _write_all(self._descriptor, data)
        except TraceError as error:
            self.failure = error
            # A part of a batch is no use to a reader, and the disk may need the room for meta.json.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(memoryview(data))
        self.checksum = zlib.crc32(data, self.checksum)


def _write_all(descriptor: int, data: Any) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


_MAKE_ROOM = "make room, or record to another disk with -o; what was recorded so far can be read"


@contextlib.contextmanager
def _explained(path: Path, when_missing: str = "leave the recording's folder where it is") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = {
            errno.ENOSPC: _MAKE_ROOM,
            errno.EDQUOT: _MAKE_ROOM,
            errno.EFBIG: "ulimit -f unlimited, or record with --detail counts; what was recorded so far can be read",
            errno.ENOENT: when_missing,
        }.get(error.errno or 0, "choose another place with -o")
        raise TraceError(f"cannot write {path}: {error.strerror}", hint) from error


def _create_file(folder: int, name: str, owner: tuple[int, int] | None) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    if owner is not None:
        os.fchown(descriptor, *owner)
    return descriptor


def _create_folder(parent: int, path: Path, force: bool, owner: tuple[int, int] | None) -> int:
    """Makes the new folder, in the one that is open as `parent`, and gives its descriptor."""
    with _explained(path):
        try:
            os.mkdir(path.name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not force:
                hint = "choose another name with -o, or replace it with --force"
                raise TraceError(f"{path} exists already", hint) from None
            _remove_recording(parent, path, {META_NAME})
            os.mkdir(path.name, 0o700, dir_fd=parent)
        folder = os.open(path.name, _FOLDER, dir_fd=parent)
        try:
            # In a folder that others may write, the new one could have been swapped for something else.
            if os.fstat(folder).st_uid != os.geteuid() or os.listdir(folder):
                raise TraceError(f"{path} was replaced by something else while it was made", "record to another place")
            if owner is not None:
                os.fchown(folder, *owner)
        except BaseException:
            os.close(folder)
            raise
    return folder


def _remove_recording(parent: int, path: Path, expected: set[str]) -> None:
    """Removes the recording at `path`, which lies in `parent`; refuses to touch anything that a recording does not
    consist of, or a folder without the files that are `expected`."""
    refusal = TraceError(f"{path} is not a recording, so --force does not replace it", "choose another name with -o")
    try:
        folder = os.open(path.name, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise refusal from None
        raise
    try:
        names = set(os.listdir(folder))
        if not expected <= names <= _REPLACEABLE:
            raise refusal
        for name in names:
            if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise refusal
        for name in sorted(names, key=lambda one: one == META_NAME):
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(path.name, dir_fd=parent)

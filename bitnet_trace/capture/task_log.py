"""Folds what happens to threads and address spaces (ring `tasks`) into the rows of `threads` and `maps`."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.capture.mappings import mapped_files
from bitnet_trace.recording.layout import TaskKind

_COMM_LENGTH = 15  # TASK_COMM_LEN without its zero
_ACCOUNTING = (TaskKind.BEFORE, TaskKind.AFTER)
_NOT_OF_THREADS = (
    *_ACCOUNTING,
    *(TaskKind.PTRACED, TaskKind.FILE_NAME, TaskKind.ASKED, TaskKind.SCHEDULED, TaskKind.TENSOR),
)
_MOST_PIECES = 32  # of a path: tell_path() of bpf/file.bpf.c ends there
_LOW_WORD = 0xFFFFFFFF

Row = dict[str, Any]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


class TaskLog:
    """The threads of the target, and the files that they mapped."""

    def __init__(self) -> None:
        self._threads: dict[int, Row] = {}
        self._paths = FilePaths()

    def begin(self, pid: int, tid: int, comm: str, now_ns: int) -> Row:
        """A thread that no fork record tells of."""
        self._threads[tid] = _thread_row(tid, pid, comm, None, now_ns)
        return self._threads[tid]

    @property
    def threads(self) -> Mapping[int, Row]:
        """The last row of each thread, by tid."""
        return self._threads

    @property
    def files(self) -> "FilePaths":
        """The files that were mapped or read."""
        return self._paths

    def fold(self, batch: npt.NDArray[np.void]) -> tuple[list[Row], list[Row]]:
        """(thread rows that are new or changed, rows of file mappings) of a batch of TASK_DTYPE in order of time."""
        changed: dict[int, Row] = {}
        maps = []
        self._paths.fold(batch[batch["kind"] == TaskKind.FILE_NAME])
        mapped: dict[int, dict[int, str]] = {}  # of processes of this batch: inode to path
        for event in batch:
            kind, pid, tid = int(event["kind"]), int(event["pid"]), int(event["tid"])
            if kind in _NOT_OF_THREADS:
                continue
            if kind == TaskKind.MAP_FILE:
                maps.append(self._map_row(event, mapped))
                continue
            row = self._threads.get(tid)
            if kind == TaskKind.FORK or row is None:
                parent = int(event["value"]) if kind == TaskKind.FORK else None
                row = _thread_row(tid, pid, _text(event["text"]), parent, int(event["ts_ns"]))
                self._threads[tid] = row
            if kind == TaskKind.COMM:
                row["comm"] = _text(event["text"])
            elif kind == TaskKind.EXEC and int(event["value"]) != tid:
                # a thread that was not the leader goes on under the leader's number, which had ended
                row["end_ns"] = row["exit_code"] = None
                former = self._threads.get(int(event["value"]))
                if former is not None:
                    former["end_ns"] = int(event["ts_ns"])
                    changed[former["tid"]] = former
            elif kind == TaskKind.EXIT:
                row["end_ns"], row["exit_code"] = int(event["ts_ns"]), int(event["value"])
            changed[tid] = row
        return [dict(row) for row in changed.values()], maps

    def _map_row(self, event: np.void, mapped: dict[int, dict[int, str]]) -> Row:
        device, inode = int(event["device"]), int(event["inode"])
        path = self._paths.known.get((device, inode))
        if path is None:
            # a file of no folder: while the mapping lives its process has a name for it
            pid = int(event["pid"])
            if pid not in mapped:
                mapped[pid] = {file.inode: file.path for file in mapped_files(pid)}
            path = mapped[pid].get(inode)
        return {
            "pid": int(event["pid"]),
            "ts_ns": int(event["ts_ns"]),
            "address": int(event["address"]),
            "length": int(event["length"]),
            "offset": int(event["offset"]),
            "device": device,
            "inode": inode,
            "path": path or _text(event["text"]),
        }


class FilePaths:
    """The paths of files, put together from the pieces that the kernel side tells."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], str] = {}  # by (device, inode), as the kernel has them

    def fold(self, batch: npt.NDArray[np.void]) -> None:
        """Takes records FILE_NAME of TASK_DTYPE; all pieces of a path lie in one batch."""
        pieces: dict[tuple[int, int], dict[int, bytes]] = {}
        for event in batch:
            key = int(event["device"]), int(event["inode"])
            pieces.setdefault(key, {})[int(event["value"])] = bytes(event["text"])
        for key, of_file in pieces.items():
            parts: dict[int, bytes] = {}
            for place in sorted(of_file):
                parts[place >> 8] = parts.get(place >> 8, b"") + of_file[place]
            begin = "/" if len(of_file) < _MOST_PIECES else "…/"
            self.known[key] = begin + "/".join(os.fsdecode(parts[level]) for level in sorted(parts, reverse=True))


def exec_rows(batch: npt.NDArray[np.void]) -> list[Row]:
    """Rows of schema.AREA_SCHEMA: where processes began anew, of the records EXEC in a batch of TASK_DTYPE."""
    nothing = dict.fromkeys(("begin", "end", "offset", "device", "inode", "protection"), 0)
    return [
        {
            **nothing,
            "pid": int(event["pid"]),
            "ts_ns": int(event["ts_ns"]),
            "moment": "exec",
            "path": _text(event["text"]),
        }
        for event in batch[batch["kind"] == TaskKind.EXEC]
    ]


def tensor_rows(batch: npt.NDArray[np.void]) -> list[Row]:
    """Rows of schema.GRAPH_TENSOR_SCHEMA of the records TENSOR in a batch of TASK_DTYPE."""
    return [
        {
            "ts_ns": int(event["ts_ns"]),
            "pid": int(event["pid"]),
            "address": int(event["address"]),
            "name": _text(event["text"].split(b"\0")[0]),  # behind it lies what was there before
        }
        for event in batch[batch["kind"] == TaskKind.TENSOR]
    ]


def accounting_rows(batch: npt.NDArray[np.void]) -> list[Row]:
    """Rows of schema.TASKSTATS_SCHEMA of the records BEFORE and AFTER in a batch of TASK_DTYPE."""
    rows: list[Row] = []
    for event in batch[np.isin(batch["kind"], _ACCOUNTING)]:
        row = {
            "at": TaskKind(int(event["kind"])).name.lower(),
            "tid": int(event["tid"]),
            "pid": int(event["pid"]),
            "nvcsw": int(event["value"]) & _LOW_WORD,
            "nivcsw": int(event["value"]) >> 32,
            "cpu_delay_ns": int(event["length"]),
            "cpu_run_virtual_ns": int(event["offset"]),
        }
        if event["kind"] == TaskKind.BEFORE:
            faults = int(event["address"])
            row.update(min_flt=faults & _LOW_WORD, maj_flt=faults >> 32, cpu_count=int(event["inode"]))
        rows.append(row)
    return rows


def _thread_row(tid: int, pid: int, comm: str, parent: int | None, start_ns: int) -> Row:
    return {
        "tid": tid,
        "pid": pid,
        "comm": comm,
        "parent_tid": parent,
        "start_ns": start_ns,
        "end_ns": None,
        "exit_code": None,
    }

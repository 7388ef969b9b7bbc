"""Folds what happens to threads and address spaces (ring `tasks`) into the rows of `threads` and `maps`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.capture.mappings import mapped_files
from bitnet_trace.recording.layout import TaskKind

_COMM_LENGTH = 15  # TASK_COMM_LEN without its zero
_ACCOUNTING = (TaskKind.BEFORE, TaskKind.AFTER)
_LOW_WORD = 0xFFFFFFFF

Row = dict[str, Any]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


class TaskLog:
    """The threads of the target, and the files that they mapped."""

    def __init__(self) -> None:
        self._threads: dict[int, Row] = {}
        self._paths: dict[tuple[int, int], str] = {}  # (device, inode) to path

    def begin(self, pid: int, comm: str, now_ns: int) -> Row:
        """The first thread, which no fork record tells of."""
        self._threads[pid] = _thread_row(pid, pid, comm, None, now_ns)
        return self._threads[pid]

    @property
    def threads(self) -> Mapping[int, Row]:
        """The last row of each thread, by tid."""
        return self._threads

    def fold(self, batch: npt.NDArray[np.void]) -> tuple[list[Row], list[Row]]:
        """(thread rows that are new or changed, rows of file mappings) of a batch of TASK_DTYPE in order of time."""
        changed: dict[int, Row] = {}
        maps = []
        mapped: dict[int, dict[int, str]] = {}  # of processes of this batch: inode to path
        for event in batch:
            kind, pid, tid = int(event["kind"]), int(event["pid"]), int(event["tid"])
            if kind in _ACCOUNTING or kind == TaskKind.PTRACED:
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
        key = (device, inode)
        if key not in self._paths:
            # the kernel side has the last part of the name only; while the mapping lives its process knows the whole
            pid = int(event["pid"])
            if pid not in mapped:
                mapped[pid] = {file.inode: file.path for file in mapped_files(pid)}
            if inode in mapped[pid]:
                self._paths[key] = mapped[pid][inode]
        return {
            "pid": int(event["pid"]),
            "ts_ns": int(event["ts_ns"]),
            "address": int(event["address"]),
            "length": int(event["length"]),
            "offset": int(event["offset"]),
            "device": device,
            "inode": inode,
            "path": self._paths.get(key, _text(event["text"])),
        }


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

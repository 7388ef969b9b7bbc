"""A flight recorder: keeps the last seconds in memory, and makes a recording of them when it is asked to."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.recording.layout import PhaseEnd
from bitnet_trace.recording.schema import MOST_KNOWN
from bitnet_trace.recording.unrecorded import Unrecorded
from bitnet_trace.recording.writer import Row, Writer

# what is kept whole: it says what the rest refers to
_KEPT = ("maps", "areas", "scheduling", "taskstats")
_MOST_KEPT = 50_000  # rows of each of these, the newest
_MOST_BYTES = 1 << 29  # of events and samples
_TIMED = ("events", "samples", "windows", "calls", "durations", "residency")

Batch = npt.NDArray[np.void] | list[Row]


class FlightRecorder(Unrecorded):
    """A writer of which only the last `seconds` are kept."""

    takes_waits = True

    def __init__(self, meta: Mapping[str, Any], seconds: float) -> None:
        super().__init__(meta)
        self._length_ns = round(seconds * 1e9)
        self._batches: deque[tuple[int, int, str, Batch]] = deque()  # when, bytes, stream, rows
        self._bytes = 0
        self._newest_ns = 0
        self._threads: dict[tuple[int, int], Row] = {}
        self._phases: dict[int, Row] = {}
        self._rows: dict[str, deque[Row]] = {name: deque(maxlen=_MOST_KEPT) for name in _KEPT}
        self._stacks: dict[int, npt.NDArray[np.void]] = {}

    @property
    def addresses(self) -> dict[int, set[int]]:
        """By process those of the stacks that are kept."""
        found: dict[int, set[int]] = {}
        for frames in self._stacks.values():
            found.setdefault(int(frames["pid"][0]), set()).update(frames["address"].tolist())
        return found

    def write(self, path: Path, owner: tuple[int, int] | None, meta: Mapping[str, Any]) -> Writer:
        """Makes a recording of what is kept; its symbols and its end are the caller's. Raises TraceError."""
        begin_ns = self._newest_ns - self._length_ns
        phases = [row for row in self._phases.values() if row["end_ns"] is None or row["end_ns"] > begin_ns]
        begin_ns = max(begin_ns, int(self._meta.get("start_ns", 0)))
        started = {**self._meta, **meta, "start_ns": begin_ns, "wall_ns": self._newest_ns - begin_ns}
        writer = Writer(path, started, owner=owner)
        for name, rows in self._rows.items():
            writer.append(name, list(rows))
        writer.append("threads", list(self._threads.values()))
        writer.append("phases", [*_before(phases, begin_ns), *phases])
        if self._stacks:
            writer.append("stacks", np.concatenate(list(self._stacks.values())))
        for _, _, name, batch in self._batches:
            writer.append(name, batch)
        return writer

    def _store(self, name: str, rows: Batch) -> None:
        if name == "phases":
            self._phases.update({int(row["id"]): row for row in rows})
        elif name == "threads":
            self._threads.update({(int(row["tid"]), int(row["start_ns"] or 0)): row for row in rows})
        elif name in self._rows:
            self._rows[name].extend(rows)
        elif name == "stacks" and isinstance(rows, np.ndarray):
            for stack in np.unique(rows["stack"]).tolist():
                self._stacks[stack] = rows[rows["stack"] == stack]
        elif name in _TIMED:
            self._keep(name, rows)

    def _keep(self, name: str, rows: Batch) -> None:
        key = dict.fromkeys(("windows", "calls", "durations"), "end_ns").get(name, "ts_ns")
        newest = int(rows[key].max()) if isinstance(rows, np.ndarray) else max(int(row[key]) for row in rows)
        size = rows.nbytes if isinstance(rows, np.ndarray) else 0
        self._batches.append((newest, size, name, rows))
        self._bytes += size
        self._newest_ns = max(self._newest_ns, newest)
        self._drop()

    def _drop(self) -> None:
        """What is too old, or too much."""
        begin_ns = self._newest_ns - self._length_ns
        dropped = False
        while self._batches and (self._batches[0][0] < begin_ns or self._bytes > _MOST_BYTES):
            self._bytes -= self._batches.popleft()[1]
            dropped = True
        if not dropped:
            return
        self._phases = {
            number: row for number, row in self._phases.items() if row["end_ns"] is None or row["end_ns"] > begin_ns
        }
        self._threads = {
            key: row for key, row in self._threads.items() if row["end_ns"] is None or row["end_ns"] > begin_ns
        }
        used = [batch["stack"] for _, _, name, batch in self._batches if name == "samples"]  # type: ignore[call-overload]
        known = set(np.unique(np.concatenate(used)).tolist()) if used else set()
        told_still = max(self._stacks, default=0) - MOST_KNOWN  # a stack is told once, until so many others were
        self._stacks = {stack: frames for stack, frames in self._stacks.items() if stack in known or stack > told_still}


def _before(phases: list[Row], begin_ns: int) -> list[Row]:
    """A row for each process: what was before is not known, as of one that was attached to."""
    first: dict[int, Row] = {}
    for row in phases:
        if row["pid"] not in first or row["begin_ns"] < first[row["pid"]]["begin_ns"]:
            first[row["pid"]] = row
    taken = {int(row["id"]) for row in phases}
    number = 0
    rows: list[Row] = []
    for row in first.values():
        number = next(free for free in range(number + 1, len(taken) + len(first) + number + 2) if free not in taken)
        times = {"begin_ns": min(begin_ns, row["begin_ns"]), "end_ns": row["begin_ns"], "end_kind": int(PhaseEnd.GAP)}
        nothing = {"n_tokens": None, "n_sampled": 0, "n_logits": 0, "context": 0}
        flags = dict.fromkeys(("warmup", "before_reset", "overlapped"), False)
        rows.append({**row, **times, **nothing, **flags, "id": number, "role": "attached"})
    return rows

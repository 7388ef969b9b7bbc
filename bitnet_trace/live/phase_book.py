"""The phases of a run that goes on: the newest may be corrected still, older ones are settled and take little room."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis.phases import (
    PHASE_NAMES,
    UNKNOWN,
    Earlier,
    Timeline,
    names_of_process,
    newest_open,
    phase_of_row,
)
from bitnet_trace.analysis.split import PhaseEdges

NAMES = (*PHASE_NAMES, UNKNOWN)
_CODES = {name: code for code, name in enumerate(NAMES)}
_FOREVER = int(np.iinfo(np.int64).max)
_OPEN_PHASES = 256  # of a process, that are kept open to correction; twice as many of all that have ended together
_MOST_OPEN = 2048  # of a process: an end that never came keeps no more from being settled
_EDGES = 1 << 14  # of a process, that are remembered: what was under way longer is billed to the oldest

Row = dict[str, Any]


class _Settled:
    """What is left of the settled phases of a process: when each began, and its name."""

    def __init__(self) -> None:
        self.begin_ns, self.phase = np.empty(0, np.int64), np.empty(0, np.uint32)  # segments, as in a Timeline
        self.ids, self.codes = np.empty(0, np.uint32), np.empty(0, np.int8)
        self.earlier = Earlier()

    def add(self, line: Timeline, ids: npt.NDArray[np.uint32], codes: npt.NDArray[np.int8], earlier: Earlier) -> None:
        self.begin_ns = np.append(self.begin_ns, line.begin_ns)[-_EDGES:]
        self.phase = np.append(self.phase, line.phase)[-_EDGES:]
        self.ids, self.codes = np.append(self.ids, ids)[-_EDGES:], np.append(self.codes, codes)[-_EDGES:]
        self.earlier = earlier


class PhaseBook:
    """Phases by process. `take` gets rows of schema.PHASE_SCHEMA, of which the last with one id counts."""

    def __init__(self) -> None:
        self._open: dict[int, dict[int, Row]] = {}  # by process and id
        self._settled: dict[int, _Settled] = {}
        self._names: list[Row] | None = None  # what named() gave, until something changes
        self._ended: dict[int, None] = {}  # processes that have ended, in that order
        self.newest = 0

    def take(self, rows: list[Mapping[str, Any]]) -> None:
        for row in rows:
            pid = int(row["pid"])
            settled = self._settled.get(pid)
            if settled is not None and len(settled.ids) and row["id"] <= settled.ids[-1]:
                continue  # a correction that came too late
            self._open.setdefault(pid, {})[int(row["id"])] = dict(row)
            self._names = None
            self.newest = max(self.newest, int(row["id"]))

    def ended(self, pid: int) -> None:
        """This process has ended; its number may be given to another one."""
        self._ended[pid] = None

    def begun(self, pid: int) -> None:
        """This process lives."""
        self._ended.pop(pid, None)

    @property
    def over(self) -> list[int]:
        """Processes that have ended, and whose phases are all settled."""
        return [pid for pid in self._ended if pid not in self._open]

    def forget(self, pid: int) -> None:
        """Nothing comes of that process any more."""
        self._ended.pop(pid, None)
        self._settled.pop(pid, None)

    def is_open(self, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Of each phase whether it is open to correction."""
        return np.isin(ids, np.array([number for rows in self._open.values() for number in rows], np.uint32))

    def named(self) -> list[Row]:
        """The phases that are open to correction, in order of begin, with `name` and `token`."""
        if self._names is None:
            self._names = [row for pid in self._open for row in self._named(pid)]
        return self._names

    def settle(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int8], list[Row]]:
        """Settles old phases: their ids in ascending order, codes of their names (NAMES), and their rows."""
        done: list[Row] = []
        for pid, rows in self._open.items():
            if len(rows) > 2 * _OPEN_PHASES:
                done += self._settle(pid, _OPEN_PHASES)
        n_ended = sum(len(self._open.get(pid, ())) for pid in self._ended)
        for pid in self._ended:
            if n_ended <= 2 * _OPEN_PHASES:
                break
            n_ended -= len(self._open.get(pid, ()))
            done += self._settle(pid, 0)
        if done:
            self._open = {pid: rows for pid, rows in self._open.items() if rows}
            self._names = None
        done.sort(key=lambda row: int(row["id"]))
        ids = np.array([row["id"] for row in done], np.uint32)
        return ids, np.array([_CODES[row["name"]] for row in done], np.int8), done

    def edges(self) -> PhaseEdges:
        """For the splitting of durations."""
        lines: dict[int, Timeline] = {}
        ids: list[npt.NDArray[np.uint32]] = []
        pids: list[npt.NDArray[np.int64]] = []
        begins_ns: list[npt.NDArray[np.int64]] = []
        for pid in {*self._open, *self._settled}:
            settled = self._settled.get(pid) or _Settled()
            line = _line(self._in_order(pid))
            begin_ns, phase = np.append(settled.begin_ns, line.begin_ns), np.append(settled.phase, line.phase)
            own_ids, first = np.unique(phase, return_index=True)
            ids.append(own_ids)
            pids.append(np.full(len(own_ids), pid, np.int64))
            begins_ns.append(begin_ns[first])
            if len(begin_ns):
                begin_ns[0] = np.iinfo(np.int64).min
                lines[pid] = Timeline(begin_ns, phase)
        if not ids:
            return PhaseEdges({}, np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.int64))
        all_ids = np.concatenate(ids)
        order = np.argsort(all_ids)
        return PhaseEdges(lines, all_ids[order], np.concatenate(pids)[order], np.concatenate(begins_ns)[order])

    def codes_of(self, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.int8]:
        """Of settled phases the code of their name; -1 of others."""
        codes = np.full(len(ids), -1, np.int8)
        for settled in self._settled.values():
            if len(settled.ids):
                place = np.minimum(np.searchsorted(settled.ids, ids), len(settled.ids) - 1)
                known = settled.ids[place] == ids
                codes[known] = settled.codes[place[known]]
        return codes

    def _in_order(self, pid: int) -> list[Row]:
        return sorted(self._open.get(pid, {}).values(), key=lambda row: (row["begin_ns"], row["id"]))

    def _named(self, pid: int) -> list[Row]:
        rows = self._in_order(pid)
        settled = self._settled.get(pid)
        names, tokens = names_of_process([phase_of_row(row) for row in rows], settled.earlier if settled else None)
        for row, name, token in zip(rows, names, tokens, strict=True):
            row["name"], row["token"] = name, token
        return rows

    def _settle(self, pid: int, keep: int) -> list[Row]:
        """All but the newest `keep`, from the oldest to the first that has not ended."""
        rows = self._named(pid)
        n = max(len(rows) - keep, 0)
        if keep and len(rows) <= _MOST_OPEN:
            n = next((place for place, row in enumerate(rows[:n]) if row["end_ns"] is None), n)
        for row, later in zip(rows[:n], rows[1:] + rows[-1:], strict=False):
            if row["end_ns"] is None:  # its end was lost
                row["end_ns"] = later["begin_ns"]
        rows = rows[:n]
        if not rows:
            return []
        settled = self._settled.setdefault(pid, _Settled())
        earlier = settled.earlier.after([phase_of_row(row) for row in rows], [row["name"] for row in rows])
        by_id = sorted(rows, key=lambda row: int(row["id"]))
        ids = np.array([row["id"] for row in by_id], np.uint32)
        settled.add(_line(rows), ids, np.array([_CODES[row["name"]] for row in by_id], np.int8), earlier)
        for row in rows:
            del self._open[pid][int(row["id"])]
        return rows


def _line(rows: list[Row]) -> Timeline:
    """The timeline of phases in order of begin, from the first one's begin on."""
    ids = np.array([row["id"] for row in rows], np.uint32)
    begin_ns = np.array([row["begin_ns"] for row in rows], np.int64)
    if not any(row["overlapped"] for row in rows):
        return Timeline(begin_ns, ids)
    end_ns = np.array([_FOREVER if row["end_ns"] is None else row["end_ns"] for row in rows], np.int64)
    return Timeline(*newest_open(ids, begin_ns, end_ns))

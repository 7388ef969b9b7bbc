"""Folds the kernel's phase records into phase rows, one per phase.

The kernel numbers the phases and says when they begin and end; what belongs together (a mark and the call
before it, a call that was never seen to return and the next one) is put together here.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.recording.layout import Kind, PhaseEnd, Role

CALL_ROLES = frozenset({"load", "init", "decode", "teardown"})
BETWEEN_CALLS = frozenset({"gap", "idle"})
_LOW_WORD = 0xFFFFFFFF
_ROLE_NAMES = {int(role): role.name.lower() for role in Role}
# plain numbers: members of an enum are slow to look up, and this is done while the traced program waits for its CPU
_BEGIN, _END, _TOKENS, _MARK = map(int, (Kind.PHASE_BEGIN, Kind.PHASE_END, Kind.PHASE_TOKENS, Kind.PHASE_MARK))
_SAMPLE, _LOGITS, _WARMUP = int(Role.SAMPLE), int(Role.LOGITS), int(Role.WARMUP)
_PERF_RESET, _CLEAR = int(Role.PERF_RESET), int(Role.CLEAR)
_END_GAP, _END_NEXT = int(PhaseEnd.GAP), int(PhaseEnd.NEXT)


@dataclass
class _Row:
    id: int
    pid: int
    tid: int
    context: int
    role: str
    begin_ns: int
    end_ns: int | None = None
    end_kind: int | None = None
    n_tokens: int | None = None
    n_sampled: int = 0
    n_logits: int = 0
    warmup: bool = False
    before_reset: bool = False
    overlapped: bool = False

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class _Process:
    """What has to be remembered of one process between records."""

    open: dict[int, _Row] = field(default_factory=dict)
    # Closed by the latest begin because no end was seen; the end may still be on its way from another CPU.
    supposed_closed: dict[int, _Row] = field(default_factory=dict)
    last_decode: _Row | None = None
    # Decode calls since the last sampling or logits read: a reset of the engine's counters makes them warm-up.
    unmarked: list[_Row] = field(default_factory=list)
    # Open decode calls whose tokens are not known at entry: they are added up from the micro-batches.
    counts_ubatches: set[int] = field(default_factory=set)
    warmup: bool = False
    # A clear has told of a trial since the last init or reset. llama-bench, which never samples, clears before each
    # repeat too; its first run is the trial.
    had_trial: bool = False


class PhaseLog:
    """The phases of all processes of one recording, as far as their records were folded."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._changed: dict[int, _Row] = {}

    def fold(self, batch: npt.NDArray[np.void]) -> list[dict[str, Any]]:
        """The rows that are new or changed by `batch`, an EVENT_DTYPE array of PHASE_* records in time order.

        A row has the fields of `schema.PHASE_SCHEMA`. Times are CLOCK_MONOTONIC ns; `end_ns` and `end_kind` are None
        while the phase is open, `n_tokens` is None where it is unknown or means nothing. The rows are copies, in the
        order of their first change in this batch. Records of other kinds are passed over.
        """
        self._changed = {}
        for ts_ns, tid, phase, kind, _cpu, arg0, arg1, arg2 in batch.tolist():
            pid, n_tokens = arg2 >> 32, arg2 & _LOW_WORD
            process = self._processes.get(pid) or self._processes.setdefault(pid, _Process())
            if kind == _BEGIN:
                role = _ROLE_NAMES.get(arg0, f"role_{arg0}")
                self._begin(process, _Row(phase, pid, tid, arg1, role, ts_ns, n_tokens=n_tokens or None))
            elif kind == _END:
                self._end(process, phase, ts_ns, arg0)
            elif kind == _TOKENS:
                self._add_tokens(process, phase, tid, n_tokens)
            elif kind == _MARK:
                self._mark(process, arg0, arg1)
        return [row.as_dict() for row in self._changed.values()]

    def _begin(self, process: _Process, row: _Row) -> None:
        process.supposed_closed = {}
        for other in list(process.open.values()):
            # A process is in one phase at a time; only calls of different threads may overlap.
            if other.tid == row.tid or other.role not in CALL_ROLES or row.role == "startup":
                end_kind = _END_GAP if other.role in BETWEEN_CALLS else _END_NEXT
                self._close(process, other, row.begin_ns, end_kind)
                process.supposed_closed[other.id] = other
            elif row.role in CALL_ROLES:
                row.overlapped = other.overlapped = True
                self._changed[other.id] = other
        process.open[row.id] = row
        self._changed[row.id] = row
        if row.role == "init":  # what another context decoded is not in this one
            process.had_trial, process.unmarked = False, []
        if row.role == "decode":
            row.warmup = process.warmup
            process.last_decode = row
            process.unmarked.append(row)
            if row.n_tokens is None:
                process.counts_ubatches.add(row.id)
        else:
            row.n_tokens = None

    def _end(self, process: _Process, phase: int, ts_ns: int, end_kind: int) -> None:
        row = process.open.get(phase) or process.supposed_closed.pop(phase, None)
        if row is not None and row.role in CALL_ROLES and end_kind == _END_GAP:
            return  # of two threads that left one gap at the same time the slower named the other's call
        if row is not None:
            self._close(process, row, ts_ns, end_kind)

    def _close(self, process: _Process, row: _Row, ts_ns: int, end_kind: int) -> None:
        process.open.pop(row.id, None)
        process.counts_ubatches.discard(row.id)
        row.end_ns, row.end_kind = ts_ns, end_kind
        self._changed[row.id] = row

    def _add_tokens(self, process: _Process, phase: int, tid: int, n_tokens: int) -> None:
        row = process.open.get(phase)
        if row is None or row.role != "decode":
            own = [other for other in process.open.values() if other.tid == tid and other.role == "decode"]
            row = own[-1] if own else None
        if row is not None and row.id in process.counts_ubatches:
            row.n_tokens = (row.n_tokens or 0) + n_tokens
            self._changed[row.id] = row

    def _mark(self, process: _Process, role: int, argument: int) -> None:
        if role == _WARMUP:
            process.warmup = bool(argument & 1)
        elif role in (_PERF_RESET, _CLEAR):
            thrown_away = [] if role == _CLEAR and process.had_trial else process.unmarked
            for row in thrown_away:
                row.before_reset = True
                self._changed[row.id] = row
            process.had_trial = role == _CLEAR and (process.had_trial or bool(thrown_away))
            process.unmarked = []
        elif role in (_SAMPLE, _LOGITS):
            process.unmarked = []
            row_before = process.last_decode
            if row_before is None:
                return
            if role == _SAMPLE:
                row_before.n_sampled += 1
            else:
                row_before.n_logits += 1
            self._changed[row_before.id] = row_before

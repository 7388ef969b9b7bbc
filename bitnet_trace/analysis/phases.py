"""Names phases, and says which phase a process was in at any time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.recording.layout import PhaseEnd
from bitnet_trace.recording.phase_log import BETWEEN_CALLS, CALL_ROLES

PHASE_NAMES = ("startup", "load", "init", "warmup", "prefill", "decode", "sample", "idle", "teardown")
UNKNOWN = "unknown"
ATTACHED = "attached"  # the role of a process that ran before the tracer came, until its next call
# Before the first call and after the last, a sleep shorter than this is part of the work there (a lock, a thread
# that is joined); a longer one is a server that waits for requests.
IDLE_MIN_NS = 1_000_000_000

_FOREVER = int(np.iinfo(np.int64).max)


def name_phases(phases: pd.DataFrame) -> pd.DataFrame:
    """`phases` (columns of schema.PHASE_SCHEMA) with `name` and `token`, in order of begin.

    `name` is one of PHASE_NAMES, or UNKNOWN for a role that this version does not know. `token` counts the decode
    calls of a context from 1; it is missing elsewhere. The rules are those of docs/architecture.md, "Phases".
    """
    ordered = phases.sort_values(["begin_ns", "id"], kind="stable").reset_index(drop=True)
    names = np.full(len(ordered), UNKNOWN, dtype=object)
    tokens = np.zeros(len(ordered), dtype=np.int64)
    rows = _rows(ordered)
    for _, positions in groups(ordered["pid"].to_numpy(dtype=np.int64)):
        named, numbered = names_of_process([rows[position] for position in positions.tolist()])
        names[positions] = named
        tokens[positions] = [token or 0 for token in numbered]
    token = pd.arrays.IntegerArray(tokens, tokens == 0)
    return ordered.assign(name=pd.array(names, dtype="string"), token=token)


def names_of(ids: npt.NDArray[np.int64], phases: pd.DataFrame) -> npt.NDArray[np.object_]:
    """The name of each phase by its id, UNKNOWN where `phases`, named, does not have it."""
    known = phases.drop_duplicates("id", keep="last").sort_values("id")
    of_known = known["id"].to_numpy(dtype=np.int64)
    place = np.minimum(np.searchsorted(of_known, ids), len(of_known))
    found = place < len(of_known)
    found[found] = of_known[place[found]] == ids[found]
    names = np.append(known["name"].to_numpy(dtype=object), UNKNOWN)
    return names[np.where(found, place, len(of_known))]


def groups(values: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each different value, in ascending order, with its positions: one sort, however many there are."""
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    first = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1])[: len(order)])
    edges = np.append(first, len(order)).tolist()
    for value, begin, end in zip(in_order[first].tolist(), edges, edges[1:], strict=False):
        yield value, order[begin:end]


def runs(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """The values that differ from the one before them, and how often each comes in a row: what is looked up for the
    first is repeated so often."""
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    return values[first], np.diff(np.append(first, len(values)))


class _Phase(NamedTuple):
    role: str
    context: int
    dur_ns: int | None
    exited: bool
    n_tokens: int | None
    n_marks: int
    is_warmup: bool


def _rows(phases: pd.DataFrame) -> list[_Phase]:
    columns = (
        phases["role"],
        phases["context"].fillna(0),
        phases["end_ns"] - phases["begin_ns"],
        (phases["end_kind"] == int(PhaseEnd.EXIT)).fillna(False),
        phases["n_tokens"],
        phases["n_sampled"] + phases["n_logits"],
        phases["warmup"].astype(bool) | phases["before_reset"].astype(bool),
    )
    values = (column.astype(object).where(column.notna(), None).tolist() for column in columns)
    return list(map(_Phase._make, zip(*values, strict=True)))


@dataclass
class Earlier:
    """What has to be known of the phases of a process to name those that follow."""

    contexts: dict[int, tuple[bool, int]] = field(default_factory=dict)  # by context: was prefilled, decoded tokens
    attached: bool = False
    last: _Phase | None = None
    call: _Phase | None = None  # the last
    decoded: bool = False

    def after(self, rows: list[_Phase], names: list[str]) -> "Earlier":
        """The same when `rows` have come with these names."""
        calls = [row for row in rows if row.role in CALL_ROLES]
        contexts = dict(self.contexts)
        for row, name in zip(rows, names, strict=True):
            prefilled, n_decoded = contexts.get(row.context, (False, 0))
            if name == "prefill":
                contexts[row.context] = prefilled or row.n_marks > 0, n_decoded
            elif name == "decode":
                contexts[row.context] = True, n_decoded + 1
        return Earlier(
            contexts=contexts,
            attached=self.attached or any(row.role == ATTACHED for row in rows),
            last=rows[-1] if rows else self.last,
            call=calls[-1] if calls else self.call,
            decoded=self.decoded or any(row.role == "decode" for row in calls),
        )


def phase_of_row(row: Mapping[str, Any]) -> _Phase:
    """Of a row of PhaseLog: what its name depends on."""
    end_ns = row["end_ns"]
    return _Phase(
        role=row["role"],
        context=row["context"] or 0,
        dur_ns=None if end_ns is None else end_ns - row["begin_ns"],
        exited=row["end_kind"] == PhaseEnd.EXIT,
        n_tokens=row["n_tokens"],
        n_marks=row["n_sampled"] + row["n_logits"],
        is_warmup=row["warmup"] or row["before_reset"],
    )


def names_of_process(rows: list[_Phase], earlier: Earlier | None = None) -> tuple[list[str], list[int | None]]:
    """Names and token numbers of the phases of one process, in order of begin; `earlier`: of those before them."""
    earlier = earlier or Earlier()
    names = [row.role if row.role in PHASE_NAMES else UNKNOWN for row in rows]
    tokens: list[int | None] = [None] * len(rows)
    calls: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        if row.role == "decode":
            calls.setdefault(row.context, []).append(index)
    for indices in calls.values():
        _name_decode_calls(rows, indices, names, tokens, earlier)
    _name_between_calls(rows, names, earlier)
    return names, tokens


def _name_decode_calls(
    rows: list[_Phase], indices: list[int], names: list[str], tokens: list[int | None], earlier: Earlier
) -> None:
    # of a process that ran before the tracer came it is not known what the context has in it
    is_attached = earlier.attached or (bool(rows) and rows[0].role == ATTACHED)
    prefilled, n_decoded = earlier.contexts.get(rows[indices[0]].context, (is_attached, 0))
    for index, next_index in zip(indices, [*indices[1:], None], strict=True):
        row = rows[index]
        if row.is_warmup:
            names[index] = "warmup"
            continue
        is_piece = row.n_marks == 0 and next_index is not None
        before = rows[index - 1] if index > 0 else earlier.last
        after_idle = before is not None and before.role in ("idle", ATTACHED)
        is_new_prompt = after_idle and row.n_tokens is not None and row.n_tokens > max(row.n_marks, 1)
        if not prefilled or is_piece or is_new_prompt:
            names[index] = "prefill"
            prefilled = prefilled or row.n_marks > 0
        else:
            names[index] = "decode"
            n_decoded += 1
            tokens[index] = n_decoded


def _name_between_calls(rows: list[_Phase], names: list[str], earlier: Earlier) -> None:
    calls = [index for index, row in enumerate(rows) if row.role in CALL_ROLES]
    if not calls and earlier.call is None:
        return
    working = [index for index in calls if rows[index].role != "teardown"]
    last_working = working[-1] if working else -1
    decodes = [index for index in calls if rows[index].role == "decode"]
    has_decoded = earlier.decoded or bool(decodes)
    first_decode = -1 if earlier.decoded else decodes[0] if decodes else len(rows)
    process_ended = any(row.exited for row in rows[last_working + 1 :]) or (bool(calls) and calls[-1] > last_working)
    before = earlier.call
    for index, row in enumerate(rows):
        if row.role in CALL_ROLES:
            before = row
            continue
        if before is None or row.role not in BETWEEN_CALLS:
            continue
        short = row.dur_ns is not None and row.dur_ns < IDLE_MIN_NS
        if row.role == "idle" and not short:
            continue
        if before.role == "teardown" or (has_decoded and index > last_working and process_ended):
            names[index] = "teardown"
        elif before.role in ("load", "init") and index < first_decode:
            names[index] = "init"
        elif before.role in ("load", "init"):
            names[index] = "init" if row.role == "gap" else "idle"
        elif row.role == "gap":
            names[index] = "sample" if before.n_marks else "idle"


@dataclass(frozen=True)
class Timeline:
    """The phase that one process was in: `phase[i]` from `begin_ns[i]` to `begin_ns[i + 1]`.

    Covers all time: the first phase reaches back and the last one on. Where calls of several threads overlap it is
    the newest that is open, so a phase may have several segments.
    """

    begin_ns: npt.NDArray[np.int64]
    phase: npt.NDArray[np.uint32]

    @property
    def end_ns(self) -> npt.NDArray[np.int64]:
        """The end of each segment; the last one's is the largest int64."""
        return np.append(self.begin_ns[1:], _FOREVER)


def timelines(phases: pd.DataFrame) -> dict[int, Timeline]:
    """pid to the timeline of that process."""
    ordered = phases.sort_values(["begin_ns", "id"], kind="stable")
    ids, begins_ns = ordered["id"].to_numpy(dtype=np.uint32), ordered["begin_ns"].to_numpy(dtype=np.int64)
    ends_ns: npt.NDArray[np.int64] = ordered["end_ns"].fillna(_FOREVER).to_numpy(dtype=np.int64)
    overlapped = ordered["overlapped"].to_numpy(dtype=bool)
    result = {}
    for pid, own in groups(ordered["pid"].to_numpy(dtype=np.int64)):
        if overlapped[own].any():
            begin_ns, phase = newest_open(ids[own], begins_ns[own], ends_ns[own])
        else:
            begin_ns, phase = begins_ns[own], ids[own]
        begin_ns[0] = np.iinfo(np.int64).min
        result[pid] = Timeline(begin_ns, phase)
    return result


def newest_open(
    ids: npt.NDArray[np.uint32], begin_ns: npt.NDArray[np.int64], end_ns: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    segments = list(_segments(ids.tolist(), begin_ns.tolist(), end_ns.tolist()))
    edges_ns = np.array([begin for begin, _ in segments], dtype=np.int64)
    return edges_ns, np.array([phase for _, phase in segments], dtype=np.uint32)


def _segments(ids: list[int], begins_ns: list[int], ends_ns: list[int]) -> Iterator[tuple[int, int]]:
    """(begin, phase) whenever the newest open phase of the process becomes another one."""
    edges: list[tuple[int, int, int]] = []
    for phase, begin_ns, end_ns in zip(ids, begins_ns, ends_ns, strict=True):
        edges.append((begin_ns, 1, phase))
        if end_ns != _FOREVER:
            edges.append((max(end_ns, begin_ns), 0, phase))
    edges.sort()
    open_phases: dict[int, None] = {}
    current = None
    for ts_ns, is_begin, phase in edges:
        if is_begin:
            open_phases[phase] = None
        else:
            open_phases.pop(phase, None)
        newest = next(reversed(open_phases), None)
        if newest is not None and newest != current:
            yield ts_ns, newest
            current = newest

"""The tabs of the live view: each a table of a frame, as text and as values to sort by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bitnet_trace.columns import COUNTERS, PARTS, PLACE_SUMS, Column
from bitnet_trace.live.model import Frame
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, amount, cell, duration

_TEXT = 40
_TEXTS = {"text"}
_GROUPS = {
    "Phases": ("time",),
    "Memory": ("memory",),
    "Scheduling": ("scheduling",),
    "I/O": ("calls",),
}
_PLACE_COLUMNS = {column.key: column for column in PLACE_SUMS}
# short, for a narrow screen
_PLACE_TITLES = {
    "faults_minor": "minor",
    "faults_major": "major",
    "faults_kernel": "kernel",
    "fault_ns": "time",
    "faults_populate": "populate",
    "populated_bytes": "populated",
    "read_bytes": "read",
}


@dataclass(frozen=True)
class Table:
    """`cells[i][n]` is the text and the value (None: missing) of row i in the column `titles[n]`.

    `left`: columns of text. `sort`: by which it is sorted when nobody has chosen, None: in the order that it has.
    """

    titles: list[str]
    cells: list[list[tuple[str, Any]]]
    left: set[int]
    sort: int | None = None


def chosen(table: Table, sort: int | None, reverse: bool, wanted: str) -> list[list[str]]:
    """The rows as text that have `wanted` in them, the largest first (names: the first first); reversed if wished."""
    rows = [row for row in table.cells if wanted.lower() in " ".join(text for text, _ in row).lower()]
    column = table.sort if sort is None else sort
    if column is not None and column < len(table.titles):
        known = [row for row in rows if row[column][1] is not None]
        down = (column not in table.left) != reverse
        known.sort(key=lambda row: row[column][1], reverse=down)
        rows = known + [row for row in rows if row[column][1] is None]
    elif reverse:
        rows.reverse()
    return [[text for text, _ in row] for row in rows]


def _percent(value: float | None) -> tuple[str, float | None]:
    return (MISSING if value is None else f"{value:.1f}"), value


def _text(value: str | None) -> tuple[str, str]:
    return printable(value or MISSING, _TEXT), value or ""


def _count(value: float | None) -> tuple[str, float | None]:
    return (MISSING if value is None else amount(round(value))), value


def threads(frame: Frame) -> Table:
    titles = ["TID", "name", "role", "S", "CPU", "on%", "runq%", "spin%", "futex%"]
    titles += ["faults/s", "switch/s", "migr", "policy", "CPU time", "last%"]
    rows = [
        [
            (str(one.tid), one.tid),
            _text(one.comm),
            _text(one.role),
            _text(one.state),
            (MISSING if one.cpu is None else str(one.cpu), one.cpu),
            _percent(one.on_cpu_pct),
            _percent(one.run_queue_pct),
            _percent(one.spin_pct),
            _percent(one.futex_pct),
            _count(one.faults_per_s),
            _count(one.switches_per_s),
            _count(one.migrations),
            _text(one.policy),
            (duration(one.cpu_ns), one.cpu_ns),
            _percent(None if one.last_at is None else 100 * one.last_at / frame.barriers),
        ]
        for one in frame.threads
    ]
    return Table(titles, rows, left={1, 2, 3, 12}, sort=13)


def tokens(frame: Frame) -> Table:
    titles = ["call", "token", "n", "at", "duration", "mostly", *(part.title for part in PARTS)]
    names = {part.key: part.title for part in PARTS}
    rows = [
        [
            _text(one.name),
            (MISSING if one.token is None else str(one.token), one.token),
            (MISSING if one.n_tokens is None else str(one.n_tokens), one.n_tokens),
            (f"{one.start_ns / 1e9:.3f} s", one.start_ns),
            (duration(one.dur_ns), one.dur_ns),
            _text(names.get(one.mostly, one.mostly)),
            *((duration(one.parts[part.key]), one.parts[part.key]) for part in PARTS),
        ]
        for one in reversed(frame.tokens)
    ]
    return Table(titles, rows, left={0, 5})


def functions(frame: Frame) -> Table:
    rows = [
        [
            _percent(one.self_pct),
            _percent(one.now_pct),
            _count(one.samples),
            _text(one.role),
            _text(one.name),
            _text(one.module),
        ]
        for one in frame.functions
    ]
    return Table(["self%", "now%", "samples", "what for", "function", "module"], rows, left={3, 4, 5}, sort=0)


def faults(frame: Frame) -> Table:
    """By region of memory and, below, by tensor."""
    rows = []
    for one in frame.places:
        file = "" if one.path is None or one.is_tensor else f" {one.path.rsplit('/', 1)[-1]}"
        sums = ((cell(one.sums.get(key), _PLACE_COLUMNS[key]), one.sums.get(key)) for key in _PLACE_TITLES)
        rows.append([_text(one.name + file), _count(one.faults_per_s), *sums])
    return Table(["region or tensor", "faults/s", *_PLACE_TITLES.values()], rows, left={0})


def _by_phase(name: str) -> Callable[[Frame], Table]:
    columns = [column for column in COUNTERS if column.group in _GROUPS[name]]
    head = (Column("n", "n", "count", ""), Column("dur_ns", "duration", "ns", "")) if name == "Phases" else ()

    def table(frame: Frame) -> Table:
        shown = [*head, *columns]
        rows = [
            [_text(row["phase"]), *((cell(row.get(column.key), column), row.get(column.key)) for column in shown)]
            for row in frame.by_phase
        ]
        return Table(["phase", *(column.title for column in shown)], rows, left={0})

    return table


TABS: dict[str, Callable[[Frame], Table]] = {
    "Threads": threads,
    "Phases": _by_phase("Phases"),
    "Tokens": tokens,
    "Functions": functions,
    "Memory": _by_phase("Memory"),
    "Scheduling": _by_phase("Scheduling"),
    "I/O": _by_phase("I/O"),
    "Faults": faults,
}

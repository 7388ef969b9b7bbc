"""What is known of barriers, as tables of text."""

from typing import Any

from bitnet_trace.analysis.lateness import CAUSES
from bitnet_trace.analysis.report import Report
from bitnet_trace.columns import BARRIER_PHASES, BARRIER_THREADS, STRAGGLERS, Column
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, amount, duration, percent
from bitnet_trace.render.grids import Grid, rows_of

MAX_ROWS = 8
_ONE_CAUSE = 2


def grids(report: Report) -> list[Grid]:
    """Barriers by phase, by thread, and who was late; without a window the first only, with the reason."""
    found = report.barriers
    if not len(found.by_phase):
        return []
    summary = found.summary
    by_phase = _grid("Barriers by phase (counted in windows)", found.by_phase, list(BARRIER_PHASES))
    if summary["reason"] is not None:
        spin = summary["spin_pct"]
        known = f"spinning in samples: {MISSING if spin is None else percent(spin)}"
        note = f"barriers: {MISSING} ({printable(summary['reason'], 200)}); {known}"
        return [Grid("Barriers", [""], [[note]])]
    by_phase.notes.extend(_notes(summary))
    tables = [by_phase, _threads(report)]
    if len(found.stragglers):
        tables.append(_grid("Who was late at barriers", found.stragglers.head(MAX_ROWS), list(STRAGGLERS), 3))
    return tables


def _notes(summary: dict[str, Any]) -> list[str]:
    windows = summary["windows"]
    what = f"seen: calls that lie wholly in one of {amount(windows['n'])} windows"
    notes = [f"{what}; in all: estimated from those; waits and skews: derived from arrivals; spinning: sampled"]
    if summary["parts_seen"]:
        notes.append("parts: of calls of several tokens that outlast a window, from one barrier to another")
    if summary["parts_unplaced"]:
        notes.append(f"{amount(summary['parts_unplaced'])} parts were not used: where a barrier begins is not sure")
    if windows["read"] < windows["n"]:
        notes.append(f"of these many windows {amount(windows['read'])} were looked at, spread over the run")
    if unused := summary["calls_uneven"] + summary["calls_disordered"]:
        notes.append(f"{amount(unused)} calls in windows were not used: their threads' arrivals do not fit together")
    return notes


def _threads(report: Report) -> Grid:
    table = report.barriers.by_thread.head(MAX_ROWS)
    cells = rows_of(table, [column for column in BARRIER_THREADS if column.key != "causes"])
    place = [column.key for column in BARRIER_THREADS].index("causes")
    rows = [[*row[:place], _causes(causes), *row[place:]] for row, causes in zip(cells, table["causes"], strict=True)]
    left = frozenset(index for index, column in enumerate(BARRIER_THREADS) if column.format == "text")
    grid = Grid("Barriers by thread", [column.title for column in BARRIER_THREADS], rows, 2, left)
    if len(report.barriers.by_thread) > MAX_ROWS:
        grid.notes.append(f"and {amount(len(report.barriers.by_thread) - MAX_ROWS)} more threads")
    return grid


def _causes(causes: dict[str, int] | None) -> str:
    """The largest ones: `slower 1.20 ms, preempted 310 µs`."""
    if causes is None:
        return MISSING
    ranked = sorted(((ns, name) for name, ns in causes.items() if name in CAUSES), reverse=True)
    return ", ".join(f"{name} {duration(ns)}" for ns, name in ranked[:_ONE_CAUSE]) or MISSING


def _grid(title: str, table: Any, columns: list[Column], n_keys: int = 1) -> Grid:
    left = frozenset(index for index, column in enumerate(columns) if column.format == "text")
    return Grid(title, [column.title for column in columns], rows_of(table, columns), n_keys, left)

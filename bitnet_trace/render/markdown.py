"""A report as Markdown, for an issue or a page: the tables of the text report, one per group of columns."""

import re
from collections.abc import Iterator

from bitnet_trace.analysis.report import Report
from bitnet_trace.printable import printable
from bitnet_trace.render import grids, place_grids, profile_grids
from bitnet_trace.render.grids import Grid

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def render(report: Report) -> str:
    """The report as GitHub-flavoured Markdown. Text that came from the traced program is escaped."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# bitnet-trace report: {_escaped(printable(report.recording.path.name, 200))}"
    yield ""
    yield from (f"* **{label}**: {_escaped(value)}" for label, value in grids.heading(report))
    warnings = grids.warnings(report)
    if warnings:
        yield ""
        yield from (f"> ⚠ {_escaped(line)}  " for line in warnings)
    yield from _grid(Grid("Speed", ["", ""], [list(pair) for pair in grids.speed(report)]))
    tables = [grids.timings(report), *grids.phases(report), grids.threads(report), grids.taskstats(report)]
    tables += [grids.calls(report), *grids.waits(report), *profile_grids.grids(report.profile), grids.io_uring(report)]
    tables += place_grids.grids(report.places, report.run["host"].get("fault_around_bytes"))
    for grid in tables:
        if grid is not None:
            yield from _grid(grid)
    yield from ("", "## Page-fault latency", "", _escaped(grids.fault_latency(report)))
    yield from ("", "## Health of the recording", "", _escaped(grids.health_line(report)))
    yield from ("", _escaped(profile_grids.health_line(report.profile)))
    yield from ("", _escaped(grids.taskstats_line(report)))


def _grid(grid: Grid) -> Iterator[str]:
    yield from ("", f"## {grid.title}", "")
    yield _row(grid.titles)
    yield _row(":--" if index in grid.left else "--:" for index in range(len(grid.titles)))
    for position, row in enumerate(grid.rows):
        cells = [_escaped(cell) for cell in row]
        is_total = grid.has_total and position == len(grid.rows) - 1
        yield _row(f"**{cell}**" for cell in cells) if is_total else _row(cells)
    for note in grid.notes:
        yield from ("", f"*{_escaped(note)}*")


def _row(cells: "Iterator[str] | list[str]") -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)

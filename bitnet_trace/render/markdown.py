"""A report as Markdown, for an issue or a page: the tables of the text report, one per group of columns."""

import re
from collections.abc import Iterator, Sequence

from bitnet_trace.analysis.report import Report
from bitnet_trace.printable import printable
from bitnet_trace.render import finding_lines, grids
from bitnet_trace.render.grids import Grid
from bitnet_trace.render.sections import Section, sections

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
    yield from _findings(report)
    yield from _grid(Grid("Speed", ["", ""], [list(pair) for pair in grids.speed(report)]))
    yield from _sections(sections(report))


def render_sections(title: str, parts: Sequence[Section]) -> str:
    """Sections below a title."""
    return "\n".join([f"# {_escaped(title)}", *_sections(parts)]) + "\n"


def _sections(parts: Sequence[Section]) -> Iterator[str]:
    for section in parts:
        for grid in section.tables:
            yield from _grid(grid)
        if section.lines:
            yield from ("", f"## {_escaped(section.title)}")
        for line in section.lines:
            yield from ("", _escaped(line))


def _findings(report: Report) -> Iterator[str]:
    yield from ("", "## Findings", "")
    for severity, title, details in finding_lines.findings(report):
        yield f"* **{severity}**: {_escaped(title)}"
        yield from (f"  * {_escaped(line)}" for line in details)
    yield from (f"*{_escaped(line)}*" for line in finding_lines.closing(report))


def _grid(grid: Grid) -> Iterator[str]:
    yield from ("", f"## {grid.title}", "")
    yield _row(_escaped(title) for title in grid.titles)
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

"""A report for a terminal."""

from collections.abc import Iterator
from io import StringIO

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bitnet_trace.analysis.report import Report
from bitnet_trace.printable import printable
from bitnet_trace.render import finding_lines, grids
from bitnet_trace.render.grids import Grid
from bitnet_trace.render.sections import sections

_MIN_WIDTH = 40
_INDENT = 2
_GUTTER = 2
_SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow", "note": "default"}


def render(report: Report, width: int = 80, color: bool = False) -> str:
    """The report in lines of at most `width` columns (40 at least), with escape sequences only where `color` is set."""
    output, console = _console(width, color)
    console.print(Text(f"bitnet-trace report: {printable(report.recording.path.name, 200)}", style="bold"))
    _pairs(console, grids.heading(report))
    for line in grids.warnings(report):
        console.print(Padding(Text(f"! {line}", style="yellow"), (0, 0, 0, _INDENT)))
    _findings(console, report)
    _title(console, "Speed")
    _pairs(console, grids.speed(report))
    for section in sections(report):
        for grid in section.tables:
            _print_grid(console, grid)
        if section.lines:
            _title(console, section.title)
        for line in section.lines:
            console.print(Padding(Text(line), (0, 0, 0, _INDENT)))
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


def _findings(console: Console, report: Report) -> None:
    _title(console, "Findings")
    for severity, title, details in finding_lines.findings(report):
        console.print(Padding(Text(f"{severity}: {title}", style=_SEVERITY_STYLES[severity]), (0, 0, 0, _INDENT)))
        for line in details:
            console.print(Padding(Text(line), (0, 0, 0, 2 * _INDENT)))
    for line in finding_lines.closing(report):
        console.print(Padding(Text(line, style="dim"), (0, 0, 0, _INDENT)))


def render_grids(title: str, tables: list[Grid], width: int = 80) -> str:
    """Tables under a title, without colours."""
    output, console = _console(width, color=False)
    console.print(Text(title))
    for grid in tables:
        _print_grid(console, grid)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


def _console(width: int, color: bool) -> tuple[StringIO, Console]:
    output = StringIO()
    console = Console(
        file=output,
        width=max(width, _MIN_WIDTH),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )
    return output, console


def _title(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold cyan"))


def _pairs(console: Console, pairs: list[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, padding=(0, _GUTTER, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for label, value in pairs:
        table.add_row(Text(label), Text(value))
    console.print(Padding(table, (0, 0, 0, _INDENT), expand=False))


def _print_grid(console: Console, grid: Grid) -> None:
    _title(console, grid.title)
    headers = [_header(title) for title in grid.titles]
    widths = [
        max([*(cell_len(line) for line in header.split("\n")), *(cell_len(row[index]) for row in grid.rows)])
        for index, header in enumerate(headers)
    ]
    for number, columns in enumerate(_packed(widths, grid.n_keys, console.width - _INDENT)):
        if number:
            console.print()
        table = Table(box=None, padding=(0, _GUTTER, 0, 0), pad_edge=False, header_style="dim")
        for index in columns:
            table.add_column(
                Text(headers[index]),
                justify="left" if index in grid.left else "right",
                overflow="fold",
                vertical="bottom",
            )
        for position, row in enumerate(grid.rows):
            is_total = grid.has_total and position == len(grid.rows) - 1
            table.add_row(*(Text(row[index]) for index in columns), style="bold" if is_total else None)
        console.print(Padding(table, (0, 0, 0, _INDENT), expand=False))
    for note in grid.notes:
        console.print(Padding(Text(note, style="dim"), (0, 0, 0, _INDENT)))


def _header(title: str) -> str:
    """A title of several words on two lines: narrow columns leave room for more of them."""
    first, _, rest = title.partition(" ")
    return f"{first}\n{rest}" if rest else title


def _packed(widths: list[int], n_keys: int, width: int) -> Iterator[list[int]]:
    """Column numbers of as many tables as it takes to fit `width`, each with the key columns first."""
    keys = list(range(n_keys))
    key_width = sum(widths[index] + _GUTTER for index in keys)
    columns, used = list(keys), key_width
    for index in range(n_keys, len(widths)):
        if used + widths[index] > width and len(columns) > n_keys:
            yield columns
            columns, used = list(keys), key_width
        columns.append(index)
        used += widths[index] + _GUTTER
    yield columns

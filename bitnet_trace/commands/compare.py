"""`bitnet-trace compare`: which differences between recordings are real."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from bitnet_trace.commands.files import in_color, put_out, refuse_existing, with_output

_BREAK = "\0--"


class GroupedCommand(click.Command):
    """A command whose arguments `--` parts into groups; options may stand anywhere before, between and after."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_BREAK if one == "--" else one for one in args])


@click.command(cls=GroupedCommand, short_help="Which differences between recordings are real.")
@click.argument("recordings", metavar="REC... [-- REC...]...", nargs=-1, required=True)
@with_output("text", "markdown", "html", "json", explained="As of report.")
def compare(recordings: tuple[str, ...], form: str, output: Path | None, force: bool) -> None:
    """Compare recordings, or groups of repeated ones, with the first.

    Groups are parted by --; without one each recording is a group. Repeats tell a difference from chance: each figure
    comes with an interval, corrected for how many figures there are. Speed comes first, then what explains it.

    \b
    Examples:
      bitnet-trace compare base.btrace thp.btrace
      bitnet-trace compare base/*.btrace -- thp/*.btrace
      bitnet-trace compare base/*.btrace -- thp/*.btrace -- fifo/*.btrace --format html -o policies.html
    """
    groups = grouped(recordings)
    if len(groups) < 2:
        raise click.UsageError("at least two recordings, or two groups parted by --")
    refuse_existing(output, force)
    put_out(_rendered(groups, form, in_color(output)), output, force)


def grouped(recordings: Sequence[str]) -> list[list[Path]]:
    """The groups that `--` parts; each recording one of its own where there is none."""
    if _BREAK not in recordings:
        return [[Path(one)] for one in recordings]
    groups: list[list[Path]] = [[]]
    for one in recordings:
        if one == _BREAK:
            groups.append([])
        else:
            groups[-1].append(Path(one))
    return [group for group in groups if group]


def group_names(groups: Sequence[Sequence[Path]]) -> list[str]:
    """The folder's name where recordings of a group share one that no other has, else that of the first recording."""
    folders = [{str(path.absolute().parent) for path in group} for group in groups]
    parents = [next(iter(own)) if len(own) == 1 else None for own in folders]
    names = [
        Path(parent).name if parent and parents.count(parent) == 1 and len(group) > 1 else group[0].stem
        for parent, group in zip(parents, groups, strict=True)
    ]
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]


def _rendered(paths: list[list[Path]], form: str, color: bool) -> str:
    from bitnet_trace.analysis.compare import Group, compare
    from bitnet_trace.analysis.metrics import metrics
    from bitnet_trace.analysis.report import build_report
    from bitnet_trace.recording.reader import open_recording
    from bitnet_trace.render import comparison, html, markdown, text

    groups = [
        Group(name, [metrics(build_report(open_recording(path), may_fork=True)) for path in own])
        for name, own in zip(group_names(paths), paths, strict=True)
    ]
    compared = [compare(groups[0], other) for other in groups[1:]]
    if form == "json":
        return comparison.to_json(groups, compared)
    parts = comparison.sections(groups, compared)
    if form == "markdown":
        return markdown.render_sections("bitnet-trace compare", parts)
    if form == "html":
        return html.render_sections("bitnet-trace compare", parts)
    return text.render_sections("bitnet-trace compare", parts, shutil.get_terminal_size().columns, color)

"""`bitnet-trace report`: shows a recording."""

import os
import shutil
import sys
from pathlib import Path

import click

from bitnet_trace.commands.files import refuse_existing, write_new


@click.command(short_help="Show a recording.")
@click.argument("recording", metavar="REC", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "html", "json"]),
    default="text",
    show_default=True,
    help="text for a terminal, markdown for an issue, html for a browser (one file), json for other programs.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file instead of standard output.",
)
@click.option("--force", is_flag=True, help="Replace the file of -o if it exists.")
def report(recording: Path, form: str, output: Path | None, force: bool) -> None:
    """Show what happened in a recording: per phase, per thread, per decode call.

    REC is a folder NAME.btrace that `bitnet-trace run` made. No root is needed. A recording that was cut short is shown
    as far as it goes.

    \b
    Examples:
      bitnet-trace report llama-cli.btrace
      bitnet-trace report llama-cli.btrace --format json | jq '.by_phase[] | {phase, dur_ns}'
      bitnet-trace report llama-cli.btrace --format markdown -o report.md
      bitnet-trace report llama-cli.btrace --format html -o report.html
    """
    refuse_existing(output, force)
    text = _rendered(recording, form, to_terminal=output is None and sys.stdout.isatty())
    if output is None:
        encoding = sys.stdout.encoding or "utf-8"
        click.echo(text.encode(encoding, "replace").decode(encoding), nl=False)
    else:
        write_new(output, text, force)


def _rendered(recording: Path, form: str, to_terminal: bool) -> str:
    # pandas and pyarrow take half a second to import: --help does without.
    from bitnet_trace.analysis.report import build_report
    from bitnet_trace.recording.reader import open_recording
    from bitnet_trace.render import json, markdown, text

    built = build_report(open_recording(recording))
    if form == "json":
        return json.render(built)
    if form == "markdown":
        return markdown.render(built)
    if form == "html":
        from bitnet_trace.render import html

        return html.render(built)
    # https://no-color.org: set and not empty.
    color = to_terminal and not os.environ.get("NO_COLOR")
    return text.render(built, width=shutil.get_terminal_size().columns, color=color)

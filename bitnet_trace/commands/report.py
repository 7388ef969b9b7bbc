"""`bitnet-trace report`: shows a recording."""

import gc
import shutil
from pathlib import Path

import click

from bitnet_trace.commands.files import in_color, put_out, refuse_existing, with_output
from bitnet_trace.recording.checksums import of_streams


@click.command(short_help="Show a recording.")
@click.argument("recording", metavar="REC", type=click.Path(path_type=Path))
@with_output(
    *("text", "markdown", "html", "json"),
    explained="text for a terminal, markdown for an issue, html for a browser (one file), json for other programs.",
)
def report(recording: Path, form: str, output: Path | None, force: bool) -> None:
    """Show what happened in a recording: per phase, per thread, per decode call.

    REC is a folder NAME.btrace that `run`, `attach`, `top -o` or `demo` made. No root is needed. A recording that was
    cut short is shown as far as it goes.

    \b
    Examples:
      bitnet-trace report llama-cli.btrace
      bitnet-trace report llama-cli.btrace --format json | jq '.by_phase[] | {phase, dur_ns}'
      bitnet-trace report llama-cli.btrace --format markdown -o report.md
      bitnet-trace report llama-cli.btrace --format html -o report.html
    """
    refuse_existing(output, force)
    gc.disable()  # it would take a tenth of the time, and find little: the process ends with its answer
    try:
        put_out(_rendered(recording, form, in_color(output)), output, force)
    finally:
        gc.enable()


def _rendered(recording: Path, form: str, color: bool) -> str:
    with of_streams(recording) as checksums:
        # pandas and pyarrow take half a second to import: --help does without.
        from bitnet_trace.analysis.report import build_report
        from bitnet_trace.recording.reader import open_recording
        from bitnet_trace.render import json, markdown, text

        built = build_report(open_recording(recording, checksums), may_fork=True)
    if form == "json":
        return json.render(built)
    if form == "markdown":
        return markdown.render(built)
    if form == "html":
        from bitnet_trace.render import html

        return html.render(built)
    return text.render(built, width=shutil.get_terminal_size().columns, color=color)

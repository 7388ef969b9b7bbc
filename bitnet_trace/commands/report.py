"""`bitnet-trace report`: shows a recording."""

import os
import shutil
import sys
from pathlib import Path

import click

from bitnet_trace.errors import TraceError


@click.command(short_help="Show a recording.")
@click.argument("recording", metavar="REC", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
    help="text for a terminal, markdown for an issue or a page, json for other programs.",
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
    """
    if output is not None and os.path.lexists(output) and not force:
        raise TraceError(f"{output} exists already", "choose another name with -o, or replace it with --force")
    text = _rendered(recording, form, to_terminal=output is None and sys.stdout.isatty())
    if output is None:
        encoding = sys.stdout.encoding or "utf-8"
        click.echo(text.encode(encoding, "replace").decode(encoding), nl=False)
    else:
        _write(output, text, force)


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
    # https://no-color.org: set and not empty.
    color = to_terminal and not os.environ.get("NO_COLOR")
    return text.render(built, width=shutil.get_terminal_size().columns, color=color)


def _write(path: Path, text: str, force: bool) -> None:
    """Writes a new file beside `path` and renames it, so that no reader sees a part and no link is followed."""
    if os.path.lexists(path) and not (path.is_symlink() or path.is_file()):
        raise TraceError(f"{path} is not a regular file, so --force does not replace it", "use > to write to it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        try:
            if force:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise TraceError(f"{path} exists already", "choose another name with -o, or replace it with --force") from None
    except OSError as error:
        raise TraceError(f"cannot write {path}: {error.strerror}", "choose another place with -o") from None

"""What commands put out: to the terminal, or to a file that -o names."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from bitnet_trace.errors import TraceError


def with_output(*forms: str, explained: str | None = None) -> Callable[[Any], Any]:
    """Gives a command the options --format (parameter `form`, the first of `forms` by default), -o and --force."""
    options = [
        click.option("--format", "form", type=click.Choice(forms), default=forms[0], show_default=True, help=explained),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write to this file instead of standard output.",
        ),
        click.option("--force", is_flag=True, help="Replace the file of -o if it exists."),
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def in_color(output: Path | None) -> bool:
    """Whether text may be coloured. https://no-color.org: not where NO_COLOR is set and not empty."""
    return output is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def put_out(text: str, output: Path | None, force: bool) -> None:
    """Prints `text`, with ? for what the terminal's encoding lacks, or writes it to a new file."""
    if output is None:
        encoding = sys.stdout.encoding or "utf-8"
        click.echo(text.encode(encoding, "replace").decode(encoding), nl=False)
    else:
        write_new(output, text, force)


def refuse_existing(path: Path | None, force: bool) -> None:
    """Raises TraceError before any work is done, when the file exists and may not be replaced."""
    if path is not None and os.path.lexists(path) and not force:
        raise TraceError(f"{path} exists already", "choose another name with -o, or replace it with --force")


def write_new(path: Path, text: str, force: bool) -> None:
    """Writes a new file of `text`, as `write_chunks` does."""
    write_chunks(path, [text.encode("utf-8", "backslashreplace")], force)


def write_chunks(path: Path, chunks: Iterable[bytes], force: bool) -> None:
    """Writes a new file beside `path` and renames it, so that no reader sees a part and no link is followed."""
    if os.path.lexists(path) and not (path.is_symlink() or path.is_file()):
        raise TraceError(f"{path} is not a regular file, so --force does not replace it", "use > to write to it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                for chunk in chunks:
                    file.write(chunk)
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

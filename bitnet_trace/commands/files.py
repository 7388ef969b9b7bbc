"""Files that commands write with -o."""

import os
from collections.abc import Iterable
from pathlib import Path

from bitnet_trace.errors import TraceError


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

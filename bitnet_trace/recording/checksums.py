"""Checksums of a recording's streams, made by a thread: zlib lets others run, and so may begin before they need them.

Nothing large is imported here, so that it can begin while pandas is.
"""

import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

STREAM_SUFFIX = ".arrows"


class Checksums:
    """CRC-32 of the streams of one folder, as `of_streams` makes them."""

    def __init__(self, folder: Path, worker: "ThreadPoolExecutor") -> None:
        # a pipe would never end
        paths = [path for path in folder.glob("*" + STREAM_SUFFIX) if path.is_file()]
        self._of = {path.name: worker.submit(_crc32, path) for path in paths}

    def of(self, file_name: str) -> int | None:
        """Waits for it. None: the file is not there, or cannot be read."""
        return self._of[file_name].result() if file_name in self._of else None


@contextmanager
def of_streams(folder: Path) -> Iterator[Checksums]:
    """Those of the streams in `folder`; what has not begun at the end is not made."""
    from concurrent.futures import ThreadPoolExecutor  # refuses to be imported while the interpreter ends

    worker = ThreadPoolExecutor(1)
    try:
        yield Checksums(folder, worker)
    finally:
        worker.shutdown(wait=False, cancel_futures=True)


def _crc32(path: Path) -> int | None:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return zlib.crc32(data)  # in one call: between two it would wait for the interpreter
    except ValueError:  # nothing can be mapped of an empty file
        return 0
    except OSError:
        return None

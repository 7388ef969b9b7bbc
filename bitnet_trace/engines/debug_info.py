"""Debug information of a file: its own, or in a separate file by build id or link, as gdb looks for it.

The library `symbolic` reads all of a file's DWARF: a library of 89 MB (34 MB of .debug_info) took 2.2 s of CPU time and
215 MB of memory, and it grows with the size. What Python has would need minutes.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from symbolic.debuginfo import Archive
from symbolic.exceptions import SymbolicError

from bitnet_trace.engines.elf import Elf
from bitnet_trace.errors import TraceError

_DEBUG_FOLDER = Path("/usr/lib/debug")
MAX_BYTES = 1 << 30
QUICK_BYTES = 24 << 20  # half a second
_PIECE_BYTES = 1 << 20


def symbol_cache(elf: Elf, file: BinaryIO, path: str, limit_bytes: int) -> Any:
    """A symbolic.symcache.SymCache of the file; None without debug information, or where that is above the limit.

    Addresses in it count from the file's load address. `path` is where the file lies, for links beside it.
    """
    for source in (f"/proc/self/fd/{file.fileno()}", *_separate(elf, path, limit_bytes)):
        found = _cache_of(source, limit_bytes)
        if found is not None:
            return found
    return None


def _separate(elf: Elf, path: str, limit_bytes: int) -> Iterator[str]:
    """Files that may have it (gdb's manual, "Debugging Information in Separate Files")."""
    if elf.build_id:
        yield str(_DEBUG_FOLDER / ".build-id" / elf.build_id[:2] / f"{elf.build_id[2:]}.debug")
    if elf.debug_link and "/" not in elf.debug_link[0]:
        name, checksum = elf.debug_link
        folder = Path(path).absolute().parent
        for place in (folder / name, folder / ".debug" / name, Path(f"{_DEBUG_FOLDER}{folder}") / name):
            if _checksum(place, limit_bytes) == checksum:
                yield str(place)


def _checksum(place: Path, limit_bytes: int) -> int | None:
    try:
        if not place.is_file() or place.stat().st_size > limit_bytes:
            return None
        checksum = 0
        with place.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                checksum = zlib.crc32(piece, checksum)
        return checksum
    except OSError:
        return None


def _cache_of(source: str, limit_bytes: int) -> Any:
    try:
        with open(source, "rb") as file:
            # the library takes as much memory as a compressed section asks for
            if Path(source).stat().st_size + Elf(file).uncompressed_bytes() > limit_bytes:
                return None
        objects = list(Archive.open(source).iter_objects())
        if len(objects) != 1 or "debug" not in objects[0].features:
            return None
        return objects[0].make_symcache()
    except (OSError, SymbolicError, TraceError):
        return None

"""The tensor tables of the model files that a run mapped or read: stored, so that a report needs no model."""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from bitnet_trace.capture.mappings import key_as_mapped
from bitnet_trace.capture.parser import Parser
from bitnet_trace.engines.model_file import is_model
from bitnet_trace.errors import TraceError

Row = dict[str, Any]


def tensor_rows(files: Mapping[tuple[int, int], str], parser: Parser, warnings: list[str]) -> list[Row]:
    """Rows of schema.TENSOR_SCHEMA of those of `files` (path by device and inode, the kernel's) that are models.

    A file that has gone or was replaced by another is left out; what cannot be read is told in `warnings`.
    """
    rows: list[Row] = []
    for (device, inode), path in files.items():
        with _opened(path, inode) as file:
            if file is None or not is_model(file) or _kernel_key(file) != (device, inode):
                continue
            try:
                found = parser.tensors(file, path)
            except TraceError as error:
                warnings.append(f"no names of tensors: {error.message}")
                continue
            rows += [{"device": device, "inode": inode, "path": path, **tensor} for tensor in found]
    return rows


@contextlib.contextmanager
def _opened(path: str, inode: int) -> Iterator[BinaryIO | None]:
    """The regular file at `path`, if it has that inode; else None. Never opens what waits for a writer, or acts."""
    descriptor = -1
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            status = os.fstat(place)
            if stat.S_ISREG(status.st_mode) and status.st_ino == inode:
                descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)
    except OSError:
        pass
    if descriptor < 0:
        yield None
        return
    with open(descriptor, "rb") as file:
        yield file


def _kernel_key(file: BinaryIO) -> tuple[int, int] | None:
    key = key_as_mapped(file)
    if key is None:
        return None
    major, minor = (int(part, 16) for part in key[0].split(":"))
    return major << 20 | minor, key[1]

"""Paths put together from what the kernel side tells of them."""

import numpy as np

from bitnet_trace.capture.task_log import FilePaths
from bitnet_trace.recording.layout import TASK_DTYPE, TaskKind


def pieces(inode, *parts):
    """Records of a path, last part first, those of more than 63 bytes in several."""
    rows = []
    for level, part in enumerate(parts):
        cut = [part[at : at + 63] for at in range(0, max(len(part), 1), 63)]
        rows += [(level << 8 | number, piece) for number, piece in enumerate(cut)]
    batch = np.zeros(len(rows), TASK_DTYPE)
    batch["kind"], batch["device"], batch["inode"] = TaskKind.FILE_NAME, 8, inode
    batch["value"] = [value for value, _ in rows]
    batch["text"] = [text for _, text in rows]
    return batch


def test_parts_and_pieces():
    paths = FilePaths()
    long = b"x" * 64 + b"y" * 100
    paths.fold(np.concatenate([pieces(1, b"m.gguf", b"models"), pieces(2, long, b"blobs", b"home")]))
    assert paths.known == {(8, 1): "/models/m.gguf", (8, 2): f"/home/blobs/{long.decode()}"}


def test_bytes_that_are_no_text():
    paths = FilePaths()
    paths.fold(pieces(1, b"m\xff.gguf"))
    assert paths.known[8, 1] == "/m\udcff.gguf"


def test_a_path_that_is_too_deep_is_said_to_be_cut():
    paths = FilePaths()
    paths.fold(pieces(1, *[b"d"] * 32))
    assert paths.known[8, 1].startswith("…/d/")

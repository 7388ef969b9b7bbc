"""GGUF files for tests: a tensor table and empty space behind it."""

import struct
from collections.abc import Sequence
from pathlib import Path

SPACING = 1 << 16  # the window of fault-around: a fault in one tensor maps no page of another


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def header(tensors: Sequence[tuple[str, int, int, int]], alignment: int = SPACING) -> bytes:
    """A GGUF header: `tensors` are (name, elements, type, offset in the data)."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), 3)]
    parts += [text("general.architecture"), struct.pack("<I", 8), text("bitnet")]
    parts += [text("general.alignment"), struct.pack("<II", 4, alignment)]
    parts += [text("tokenizer.ggml.tokens"), struct.pack("<IIQ", 9, 8, 2), text("<s>"), text("</s>")]
    for name, elements, kind, offset in tensors:
        parts += [text(name), struct.pack("<IQIQ", 1, elements, kind, offset)]
    return b"".join(parts)


def write_spaced(path: Path, count: int, type_number: int = 36) -> list[tuple[str, int]]:
    """A model of `count` tensors of SPACING bytes each; returns their names and offsets in the file."""
    tensors = [
        (f"blk.{index // 7}.part_{index % 7}.weight", SPACING * 4, type_number, index * SPACING)
        for index in range(count)
    ]
    data = header(tensors)
    begin = -(-len(data) // SPACING) * SPACING
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.truncate(begin + count * SPACING)
    return [(name, begin + offset) for name, _, _, offset in tensors]

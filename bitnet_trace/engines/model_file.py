"""The tensor table of a GGUF file: which tensor lies at which bytes.

Not by the `gguf` package, which refuses files with tensor types that it does not know: the forks' own. Offsets are in
the file whatever the type is. The format: ggml's docs/gguf.md.
"""

import itertools
import math
import mmap
import struct
from dataclasses import dataclass
from typing import BinaryIO

from bitnet_trace.errors import TraceError

MAGIC = b"GGUF"

_ALIGNMENT_KEY = b"general.alignment"
_DEFAULT_ALIGNMENT = 32
_LARGEST_NAME = 64 << 10
_MAX_DIMENSIONS = 8
_STRING, _ARRAY = 8, 9
# of the value types 0 to 12; strings and arrays have none
_VALUE_BYTES = (1, 1, 2, 2, 4, 4, 4, 1, None, None, 8, 8, 8)

# ggml's types: name, weights in a block, bytes of a block (ggml-common.h). Forks use some of the numbers for their own,
# so a name is believed when the tensor's size agrees; 0 weights: any size.
_TYPES: dict[int, tuple[tuple[str, int, int], ...]] = {
    0: (("F32", 1, 4),),
    1: (("F16", 1, 2),),
    2: (("Q4_0", 32, 18),),
    3: (("Q4_1", 32, 20),),
    6: (("Q5_0", 32, 22),),
    7: (("Q5_1", 32, 24),),
    8: (("Q8_0", 32, 34),),
    9: (("Q8_1", 32, 36),),
    10: (("Q2_K", 256, 84),),
    11: (("Q3_K", 256, 110),),
    12: (("Q4_K", 256, 144),),
    13: (("Q5_K", 256, 176),),
    14: (("Q6_K", 256, 210),),
    15: (("Q8_K", 256, 292),),
    16: (("IQ2_XXS", 256, 66),),
    17: (("IQ2_XS", 256, 74),),
    18: (("IQ3_XXS", 256, 98),),
    19: (("IQ1_S", 256, 50),),
    20: (("IQ4_NL", 32, 18),),
    21: (("IQ3_S", 256, 110),),
    22: (("IQ2_S", 256, 82),),
    23: (("IQ4_XS", 256, 136),),
    24: (("I8", 1, 1),),
    25: (("I16", 1, 2),),
    26: (("I32", 1, 4),),
    27: (("I64", 1, 8),),
    28: (("F64", 1, 8),),
    29: (("IQ1_M", 256, 56),),
    30: (("BF16", 1, 2),),
    34: (("TQ1_0", 256, 54),),
    35: (("TQ2_0", 256, 66),),
    36: (("I2_S", 0, 0),),  # BitNet's: a quarter of a byte a weight, then one scale
    39: (("MXFP4", 32, 17), ("TL2", 0, 0)),
    40: (("NVFP4", 64, 36),),
    134: (("IQ1_BN", 0, 0),),
    135: (("IQ2_BN", 0, 0),),
}


@dataclass(frozen=True)
class Tensor:
    """One tensor at [offset, offset + size_bytes) of its file. `type` is the number in the file.

    `rows` are the elements by the first dimension. `type_name` is None, and the size reaches to the next tensor, where
    the type is not known.
    """

    name: str
    type: int
    type_name: str | None
    elements: int
    rows: int
    offset: int
    size_bytes: int


def is_model(file: BinaryIO) -> bool:
    """Whether an open file begins as a GGUF file does."""
    file.seek(0)
    return file.read(len(MAGIC)) == MAGIC


def tensors(file: BinaryIO, path: str) -> list[Tensor]:
    """The tensors of an open GGUF file, in order of their place; none in one that has only a vocabulary.

    Raises TraceError when it is damaged or of an unknown version.
    """
    damaged = TraceError(f"{path} is damaged: its tensor table cannot be read", None)
    try:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _tensors(data, path)
    except (struct.error, ValueError, IndexError, OverflowError):
        raise damaged from None


class _Cursor:
    """Reads a file from its begin on. Raises struct.error or ValueError beyond its end."""

    def __init__(self, data: mmap.mmap, order: str) -> None:
        self._data, self._order, self.at = data, order, len(MAGIC)

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(self._order + code, self._data, self.at)
        self.at += struct.calcsize(code)
        return int(value)

    def text(self) -> bytes:
        length = self.number("Q")
        if length > _LARGEST_NAME:
            raise ValueError("a name that is none")
        self.skip(length)
        return self._data[self.at - length : self.at]

    def skip(self, n_bytes: int) -> None:
        self.at += n_bytes
        if self.at > len(self._data):
            raise ValueError("beyond the end")

    def skip_value(self, kind: int, depth: int = 0) -> None:
        size = _VALUE_BYTES[kind]
        if size is not None:
            self.skip(size)
        elif kind == _STRING:
            self.skip(self.number("Q"))
        elif depth:
            raise ValueError("an array of arrays")
        else:
            kind, count = self.number("I"), self.number("Q")
            size = _VALUE_BYTES[kind]
            if size is not None:
                self.skip(size * count)
            else:
                for _ in range(count):  # a string has 8 bytes at least: ends with the file
                    self.skip_value(kind, depth + 1)


def _tensors(data: mmap.mmap, path: str) -> list[Tensor]:
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("no GGUF")
    # of the other byte order the small version number looks large
    order = "<" if struct.unpack_from("<I", data, len(MAGIC))[0] < 1 << 16 else ">"
    cursor = _Cursor(data, order)
    version = cursor.number("I")
    if version not in (2, 3):
        raise TraceError(f"{path}: GGUF version {version} is not known", None)
    n_tensors, n_values = cursor.number("Q"), cursor.number("Q")
    alignment = _DEFAULT_ALIGNMENT
    for _ in range(n_values):
        key, kind = cursor.text(), cursor.number("I")
        if key == _ALIGNMENT_KEY and kind == 4:
            alignment = cursor.number("I")
        else:
            cursor.skip_value(kind)
    found = [_entry(cursor) for _ in range(n_tensors)]
    if alignment < 1:
        raise ValueError("no alignment")
    begin = _aligned(cursor.at, alignment)
    starts = sorted({begin + offset for *_, offset in found} | {max(len(data), begin)})
    following = dict(itertools.pairwise(starts))
    result = []
    for name, elements, rows, kind, offset in sorted(found, key=lambda entry: entry[4]):
        start = begin + offset
        if start >= len(data):
            raise ValueError("a tensor beyond the end")
        room = following[start] - start
        type_name, size = _type(kind, elements, room, alignment, following[start] == starts[-1])
        result.append(Tensor(name, kind, type_name, elements, rows, start, size))
    return result


def _entry(cursor: _Cursor) -> tuple[str, int, int, int, int]:
    """(name, elements, rows, type, offset in the data) of the next tensor."""
    name = cursor.text().decode("utf-8", "backslashreplace")
    n_dimensions = cursor.number("I")
    if n_dimensions > _MAX_DIMENSIONS:
        raise ValueError("too many dimensions")
    dimensions = [cursor.number("Q") for _ in range(n_dimensions)]
    elements, rows = math.prod(dimensions), math.prod(dimensions[1:])
    kind, offset = cursor.number("I"), cursor.number("Q")
    if elements >= 1 << 60 or offset >= 1 << 60:
        raise ValueError("too large")
    return name, elements, rows, kind, offset


def _type(kind: int, elements: int, room: int, alignment: int, is_last: bool) -> tuple[str | None, int]:
    """(name or None, bytes) of a tensor that has `room` bytes before the next one, or the end."""
    for name, weights, block_bytes in _TYPES.get(kind, ()):
        if not weights:
            return name, room
        size = -(-elements // weights) * block_bytes
        if size <= room and (is_last or _aligned(size, alignment) == room):
            return name, size
    return None, room


def _aligned(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment

"""Where functions begin and end by the unwind table, which stripped files keep too: C++ exceptions need it.

Layouts: System V ABI x86-64 supplement and Linux Standard Base, "Exception Frames" (.eh_frame_hdr, .eh_frame).
"""

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bitnet_trace.engines.elf import Elf

_HEADER_BYTES = 12
_VERSION_AND_ENCODINGS = bytes([1, 0x1B, 0x03, 0x3B])  # as all linkers write them: 4 bytes, relative to their place
_MAX_FUNCTIONS = 4_000_000
_ENTRY = struct.Struct("<IIiI")  # length, distance to its CIE (of a CIE 0), begin relative to that field, size


class UnwindTable:
    """Code of one file, a span for each function and each part of one that lies elsewhere; empty without a table."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._begins: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._entries: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        at = elf.unwind_header
        if at is None:
            self._walk()
        header = elf.read(at, _HEADER_BYTES) if at is not None else b""
        if at is None or len(header) < _HEADER_BYTES or header[:4] != _VERSION_AND_ENCODINGS:
            return
        count = min(int.from_bytes(header[8:12], "little"), _MAX_FUNCTIONS)
        data = elf.read(at + _HEADER_BYTES, 8 * count)
        table = np.frombuffer(data, "<i4", len(data) // 8 * 2).reshape(-1, 2).astype(np.int64) + at
        table = table[np.argsort(table[:, 0], kind="stable")]
        self._begins, self._entries = table[:, 0], table[:, 1]

    def _walk(self) -> None:
        """gcc's static programs have no table to look things up in, only its entries, one after the other."""
        start, contents = self._elf.section(".eh_frame") or (0, b"")
        at = 0
        found: list[tuple[int, int]] = []
        while at + _ENTRY.size <= len(contents) and len(found) < _MAX_FUNCTIONS:
            length, to_its_cie, begin, _ = _ENTRY.unpack_from(contents, at)
            if not 0 < length < len(contents):  # the end, or a 64-bit length that nobody writes
                break
            if to_its_cie:
                found.append((start + at + 8 + begin, start + at))
            at += 4 + length
        if found:
            table = np.array(sorted(found), np.int64)
            self._begins, self._entries = table[:, 0], table[:, 1]

    def spans(self) -> Iterator[tuple[int, int]]:
        """All of them, by address."""
        for begin in self._begins.tolist():
            span = self.span_at(begin)
            if span is not None:
                yield span

    def span_at(self, address: int) -> tuple[int, int] | None:
        """Begin and end of the code that the address lies in; None where the table has none."""
        place = int(np.searchsorted(self._begins, address, side="right")) - 1
        if place < 0:
            return None
        begin, entry = int(self._begins[place]), int(self._entries[place])
        words = self._elf.read(entry, _ENTRY.size)
        if len(words) < _ENTRY.size:
            return None
        _, _, distance, size = _ENTRY.unpack(words)
        if entry + 8 + distance != begin:
            return None
        end = begin + size
        return (begin, end) if address < end else None

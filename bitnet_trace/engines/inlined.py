"""Where functions were inlined, by debug information, without reading all of it in Python.

`symbolic` turns DWARF into a table for lookups by address. It has no function that goes the other way, from names to
addresses, so the table is read as it is written to a file (symbolic-symcache/src/raw.rs of getsentry/symbolic), and
each copy found in it is looked up the public way: what that does not confirm is left out.
"""

import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADER = struct.Struct("<4sI32s6I")  # magic, version, debug id, architecture, numbers: see below
_VERSIONS = (7, 8, 9)
_ROW_BYTES, _RANGE_BYTES = 16, 4
_NOTHING = 0xFFFFFFFF
_MAX_DEPTH = 100

Rows = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class InlinedCopy:
    """A copy of a function within another: mangled names, and where it begins, counted from the load address."""

    name: str
    into: str
    begin: int


def inlined_copies(cache: Any, wanted: Callable[[str], bool]) -> list[InlinedCopy]:
    """The copies of functions whose mangled name is wanted, one for each place that one was inlined at.

    `cache`: a symbolic.symcache.SymCache. A copy may be of several pieces; it begins with the lowest. Empty for a
    version of the table that is not known.
    """
    table = _read(cache)
    if table is None:
        return []
    functions, locations, ranges, strings = table
    chosen = np.array([wanted(_text(strings, int(row[0]))) for row in functions], bool)
    if not chosen.any():
        return []
    parent, function = locations[:, 3], locations[:, 2]
    is_copy = (parent != _NOTHING) & (function < len(functions))
    is_copy[is_copy] = chosen[function[is_copy]]
    # what code belongs to: the last rows of the locations, one for each range; from each up through its callers
    current = np.arange(len(locations) - len(ranges), len(locations))
    first: dict[int, int] = {}  # by the row of a copy's call: copies at different places have different ones
    copies: dict[int, int] = {}
    at = np.arange(len(ranges))
    for _ in range(_MAX_DEPTH):
        for place in np.flatnonzero(is_copy[current]).tolist():
            call = int(parent[current[place]])
            key = call << 32 | int(function[current[place]])
            if key not in first or at[place] < first[key]:
                first[key], copies[key] = int(at[place]), int(current[place])
        up = parent[current]
        inside = up < len(locations)
        current, at = up[inside].astype(np.int64), at[inside]
        if not len(current):
            break
    found = []
    for key, place in first.items():
        row = copies[key]
        name, begin = _text(strings, int(functions[function[row]][0])), int(ranges[place])
        names = [line.symbol for line in cache.lookup(begin)]
        if name in names[:-1]:
            found.append(InlinedCopy(name, names[-1], begin))
    return sorted(found, key=lambda one: (one.name, one.begin))


def _read(cache: Any) -> tuple[Rows, Rows, Rows, bytes] | None:
    """Functions (name, …), locations (file, line, function, location inlined into), ranges (begin), names."""
    with tempfile.TemporaryFile() as file:
        cache.dump_into(file)
        file.seek(0)
        data = file.read()
    if len(data) < _HEADER.size:
        return None
    magic, version, _, _, _, n_functions, n_locations, n_ranges, n_strings = _HEADER.unpack_from(data)
    if magic != b"SYMC" or version not in _VERSIONS:
        return None
    strings_at = len(data) - n_strings
    ranges_at = strings_at - (n_ranges * _RANGE_BYTES + 7) // 8 * 8
    locations_at = ranges_at - n_locations * _ROW_BYTES
    functions_at = locations_at - n_functions * _ROW_BYTES
    if functions_at < _HEADER.size or n_ranges > n_locations:
        return None
    functions = np.frombuffer(data, "<u4", 4 * n_functions, functions_at).reshape(-1, 4)
    locations = np.frombuffer(data, "<u4", 4 * n_locations, locations_at).reshape(-1, 4)
    return functions, locations, np.frombuffer(data, "<u4", n_ranges, ranges_at), data[strings_at:]


def _text(strings: bytes, at: int) -> str:
    """A text of the table: its length in LEB128, then its bytes."""
    length = shift = 0
    for byte in strings[at : at + 5]:
        at += 1
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return strings[at : at + length].decode(errors="replace")

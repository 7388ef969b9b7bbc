"""What code at given places of a file is: function, what was inlined there, and whether it spins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cxxfilt  # type: ignore[import-untyped]
from symbolic.debuginfo import Archive
from symbolic.exceptions import SymbolicError

from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.names import pretty
from bitnet_trace.engines.spin import spinning

_DEBUG_FOLDER = Path("/usr/lib/debug/.build-id")
_MAX_DEBUG_BYTES = 1 << 30
_QUICK_DEBUG_BYTES = 24 << 20  # half a second
_NO_LINES: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """`function`: by the symbol table, else by debug information; `inlined`: the innermost function inlined there.

    Names are demangled; None: nothing tells. `spins`: in a loop around `pause`.
    """

    function: str | None
    inlined: str | None
    spins: bool


def symbolize(file: BinaryIO, path: str, offsets: Sequence[int], patient: bool = True) -> list[Place]:
    """The places at offsets of an x86-64 ELF file, in their order. Raises TraceError for what is no such file.

    Debug information of a large file takes seconds to read: not `patient`, it is left alone.
    """
    elf = Elf(file, path)
    addresses = [elf.address(offset) for offset in offsets]
    known = [address for address in addresses if address is not None]
    spins = spinning(elf, known)
    lines_at = _debug_information(elf, file, _MAX_DEBUG_BYTES if patient else _QUICK_DEBUG_BYTES)
    places = []
    for address in addresses:
        if address is None:
            places.append(Place(None, None, False))
            continue
        symbol = elf.function_at(address)
        lines = lines_at(address - elf.load_address)
        function = symbol.name if symbol else (lines[-1] if lines else None)
        inlined = lines[0] if len(lines) > 1 else None
        places.append(
            Place(_readable(function) if function else None, _readable(inlined) if inlined else None, address in spins)
        )
    return places


def _readable(symbol: str) -> str:
    """Demangled as patterns expect it; else by the C++ library, which knows lambdas and local names too."""
    name = pretty(symbol)
    if name != symbol or not symbol.startswith("_Z"):
        return name
    try:
        return str(cxxfilt.demangle(symbol.partition(".")[0]))
    except cxxfilt.Error:
        return symbol


def _debug_information(elf: Elf, file: BinaryIO, limit_bytes: int) -> Callable[[int], Sequence[str]]:
    """A function from an address, counted from the load address, to the mangled names there, innermost first.

    The library reads DWARF of 170 MB in two seconds; what Python has would need minutes.
    """
    for source in (f"/proc/self/fd/{file.fileno()}", *_separate(elf.build_id)):
        found = _lines_of(source, limit_bytes)
        if found is not None:
            return found
    return lambda _address: _NO_LINES


def _separate(build_id: str | None) -> Sequence[str]:
    if not build_id:
        return ()
    return (str(_DEBUG_FOLDER / build_id[:2] / f"{build_id[2:]}.debug"),)


def _lines_of(source: str, limit_bytes: int) -> Callable[[int], Sequence[str]] | None:
    try:
        if Path(source).stat().st_size > limit_bytes:
            return None
        objects = list(Archive.open(source).iter_objects())
        if len(objects) != 1 or "debug" not in objects[0].features:
            return None
        cache = objects[0].make_symcache()
    except (OSError, SymbolicError):
        return None

    def lines_at(address: int) -> Sequence[str]:
        try:
            return [line.symbol for line in cache.lookup(address) if line.symbol]  # type: ignore[no-untyped-call]
        except SymbolicError:
            return _NO_LINES

    return lines_at

"""What code at given places of a file is: function, what was inlined there, and whether it spins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from symbolic.exceptions import SymbolicError

from bitnet_trace.engines import debug_info
from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.names import readable
from bitnet_trace.engines.shapes import shape_of
from bitnet_trace.engines.spin import spinning
from bitnet_trace.engines.unwind import UnwindTable

_NO_NAMES: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """`function`: by the symbol table, else by debug information, else by the unwind table: `[FILE+0xBEGIN]`, or
    `[FILE+0xBEGIN, like I2_S]` where its code is recognised.

    `inlined`: the innermost function inlined there. Names are demangled; None: nothing tells. `spins`: in a loop around
    `pause`.
    """

    function: str | None
    inlined: str | None
    spins: bool


def symbolize(file: BinaryIO, path: str, offsets: Sequence[int], patient: bool = True) -> list[Place]:
    """The places at offsets of an x86-64 ELF file, in their order. Raises TraceError for what is no such file.

    Debug information of a large file takes seconds to read: not `patient`, it is left alone.
    """
    elf = Elf(file, path)
    unwind = UnwindTable(elf)
    addresses = [elf.address(offset) for offset in offsets]
    spins = spinning(elf, [address for address in addresses if address is not None], unwind)
    names_at = _debug_names(elf, file, path, debug_info.MAX_BYTES if patient else debug_info.QUICK_BYTES)
    unnamed: dict[tuple[int, int], str] = {}
    places = []
    for address in addresses:
        if address is None:
            places.append(Place(None, None, False))
            continue
        symbol = elf.function_at(address)
        names = names_at(address - elf.load_address)
        function = symbol.name if symbol else (names[-1] if names else None)
        inlined = names[0] if len(names) > 1 else None
        span = unwind.span_at(address) if function is None else None
        if span is not None:
            if span not in unnamed:
                shape = shape_of(elf, *span)
                unnamed[span] = f"[{path.rpartition('/')[2]}+{span[0]:#x}{f', {shape}' if shape else ''}]"
            function = unnamed[span]
        places.append(
            Place(readable(function) if function else None, readable(inlined) if inlined else None, address in spins)
        )
    return places


def _debug_names(elf: Elf, file: BinaryIO, path: str, limit_bytes: int) -> Callable[[int], Sequence[str]]:
    """A function from an address, counted from the load address, to the mangled names there, innermost first."""
    cache = debug_info.symbol_cache(elf, file, path, limit_bytes)
    if cache is None:
        return lambda _address: _NO_NAMES

    def names_at(address: int) -> Sequence[str]:
        try:
            return [line.symbol for line in cache.lookup(address) if line.symbol]
        except SymbolicError:
            return _NO_NAMES

    return names_at

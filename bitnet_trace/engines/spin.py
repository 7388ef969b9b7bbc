"""Which code waits by spinning: loops around a `pause` instruction, in any build, stripped and inlined ones too."""

from collections.abc import Iterable, Iterator

import capstone

from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.unwind import UnwindTable

_PAUSE = b"\xf3\x90"
_WINDOW = 2048  # bytes on each side of an address whose function nobody knows
_MAX_FUNCTION_BYTES = 1 << 18
_MAX_LOOP_BYTES = 4096  # a larger loop around one is what the program does, with a wait in it

_DISASSEMBLER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DISASSEMBLER.skipdata = True

Span = tuple[int, int]


def spinning(elf: Elf, addresses: Iterable[int], unwind: UnwindTable | None = None) -> set[int]:
    """Those of the virtual addresses that lie in the innermost loop around a `pause`."""
    unwind = unwind or UnwindTable(elf)
    found: set[int] = set()
    loops_of: dict[Span, list[Span]] = {}
    for address in addresses:
        span = _code_around(elf, unwind, address)
        if span not in loops_of:
            loops_of[span] = list(_spin_loops(elf.read(span[0], span[1] - span[0]), span[0]))
        if any(begin <= address < end for begin, end in loops_of[span]):
            found.add(address)
    return found


def _code_around(elf: Elf, unwind: UnwindTable, address: int) -> Span:
    function = elf.function_at(address)
    if function is not None and 0 < function.size <= _MAX_FUNCTION_BYTES:
        return function.address, function.address + function.size
    span = unwind.span_at(address)
    if span is not None and span[1] - span[0] <= _MAX_FUNCTION_BYTES:
        return span
    # decoding finds its way back to real instructions within a few of them
    begin, end = elf.segment_of(address) or (address, address)
    return max(address - _WINDOW, begin), min(address + _WINDOW, end)


def _spin_loops(code: bytes, address: int) -> Iterator[Span]:
    """For each `pause` the smallest loop that it is in: from the target of a jump backwards to that jump's end."""
    if _PAUSE not in code:
        return
    pauses, loops = [], []
    for at, size, mnemonic, operands in _DISASSEMBLER.disasm_lite(code, address):
        if mnemonic == "pause":
            pauses.append(at)
        elif mnemonic.startswith("j") and operands.startswith("0x"):
            target = int(operands, 16)
            if address <= target <= at and at + size - target <= _MAX_LOOP_BYTES:
                loops.append((target, at + size))
    for pause in pauses:
        around = [loop for loop in loops if loop[0] <= pause < loop[1]]
        if around:
            yield min(around, key=lambda loop: loop[1] - loop[0])

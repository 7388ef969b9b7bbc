"""Where in a function a probe costs least and still is hit once per call."""

import bisect
import functools
import itertools
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import capstone
from capstone import x86

from bitnet_trace.engines.code import CostClass, cost_class
from bitnet_trace.engines.copies import CopyRanges
from bitnet_trace.engines.elf import Elf, Symbol

_RANKS: dict[CostClass, int] = {"nop": 0, "emulated": 1, "single-step": 2, "refused": 9}
_MAX_FUNCTION_BYTES = 1 << 20
# of a function whose size nobody recorded: its entry block is within
_UNKNOWN_SIZE_BYTES = 256
_MAX_BLOCK = 64  # instructions: a cheap one comes long before
_MAX_TABLE_ENTRIES = 1024
_RELATIVE_TABLE = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")
_ABSOLUTE_TABLE = re.compile(r"\*8 \+ (0x[0-9a-f]+)\]")

_DISASSEMBLER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DETAILED = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DETAILED.detail = True
_ENDS = ("jmp", "ret", "ud2", "hlt", "int3")
_ENDS_BLOCK = (capstone.CS_GRP_JUMP, capstone.CS_GRP_CALL, capstone.CS_GRP_RET, capstone.CS_GRP_INT)


@dataclass(frozen=True, slots=True)
class Placement:
    """One instruction. At it the stack pointer plus `sp_offset` is what it was at the function's entry; `intact` are
    the 64-bit registers of those asked for that still hold what they held there."""

    address: int
    instruction: str
    code: bytes
    cost_class: CostClass
    sp_offset: int
    intact: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Flow:
    """How control goes through a function.

    `order`: where its instructions begin; `turns`: those that leave the straight line (jumps, calls, returns), `ends`:
    those that never go on to the next one; `jumps`: (from, to), those through tables as far as the tables are found;
    `targets`: all that they go to; `unknown`: others go where only the running program knows; `unframed_end`: before
    it, from the first instruction on, none of those lead, as they come after the stack pointer was moved: it would be
    moved once more.
    """

    order: tuple[int, ...]
    turns: frozenset[int]
    ends: frozenset[int]
    jumps: frozenset[tuple[int, int]]
    targets: frozenset[int]
    unknown: bool
    unframed_end: int

    def enters_only_from(self, ranges: tuple[tuple[int, int], ...], target: int) -> bool:
        """Whether all jumps to a place are from within ranges of code, and there are some."""
        sources = [source for source, to in self.jumps if to == target]
        return bool(sources) and all(_holds(ranges, source) for source in sources)


def cheapest(
    elf: Elf,
    function: Symbol,
    parts: Iterable[Symbol] = (),
    registers: Iterable[str] = (),
    stack_untouched: bool = False,
) -> Placement | str:
    """The cheapest instruction that runs exactly once per call of a function, the first of several; or why none does.

    Only the straight line from the entry to the first jump, call or return is looked at, and of that only what no jump
    within the function or its `parts` leads back to. `registers`: which to watch (`Placement.intact`).
    `stack_untouched`: only where the stack pointer is as at the entry, as a return probe needs it.
    """
    flow = _flow(elf, (function, *parts))
    if function.address in flow.targets:
        return "a loop begins at its first instruction"
    size = function.size or _UNKNOWN_SIZE_BYTES
    block = _straight_line(elf, function.address, size, flow, frozenset(registers))
    return _cheapest([one for one in block if not (stack_untouched and one.sp_offset)], function.address)


def cheapest_in_copy(elf: Elf, function: Symbol, parts: Iterable[Symbol], copy: CopyRanges) -> Placement | str:
    """The same for a function that was inlined into `function`: once each time that the copy is entered.

    Jumps from elsewhere to where it begins are its calls; none of its own may lead there. `sp_offset` says nothing.
    """
    flow = _flow(elf, (function, *parts))
    entries = _entries(flow, copy.ranges)
    if len(entries) != 1:
        return f"it is entered at {len(entries)} places"
    (entry,) = entries
    if any(_holds(copy.ranges, source) for source, target in flow.jumps if target == entry):
        return "a loop begins at its first instruction"
    return _cheapest(_straight_line(elf, entry, _MAX_BLOCK * 15, flow, frozenset()), entry)


def _entries(flow: _Flow, ranges: tuple[tuple[int, int], ...]) -> set[int]:
    """Where control comes into ranges of code from outside, by a jump or from the instruction before.

    Compilers move single instructions in and out of an inlined copy: where a straight line leaves the ranges and comes
    back, only its first coming in is one.
    """
    inside_targets = {target for target in flow.targets if _holds(ranges, target)}
    entries = {target for source, target in flow.jumps if target in inside_targets and not _holds(ranges, source)}
    for begin, end in ranges:
        first = max(bisect.bisect_left(flow.order, begin) - _MAX_BLOCK, 0)
        entries |= _fallen_into(flow, flow.order[first : bisect.bisect_left(flow.order, end)], ranges)
    return entries


def _fallen_into(flow: _Flow, addresses: tuple[int, ...], ranges: tuple[tuple[int, int], ...]) -> set[int]:
    """Those of instructions, one after the other, that the one before comes to from outside of the ranges."""
    entries = set()
    was_inside = False  # on this straight line
    for before, at in itertools.pairwise(addresses):
        falls = before not in flow.ends
        if before in flow.turns or at in flow.targets:
            was_inside = _holds(ranges, before) if falls else flow.enters_only_from(ranges, at)
        inside = _holds(ranges, at)
        if inside and falls and not was_inside and not _holds(ranges, before):
            entries.add(at)
        was_inside |= inside
    return entries


def _holds(ranges: tuple[tuple[int, int], ...], address: int) -> bool:
    return any(begin <= address < end for begin, end in ranges)


def _cheapest(block: list[Placement], address: int) -> Placement | str:
    allowed = [one for one in block if one.cost_class != "refused"]
    if not allowed:
        return f"the kernel allows no probe at {address:#x}"
    return min(allowed, key=lambda one: _RANKS[one.cost_class])


@functools.lru_cache(maxsize=4)
def _flow(elf: Elf, regions: tuple[Symbol, ...]) -> _Flow:
    order: list[int] = []
    turns: set[int] = set()
    ends: set[int] = set()
    jumps: set[tuple[int, int]] = set()
    tables: set[tuple[int, int]] = set()
    through_tables: list[int] = []
    first_push = 0
    unknown = False
    for region in regions:
        size = min(region.size, _MAX_FUNCTION_BYTES)
        unknown |= size != region.size or not size
        end = region.address
        for at, length, mnemonic, operands in _DISASSEMBLER.disasm_lite(elf.read(region.address, size), region.address):
            end = at + length
            order.append(at)
            operation = mnemonic.rpartition(" ")[2]
            is_jump = operation.startswith(("j", "loop"))
            if is_jump or operation in ("call", *_ENDS):
                turns.add(at)
            if operation in _ENDS:
                ends.add(at)
            if operation == "push" and not first_push:
                first_push = at
            if is_jump and operands.startswith("0x"):
                jumps.add((at, int(operands, 16)))
            elif is_jump:
                through_tables.append(at)
            table = _table(at + length, operation, operands)
            if table[1]:
                tables.add(table)
        if order:
            ends.add(order[-1])  # of its region
        unknown |= end < region.address + size  # what follows cannot be decoded
    if through_tables:
        boundaries = set(order)
        found = [targets for table in tables if (targets := _table_targets(elf, *table, boundaries))]
        unknown |= len(found) < len(through_tables)
        # from which jump makes no difference
        jumps.update((through_tables[0], target) for targets in found for target in targets)
    all_targets = frozenset(target for _, target in jumps)
    unframed_end = first_push if first_push < min(through_tables, default=0) else 0
    edges = frozenset(turns), frozenset(ends), frozenset(jumps)
    return _Flow(tuple(sorted(order)), *edges, all_targets, unknown, unframed_end)


def _table(following: int, operation: str, operands: str) -> tuple[int, int]:
    """(address, bytes of an entry) of what may be a table of jumps: one that is relative to its own address (4), or of
    addresses (8, only in programs that cannot be moved). (0, 0): none."""
    relative = _RELATIVE_TABLE.search(operands) if operation == "lea" else None
    if relative:
        distance = int(relative[2], 0)
        return following + (distance if relative[1] == "+" else -distance), 4
    absolute = _ABSOLUTE_TABLE.search(operands)
    return (int(absolute[1], 0), 8) if absolute else (0, 0)


def _table_targets(elf: Elf, address: int, entry_bytes: int, boundaries: set[int]) -> set[int]:
    """Where the entries lead, up to the first that leads to no instruction of the function."""
    data = elf.read(address, _MAX_TABLE_ENTRIES * entry_bytes)
    targets: set[int] = set()
    whole = data[: len(data) // entry_bytes * entry_bytes]
    for (value,) in struct.iter_unpack("<i" if entry_bytes == 4 else "<Q", whole):
        target = address + value if entry_bytes == 4 else value
        if target not in boundaries:
            break
        targets.add(target)
    return targets


def _straight_line(elf: Elf, start: int, size: int, flow: _Flow, registers: frozenset[str]) -> list[Placement]:
    """The places from `start` on, at most `size` bytes: up to the first jump, call or return, that one included."""
    found: list[Placement] = []
    sp_offset, intact, targets = 0, registers, flow.targets
    for instruction in _DETAILED.disasm(elf.read(start, min(size, _MAX_BLOCK * 15)), start, _MAX_BLOCK):
        at, code = instruction.address, bytes(instruction.bytes)
        if found and at in targets:
            break
        is_push = instruction.id == x86.X86_INS_PUSH
        # A jump through a table may lead anywhere, but hardly to the saving of registers: a loop would fill the stack.
        if not found or is_push or at < flow.unframed_end or not flow.unknown:
            cost = cost_class(code)
            text = f"{instruction.mnemonic} {instruction.op_str}".strip()
            found.append(Placement(at, text, code, cost, sp_offset, intact))
        if any(instruction.group(group) for group in _ENDS_BLOCK):
            break
        moved = _stack_moved(instruction)
        if moved is None:
            break
        sp_offset += moved
        intact -= _written(instruction)
    return found


def _stack_moved(instruction: capstone.CsInsn) -> int | None:
    """By how many bytes it lowers the stack pointer; None where that is not known."""
    if instruction.id == x86.X86_INS_PUSH:
        return 8 if b"\x66" not in bytes(instruction.bytes)[:1] else None
    if "rsp" not in _written(instruction):
        return 0
    operands = instruction.operands
    if instruction.id == x86.X86_INS_SUB and operands[1].type == x86.X86_OP_IMM:
        return int(operands[1].imm)
    if instruction.id == x86.X86_INS_ADD and operands[1].type == x86.X86_OP_IMM:
        return -int(operands[1].imm)
    return None


def _written(instruction: capstone.CsInsn) -> frozenset[str]:
    """The 64-bit registers that an instruction changes, wholly or in part."""
    _, written = instruction.regs_access()
    return frozenset(_whole(instruction.reg_name(register)) for register in written)


def _whole(name: str) -> str:
    """`edi`, `di` and `dil` to `rdi`; `r8d` to `r8`."""
    if name.startswith("r") and name[1:2].isdigit():
        return name.rstrip("dwb")
    if name.startswith("r"):
        return name
    base = name.removeprefix("e").removesuffix("l").removesuffix("h")
    if len(base) == 1:  # al, ah, bl …
        base += "x"
    return f"r{base}"

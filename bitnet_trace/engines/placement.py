"""Where in a function a probe costs least and still is hit once per call."""

from collections.abc import Iterable
from dataclasses import dataclass

import capstone
from capstone import x86

from bitnet_trace.engines.code import CostClass, cost_class
from bitnet_trace.engines.elf import Elf, Symbol

_RANKS: dict[CostClass, int] = {"nop": 0, "emulated": 1, "single-step": 2, "refused": 9}
_MAX_FUNCTION_BYTES = 1 << 20
# of a function whose size nobody recorded: its entry block is within
_UNKNOWN_SIZE_BYTES = 256
_MAX_BLOCK = 64  # instructions: a cheap one comes long before

_DISASSEMBLER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DETAILED = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DETAILED.detail = True
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
class _Jumps:
    """Where the jumps of a function go, and whether some go where only the running program knows."""

    targets: frozenset[int]
    unknown: bool


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
    jumps = _jumps(elf, [function, *parts])
    if function.address in jumps.targets:
        return "a loop begins at its first instruction"
    candidates = [
        one
        for one in _entry_block(elf, function, jumps, frozenset(registers))
        if one.cost_class != "refused" and not (stack_untouched and one.sp_offset)
    ]
    if not candidates:
        return f"the kernel allows no probe at {function.address:#x}"
    return min(candidates, key=lambda one: _RANKS[one.cost_class])


def _jumps(elf: Elf, regions: Iterable[Symbol]) -> _Jumps:
    targets: set[int] = set()
    unknown = False
    for region in regions:
        size = min(region.size, _MAX_FUNCTION_BYTES)
        unknown |= size != region.size or not size
        end = region.address
        for at, length, mnemonic, operands in _DISASSEMBLER.disasm_lite(elf.read(region.address, size), region.address):
            end = at + length
            operation = mnemonic.rpartition(" ")[2]
            if operation.startswith(("j", "loop")):
                if operands.startswith("0x"):
                    targets.add(int(operands, 16))
                else:
                    unknown = True
        unknown |= end < region.address + size  # what follows cannot be decoded
    return _Jumps(frozenset(targets), unknown)


def _entry_block(elf: Elf, function: Symbol, jumps: _Jumps, registers: frozenset[str]) -> list[Placement]:
    """The places of the straight line from the entry on, the first jump, call or return included."""
    size = min(function.size or _UNKNOWN_SIZE_BYTES, _MAX_BLOCK * 15)
    found: list[Placement] = []
    sp_offset, intact = 0, registers
    for instruction in _DETAILED.disasm(elf.read(function.address, size), function.address, _MAX_BLOCK):
        at, code = instruction.address, bytes(instruction.bytes)
        if found and at in jumps.targets:
            break
        is_push = instruction.id == x86.X86_INS_PUSH
        # A jump through a table may lead anywhere, but hardly to the saving of registers: a loop would fill the stack.
        if not found or is_push or not jumps.unknown:
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

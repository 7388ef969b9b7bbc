"""Machine code of probed functions: what a probe on an instruction costs, and where a function returns."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import capstone

from bitnet_trace.engines.elf import Elf, Symbol

CostClass = Literal["nop", "emulated", "single-step", "refused"]

_NOP_5_BYTES = bytes.fromhex("0f1f440000")
_ENDBR64 = bytes.fromhex("f30f1efa")
# Prefixes that the kernel's is_prefix_bad() refuses: es, cs, ss, ds segments and lock.
_REFUSED_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\xf0")
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")

_MAX_INSTRUCTION_BYTES = 15
# Far beyond any function and what it tail-jumps to; bounds the work on a damaged file.
_MAX_CODE_BYTES = 1 << 20
_MAX_TAIL_CALLS = 3
# For code without symbols: what is followed jump by jump before giving up.
_MAX_FOLLOWED = 4096

_DISASSEMBLER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
# operator delete and new, std::, and what C programs end with: probing in there would be hit all the time.
_RUNTIME_FUNCTION = re.compile(r"_Z([dn][la]|N?K?St|NK?9__gnu_cxx|NK?S[absiod])|(free|mem\w+|str\w+|v?f?printf|f\w+)$")
_FREES = re.compile(r"_Zd[la]Pv.*|free")
_RIP_SLOT = re.compile(r"qword ptr \[rip ([+-]) (0x[0-9a-f]+|\d+)\]")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: virtual address, length in bytes, mnemonic with prefixes, operands (Intel syntax)."""

    address: int
    size: int
    mnemonic: str
    operands: str

    def __str__(self) -> str:
        return f"{self.mnemonic} {self.operands}".strip()

    @property
    def operation(self) -> str:
        return self.mnemonic.rpartition(" ")[2]

    @property
    def direct_target(self) -> int | None:
        """Where a direct jump goes; None for everything else."""
        jumps = self.operation.startswith("j") and self.operands.startswith("0x")
        return int(self.operands, 16) if jumps else None


@dataclass(slots=True)
class Exits:
    """Where control leaves a function with the stack pointer that it was entered with.

    `addresses` are its `ret` instructions, those of functions that it tail-jumps to, and tail jumps that are not
    followed: into other files and into the C++ runtime, whose functions the whole program calls. `doubts` says in
    words which ways out are not among them.
    """

    addresses: set[int] = field(default_factory=set)
    doubts: list[str] = field(default_factory=list)


def cost_class(code: bytes) -> CostClass:
    """What the kernel does when a uprobe on this instruction is hit; `code` begins at the instruction.

    "nop": the 5-byte nop, patched to a fast call from Linux 6.18 on (0.2 µs). "emulated": `push` of a register,
    relative jumps and calls, one-byte `nop`s with prefixes (0.4 to 1 µs). "single-step": everything else, `endbr64`
    and `ret` included (1 to 3 µs on bare metal, up to 20 µs in a virtual machine). "refused": a prefix that the kernel
    allows no probe on. Source: branch_setup_xol_ops, push_setup_xol_ops and is_prefix_bad in
    arch/x86/kernel/uprobes.c of Linux.
    """
    if code.startswith(_NOP_5_BYTES):
        return "nop"
    prefixes = 0
    while prefixes < len(code) and code[prefixes] in _PREFIXES:
        prefixes += 1
    if _REFUSED_PREFIXES.intersection(code[:prefixes]):
        return "refused"
    opcode = code[prefixes : prefixes + 2]
    if not opcode:
        return "single-step"
    if 0x50 <= opcode[0] <= 0x57 and not prefixes:
        return "emulated"
    if opcode[0] == 0x41 and len(opcode) == 2 and 0x50 <= opcode[1] <= 0x57 and not prefixes:
        return "emulated"
    if opcode[0] == 0x90:
        return "emulated"
    branch = opcode[0] in (0xE8, 0xE9, 0xEB) or 0x70 <= opcode[0] <= 0x7F
    branch = branch or (opcode[0] == 0x0F and len(opcode) == 2 and 0x80 <= opcode[1] <= 0x8F)
    return "emulated" if branch and 0x66 not in code[:prefixes] else "single-step"


def instructions(elf: Elf, address: int, size: int) -> Iterator[Instruction]:
    """The instructions of [address, address + size), one after the other, up to the first that cannot be decoded."""
    for at, length, mnemonic, operands in _DISASSEMBLER.disasm_lite(elf.read(address, size), address):
        yield Instruction(at, length, mnemonic, operands)


def instruction_at(elf: Elf, address: int) -> Instruction | None:
    """The instruction at an address; None when there is none that can be decoded."""
    return next(instructions(elf, address, _MAX_INSTRUCTION_BYTES), None)


def jump_stub_target(elf: Elf, address: int) -> int | None:
    """Where a function goes that is nothing but a jump, as old names of renamed functions are; else None."""
    first = instruction_at(elf, address)
    if first is not None and first.operation == "endbr64":
        first = instruction_at(elf, address + first.size)
    if first is None or first.operation != "jmp":
        return None
    return _destination(elf, first)[1]


def frees_memory(elf: Elf, call: Instruction) -> bool:
    """Whether a call is of operator delete or free()."""
    target = int(call.operands, 16) if call.operands.startswith("0x") else None
    name, address = _destination_of(elf, target) if target is not None else ("", None)
    function = elf.function_at(address) if address is not None else None
    return bool(_FREES.fullmatch(name or (function.name if function else "")))


def find_exits(elf: Elf, function: Symbol, parts: list[Symbol], ends_at_jump: bool = False) -> Exits:
    """The exits of a function; `parts` are code of it that lies elsewhere (`.cold`).

    With `ends_at_jump` every tail jump is an exit and none is followed.
    """
    search = _ExitSearch(elf, follows_tail_calls=not ends_at_jump)
    search.function(function.address, function.size, depth=0)
    for part in parts:
        search.region(part.address, part.size, depth=0)
    return search.exits


class _ExitSearch:
    """The walk of find_exits: code of known size from end to end, code without symbols jump by jump."""

    def __init__(self, elf: Elf, follows_tail_calls: bool) -> None:
        self.exits = Exits()
        self._max_depth = _MAX_TAIL_CALLS if follows_tail_calls else 0
        self._elf = elf
        self._seen: list[tuple[int, int]] = []
        self._followed: set[int] = set()
        self._budget = _MAX_CODE_BYTES

    def function(self, address: int, size: int, depth: int) -> None:
        if size:
            self.region(address, size, depth)
        else:
            self._follow(address, depth)

    def region(self, address: int, size: int, depth: int) -> None:
        if self._was_seen(address):
            return
        self._budget -= size
        if self._budget < 0:
            self.exits.doubts.append(f"{size} bytes of code at {address:#x} are too many to look through")
            return
        self._seen.append((address, address + size))
        recent: list[Instruction] = []
        end = address
        for instruction in instructions(self._elf, address, size):
            self._step(instruction, recent, depth)
            recent = [*recent[-3:], instruction]
            end = instruction.address + instruction.size
        if end < address + size:
            self.exits.doubts.append(f"code at {end:#x} cannot be decoded")

    def _step(self, instruction: Instruction, recent: list[Instruction], depth: int) -> None:
        if instruction.operation == "ret":
            self.exits.addresses.add(instruction.address)
        elif instruction.direct_target is not None or (
            instruction.operation == "jmp" and not _is_switch(instruction, recent)
        ):
            self._leave(instruction, depth)

    def _leave(self, jump: Instruction, depth: int) -> None:
        """A jump: within the function, to another part of it, or to another function in place of a return."""
        name, target = _destination(self._elf, jump)
        if target is not None and self._was_seen(target):
            return
        function = self._elf.function_at(target) if target is not None else None
        if target is None and not name:
            if self._max_depth:
                # Ending the call here would cut off what the target does; the next call ends it at the latest.
                self.exits.doubts.append(
                    f"the tail jump at {jump.address:#x} goes where only the running program knows"
                )
            else:
                self.exits.addresses.add(jump.address)
        elif target is not None and function is None:
            self._follow(target, depth)
        elif function is not None and (function.address != target or ".cold" in function.name):
            self.region(function.address, function.size, depth)
        elif function is not None and depth < self._max_depth and not _RUNTIME_FUNCTION.match(function.name):
            self.function(function.address, function.size, depth + 1)
        elif jump.operation == "jmp":
            self.exits.addresses.add(jump.address)
        else:
            # A probe on a conditional jump is hit whether or not it is taken.
            self.exits.doubts.append(f"conditional tail jump to {name or function} at {jump.address:#x}")

    def _follow(self, start: int, depth: int) -> None:
        """Code of unknown extent. Jumps stay in it; where they leave it for a known function is a tail jump."""
        pending, steps = [start], 0
        while pending:
            address = pending.pop()
            recent: list[Instruction] = []
            while not self._was_seen(address):
                steps += 1
                instruction = instruction_at(self._elf, address)
                if instruction is None or steps > _MAX_FOLLOWED:
                    self.exits.doubts.append(f"code without a symbol at {start:#x} could not be followed to its end")
                    return
                self._followed.add(address)
                address += instruction.size
                target = instruction.direct_target
                if target is not None and self._elf.function_at(target) is None and not plt_slot(self._elf, target):
                    pending.append(target)
                else:
                    self._step(instruction, recent, depth)
                recent = [*recent[-3:], instruction]
                if instruction.operation in ("ret", "jmp", "ud2", "hlt", "int3"):
                    break

    def _was_seen(self, address: int) -> bool:
        return address in self._followed or any(begin <= address < end for begin, end in self._seen)


def _destination(elf: Elf, jump: Instruction) -> tuple[str, int | None]:
    """(name, address) of where a jump goes: directly, through a PLT slot or through the GOT.

    The address is None when that is known only at run time or lies in another file.
    """
    target = jump.direct_target
    if target is not None:
        return _destination_of(elf, target)
    slot = _rip_slot(jump)
    return (elf.slot_target(slot) if slot is not None else None) or ("", None)


def _destination_of(elf: Elf, target: int) -> tuple[str, int | None]:
    slot = plt_slot(elf, target)
    return ("", target) if slot is None else elf.slot_target(slot) or ("", None)


def plt_slot(elf: Elf, address: int) -> int | None:
    """The GOT slot that a PLT entry jumps through; None when there is no PLT entry at the address."""
    code = elf.read(address, _MAX_INSTRUCTION_BYTES)
    skipped = len(_ENDBR64) if code.startswith(_ENDBR64) else 0
    if code[skipped : skipped + 2] != b"\xff\x25" and code[skipped : skipped + 3] != b"\xf2\xff\x25":
        return None
    instruction = instruction_at(elf, address + skipped)
    return _rip_slot(instruction) if instruction is not None else None


def _rip_slot(jump: Instruction) -> int | None:
    match = _RIP_SLOT.fullmatch(jump.operands)
    if match is None:
        return None
    distance = int(match[2], 0)
    return jump.address + jump.size + (distance if match[1] == "+" else -distance)


def _is_switch(jump: Instruction, recent: list[Instruction]) -> bool:
    """Whether an indirect jump goes through the jump table of a `switch`.

    Tables are read by `jmp [table + index*8]`, or `add` the table's address to the entry in a register just before;
    `notrack` marks them in code for Intel CET. Anything else (a virtual function, a pointer) is a tail call.
    """
    if "notrack" in jump.mnemonic or "*8" in jump.operands:
        return True
    return any(before.operation == "add" and before.operands.split(",")[0] == jump.operands for before in recent)

"""Cheaper places for the end of a call than its `ret`, which the kernel has to single-step.

A `ret` is reached along straight code, into which jumps lead. Each way into that code is followed back to the nearest
jump, which the kernel emulates, or to the nearest call: what is called belongs to the function's time, so the place is
the instruction after it. A conditional jump counts only where it goes the right way, which the kernel side sees by the
flags. So each way to the `ret` passes one of the places, once, with nothing but moves, pops and the freeing of memory
behind it; and the stack pointer at each place is known, because every path to it was walked.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from bitnet_trace.engines.code import Instruction, frees_memory
from bitnet_trace.engines.elf import Elf

# Condition codes of x86, as the low four bits of a conditional jump's opcode have them; the lowest bit negates.
_CONDITIONS = ("jo", "jno", "jb", "jae", "je", "jne", "jbe", "ja", "js", "jns", "jp", "jnp", "jl", "jge", "jle", "jg")
_MAX_PLACES = 32
_LEAVES = frozenset({"ret", "jmp", "ud2", "hlt", "int3"})
_STACK = "rsp"


class End(NamedTuple):
    """An instruction that a call passes when it is about to return.

    `condition`: code of the condition that must hold there, -1: none. The stack pointer plus `sp_offset` is what it was
    at the function's entry.
    """

    address: int
    condition: int
    sp_offset: int


class _UnknownError(Exception):
    """What the walk cannot be sure of: the `ret` itself is probed."""


@dataclass(frozen=True)
class _Code:
    """A function's instructions by address, and where its direct jumps go."""

    instructions: dict[int, Instruction]
    before: dict[int, Instruction]
    jumps_to: dict[int, list[Instruction]]

    def next_after(self, one: Instruction) -> Iterator[int]:
        if one.direct_target is not None:
            yield one.direct_target
        if one.operation not in _LEAVES:
            yield one.address + one.size

    def in_loop(self, one: Instruction) -> bool:
        """Whether the function may come to an instruction again."""
        seen: set[int] = set()
        pending = list(self.next_after(one))
        while pending:
            address = pending.pop()
            if address not in seen and address in self.instructions:
                seen.add(address)
                pending.extend(self.next_after(self.instructions[address]))
        return one.address in seen


def cheap_ends(elf: Elf, parts: Sequence[Sequence[Instruction]], ret: int) -> list[End]:
    """Places that stand for one `ret`; empty where none can be had that is sure and cheaper.

    `parts`: the function's instructions from end to end, and those of parts of it that lie elsewhere.
    """
    if not any(one.address == ret for part in parts for one in part):
        return []  # of a function that it tail-jumps to
    try:
        code = _read(parts)
        depths = _depths(code, parts[0][0].address)
        if depths.get(ret) != 0:
            return []
        found = [End(address, condition, depths[address]) for address, condition in _places(elf, code, ret)]
        return found if all(end.address in depths for end in found) else []
    except (_UnknownError, KeyError):
        return []


def _read(parts: Sequence[Sequence[Instruction]]) -> _Code:
    instructions = {one.address: one for part in parts for one in part}
    before = {one.address: previous for part in parts for previous, one in pairwise(part)}
    jumps_to: dict[int, list[Instruction]] = defaultdict(list)
    for one in instructions.values():
        target = one.direct_target
        if target is not None:
            jumps_to[target].append(one)
        elif one.operation == "jmp":
            raise _UnknownError  # through a table, perhaps: it may lead anywhere
    return _Code(instructions, before, jumps_to)


# ---- the stack pointer ------------------------------------------------------------------------------------------


def _depths(code: _Code, entry: int) -> dict[int, int]:
    """By address: how many bytes the stack has grown since the entry, for all that can be reached from there.

    Raises _UnknownError where that depends on the path, or on the running program.
    """
    depths: dict[int, int] = {}
    frames = _Frames()
    pending = [(entry, 0)]
    while pending:
        address, depth = pending.pop()
        while address in code.instructions:
            if address in depths:
                if depths[address] != depth:
                    raise _UnknownError
                break
            depths[address] = depth
            one = code.instructions[address]
            if one.direct_target is not None:
                pending.append((one.direct_target, depth))
            if one.operation in _LEAVES:
                break
            depth = frames.after(one, depth)
            address += one.size
    return depths


class _Frames:
    """What single instructions do to the stack pointer. `rbp` is followed where it is the frame's base."""

    def __init__(self) -> None:
        self._base: int | None = None

    def after(self, one: Instruction, depth: int) -> int:
        operation, (first, _, second) = one.operation, one.operands.partition(", ")
        if operation in ("push", "pushfq"):
            return depth + 8
        if operation == "pop" and first != _STACK:
            return depth - 8
        if operation in ("add", "sub") and first == _STACK and second.removeprefix("-").startswith(tuple("0123456789")):
            bytes_ = _signed(int(second, 0))
            return depth - bytes_ if operation == "add" else depth + bytes_
        if operation == "mov" and (first, second) == ("rbp", _STACK):
            self._base = depth
        elif operation == "leave" and self._base is not None:
            return self._base - 8
        elif operation == "lea" and first == _STACK and self._base is not None and second.startswith("[rbp"):
            return self._base - _displacement(second)
        elif (first == _STACK and operation not in ("cmp", "test")) or operation in ("leave", "enter"):
            raise _UnknownError  # an array of variable size, or aligned
        return depth


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _displacement(operand: str) -> int:
    """Of `[rbp - 0x28]`."""
    sign, _, number = operand.strip("[]").removeprefix("rbp").strip().partition(" ")
    if not sign:
        return 0
    return int(number, 0) * (-1 if sign == "-" else 1)


# ---- the places -------------------------------------------------------------------------------------------------


def _places(elf: Elf, code: _Code, ret: int) -> Iterable[tuple[int, int]]:
    """(address, condition) of what the ways to an instruction pass last. Raises _UnknownError."""
    found: dict[int, int] = {}
    at = ret
    while True:
        for jump in code.jumps_to.get(at, ()):
            _add(code, found, jump, _condition(jump))
        previous = code.before.get(at)
        if previous is None:
            raise _UnknownError  # the entry itself, or something that no other leads to
        if previous.operation in _LEAVES:
            if at not in code.jumps_to:
                raise _UnknownError  # entered by an exception's unwinding, or never
            break
        if previous.direct_target is not None:
            _add(code, found, previous, _condition(previous) ^ 1)
            break
        if previous.operation == "call":
            if frees_memory(elf, previous):
                _add(code, found, previous, -1)
            elif at in code.jumps_to:
                raise _UnknownError  # the ways that jump here would be hit twice
            else:
                _add(code, found, code.instructions[at], -1)
            break
        if previous.operation == "push":
            raise _UnknownError  # not on the way out
        at = previous.address
    return found.items()


def _add(code: _Code, found: dict[int, int], one: Instruction, condition: int) -> None:
    # a conditional jump of a loop would be hit at each turn
    if one.address in found or len(found) == _MAX_PLACES or (condition >= 0 and code.in_loop(one)):
        raise _UnknownError
    found[one.address] = condition


def _condition(jump: Instruction) -> int:
    if jump.operation == "jmp":
        return -1
    if jump.operation not in _CONDITIONS:
        raise _UnknownError  # jrcxz
    return _CONDITIONS.index(jump.operation)

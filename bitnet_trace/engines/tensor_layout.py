"""Where the engine's tensors have their operation, name and sources, and what the operations are called."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import capstone
from capstone import x86
from elftools.elf.elffile import ELFFile

from bitnet_trace.engines.elf import Elf

_STRUCT, _ENUM, _PREFIX = b"ggml_tensor", b"ggml_op", b"GGML_OP_"
# DW_LANG_C89, _C, _C99, _C11, _C17: the structure is C's, and C++ units are long
_C_LANGUAGES = (0x01, 0x02, 0x0C, 0x1D, 0x2C)
_MAX_UNITS, _MAX_ENTRIES, _MAX_OFFSET = 512, 50_000, 1024
_MAX_CODE_BYTES = 64

# Without debug information the offset of the name, which the code of ggml_get_name() has, tells the version: by it
# (operation, first source). The first is llama.cpp's since it has no gradients in tensors (November 2024); the second
# what was before, and BitNet's fork and T-MAC's with it; the last is ik_llama.cpp's (2026), with more sources.
_BY_NAME_OFFSET = {256: (80, 152), 264: (80, 160), 312: (80, 160)}
_MAX_NAMES, _MAX_NAME_BYTES = 512, 48
_NAME = re.compile(rb"[A-Z][A-Z0-9_()+*/.-]*")

_DISASSEMBLER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DISASSEMBLER.detail = True


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Offsets in `struct ggml_tensor` in bytes; `names`: of operations, by number (empty: not known). `source`: what
    told: "debug information", or "version" for a table of them."""

    operation: int
    name: int
    first_source: int
    names: tuple[str, ...]
    source: str


def tensor_layout(elf: Elf) -> TensorLayout | None:
    """What a file tells of the tensors of the engine that it is, or a part of; None: nothing."""
    getter = _function(elf, "ggml_get_name")
    if getter is None:
        return None  # it may have the structure's description, but another file is asked for it
    names = tuple(_operation_names(elf))
    found = _by_debug_information(elf)
    if found is not None:
        offsets, described = found
        return TensorLayout(*offsets, names or described, "debug information")
    name = next((offset for offset in _offsets_from(elf, getter, "rdi") if 0 < offset < _MAX_OFFSET), None)
    if name not in _BY_NAME_OFFSET:
        return None
    operation, first_source = _BY_NAME_OFFSET[name]
    return TensorLayout(operation, name, first_source, names, "version")


# ---- debug information ----------------------------------------------------------------------------------------------


def _by_debug_information(elf: Elf) -> tuple[tuple[int, int, int], tuple[str, ...]] | None:
    """(offsets, names of operations) by the first C unit that describes the structure."""
    try:
        dwarf = ELFFile(elf.file).get_dwarf_info(relocate_dwarf_sections=False)
        if not dwarf.has_debug_info:
            return None
        for number, unit in enumerate(dwarf.iter_CUs()):
            language = unit.get_top_DIE().attributes.get("DW_AT_language")
            if number >= _MAX_UNITS:
                return None
            if language is not None and language.value in _C_LANGUAGES:
                found = _in_unit(unit)
                if found is not None:
                    return found
    except Exception:
        pass  # the library has no one error for what damage can do to it; the version's table is left
    return None


def _in_unit(unit: Any) -> tuple[tuple[int, int, int], tuple[str, ...]] | None:
    offsets: dict[bytes, int] = {}
    names: tuple[str, ...] = ()
    for number, entry in enumerate(unit.iter_DIE_children(unit.get_top_DIE())):
        if number >= _MAX_ENTRIES:
            break
        own = entry.attributes.get("DW_AT_name")
        if own is None or own.value not in (_STRUCT, _ENUM):
            continue
        if entry.tag == "DW_TAG_structure_type" and own.value == _STRUCT and entry.has_children:
            offsets = {
                member.attributes["DW_AT_name"].value: member.attributes["DW_AT_data_member_location"].value
                for member in entry.iter_children()
                if {"DW_AT_name", "DW_AT_data_member_location"} <= member.attributes.keys()
            }
        elif entry.tag == "DW_TAG_enumeration_type" and own.value == _ENUM:
            names = _enumerators(entry)
        if offsets and names:
            break
    wanted = [offsets.get(member) for member in (b"op", b"name", b"src")]
    if any(not isinstance(one, int) or not 0 <= one < _MAX_OFFSET for one in wanted):
        return None
    return (int(wanted[0] or 0), int(wanted[1] or 0), int(wanted[2] or 0)), names


def _enumerators(entry: Any) -> tuple[str, ...]:
    numbers = {
        member.attributes["DW_AT_const_value"].value: member.attributes["DW_AT_name"].value
        for member in entry.iter_children()
        if member.tag == "DW_TAG_enumerator"
    }
    known = range(min(len(numbers), _MAX_NAMES))
    texts = [bytes(numbers.get(number, b"")).removeprefix(_PREFIX).decode(errors="replace") for number in known]
    return tuple(text for text in texts if text != "COUNT")


# ---- machine code ---------------------------------------------------------------------------------------------------


def _function(elf: Elf, name: str) -> int | None:
    found = [symbol for symbol in elf.functions_containing([name.encode()]) if symbol.name == name]
    return found[0].address if found else None


def _instructions(elf: Elf, address: int) -> Iterator[Any]:
    for instruction in _DISASSEMBLER.disasm(elf.read(address, _MAX_CODE_BYTES), address):
        yield instruction
        if instruction.group(capstone.CS_GRP_RET) or instruction.group(capstone.CS_GRP_JUMP):
            return


def _offsets_from(elf: Elf, address: int, register: str) -> Iterator[int]:
    """The distances of `lea` from a register, in a function's straight line."""
    for instruction in _instructions(elf, address):
        if instruction.id == x86.X86_INS_LEA:
            memory = instruction.operands[1].mem
            if instruction.reg_name(memory.base) == register and not memory.index:
                yield int(memory.disp)


def _operation_names(elf: Elf) -> Iterator[str]:
    """The table that ggml_op_name() reads: pointers to texts, up to the first that is none."""
    address = _function(elf, "ggml_op_name")
    table = next(_tables(elf, address), None) if address is not None else None
    if table is None:
        return
    for number in range(_MAX_NAMES):
        text = elf.read(_pointer(elf, table + 8 * number), _MAX_NAME_BYTES).split(b"\0")[0]
        if not _NAME.fullmatch(text):
            return
        yield text.decode()


def _tables(elf: Elf, address: int) -> Iterator[int]:
    """Addresses that a function forms: relative to its code, or as they are."""
    for instruction in _instructions(elf, address):
        for operand in instruction.operands:
            if operand.type == x86.X86_OP_MEM and instruction.reg_name(operand.mem.base) == "rip":
                yield instruction.address + instruction.size + operand.mem.disp
            elif operand.type == x86.X86_OP_MEM and operand.mem.index and not operand.mem.base:
                yield int(operand.mem.disp)


def _pointer(elf: Elf, slot: int) -> int:
    """What will be in a slot of data: what relocation puts there, else what the file has."""
    moved = elf.slot_target(slot)
    if moved is not None and moved[1] is not None:
        return moved[1]
    data = elf.read(slot, 8)
    return int(struct.unpack("<Q", data)[0]) if len(data) == 8 else 0

"""The code of inlined copies of a function, range by range, by the debug information of the file itself (DWARF)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from elftools.dwarf.locationlists import BaseAddressEntry as LocationBase
from elftools.dwarf.locationlists import LocationEntry
from elftools.dwarf.ranges import BaseAddressEntry, RangeEntry
from elftools.elf.elffile import ELFFile

# Half a megabyte takes a second to read, and the program waits for that.
_MAX_INFO_BYTES = 1 << 20
_MAX_COPIES = 256
# DWARF's numbers of x86-64's registers (System V ABI, AMD64 supplement, figure 3.36), by their names in struct pt_regs
_REGISTERS = ("ax", "dx", "cx", "bx", "si", "di", "bp", "sp", *(f"r{number}" for number in range(8, 16)))
_OP_REG0 = 0x50


@dataclass(frozen=True, slots=True)
class CopyRanges:
    """One copy: the ranges of virtual addresses that its code lies in, padding among it.

    Where it is entered they do not say: compilers move its parts about. `registers`: in which one
    (as in pt_regs_fields()) a parameter lies from one address to another, where it lies in one.
    """

    ranges: tuple[tuple[int, int], ...]
    registers: tuple[tuple[int, int, str], ...] = ()

    def register_at(self, address: int) -> str | None:
        """Where the parameter lies when the instruction at an address is about to run."""
        return next((name for begin, end, name in self.registers if begin <= address < end), None)


def copies_of(file: BinaryIO, name: str, parameter: str | None = None) -> list[CopyRanges] | str:
    """Every inlined copy of a C function, by address, with the places of a parameter; or why they are not known.

    Of files with more than 1 MiB of debug information none are looked for.
    """
    try:
        elf = ELFFile(file)
        section = elf.get_section_by_name(".debug_info")
        if section is None:
            return "no debug information (-g) tells where it was inlined"
        if section.data_size > _MAX_INFO_BYTES:
            return f"{section.data_size >> 20} MiB of debug information are not searched for inlined copies"
        dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False)
        wanted = name.encode(), parameter.encode() if parameter else None
        found = {copy.ranges: copy for unit in dwarf.iter_CUs() for copy in _copies_in(dwarf, unit, *wanted)}
    except Exception as error:
        # the library has no one error for what damage can do to it
        return f"its debug information cannot be read ({type(error).__name__})"
    if not found:
        return "debug information knows of no inlined copy"
    return [found[ranges] for ranges in sorted(found)][:_MAX_COPIES]


def _copies_in(dwarf: Any, unit: Any, name: bytes, parameter: bytes | None) -> Iterator[CopyRanges]:
    """Definitions may follow their copies, so those are kept until the unit was read."""
    definitions: set[int] = set()
    copies: list[tuple[int, Any]] = []
    for entry in unit.iter_DIEs():
        if entry.tag == "DW_TAG_subprogram":
            own = entry.attributes.get("DW_AT_name")
            if own is not None and own.value == name:
                definitions.add(entry.offset)
        elif entry.tag == "DW_TAG_inlined_subroutine":
            origin = entry.attributes.get("DW_AT_abstract_origin")
            if origin is not None and origin.form != "DW_FORM_ref_addr":
                copies.append((origin.value + unit.cu_offset, entry))
    for origin, entry in copies:
        if origin in definitions:
            ranges = tuple(_ranges(dwarf, unit, entry))
            if ranges:
                yield CopyRanges(ranges, tuple(_registers(dwarf, unit, entry, parameter)) if parameter else ())


def _registers(dwarf: Any, unit: Any, copy: Any, parameter: bytes) -> Iterator[tuple[int, int, str]]:
    """The ranges in which a parameter lies in one register, as a whole (DW_OP_reg0 to DW_OP_reg15)."""
    for entry in copy.iter_children():
        origin = entry.attributes.get("DW_AT_abstract_origin")
        if entry.tag != "DW_TAG_formal_parameter" or origin is None or origin.form == "DW_FORM_ref_addr":
            continue
        own = dwarf.get_DIE_from_refaddr(origin.value + unit.cu_offset, unit).attributes.get("DW_AT_name")
        place = entry.attributes.get("DW_AT_location")
        if own is None or own.value != parameter or place is None:
            continue
        if place.form == "DW_FORM_exprloc":
            parts = [(0, 1 << 64, place.value)]
        else:
            parts = list(_located(dwarf, unit, entry, place))
        for begin, end, expression in parts:
            if len(expression) == 1 and _OP_REG0 <= expression[0] < _OP_REG0 + len(_REGISTERS):
                yield begin, end, _REGISTERS[expression[0] - _OP_REG0]


def _located(dwarf: Any, unit: Any, entry: Any, place: Any) -> Iterator[tuple[int, int, list[int]]]:
    first = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
    base = first.value if first is not None else 0
    for part in dwarf.location_lists().get_location_list_at_offset(place.value, die=entry):
        if isinstance(part, LocationBase):
            base = part.base_address
        elif isinstance(part, LocationEntry):
            start = 0 if part.is_absolute else base
            yield start + part.begin_offset, start + part.end_offset, part.loc_expr


def _ranges(dwarf: Any, unit: Any, entry: Any) -> Iterator[tuple[int, int]]:
    low, high = entry.attributes.get("DW_AT_low_pc"), entry.attributes.get("DW_AT_high_pc")
    if low is not None and high is not None:
        end = high.value if high.form == "DW_FORM_addr" else low.value + high.value
        yield low.value, end
        return
    listed = entry.attributes.get("DW_AT_ranges")
    if listed is None:
        return
    first = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
    base = first.value if first is not None else 0
    lists = dwarf.range_lists()
    for part in lists.get_range_list_at_offset(listed.value, cu=unit):
        if isinstance(part, BaseAddressEntry):
            base = part.base_address
        elif isinstance(part, RangeEntry):
            start = 0 if part.is_absolute else base
            yield start + part.begin_offset, start + part.end_offset

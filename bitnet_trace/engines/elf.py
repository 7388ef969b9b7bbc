"""An ELF file as probing needs it: functions by name, file offsets, linking information.

Works on an open file and never on a path: a privileged tracer hands over descriptors of what is mapped, and a name may
have come to mean another file since. The tables are viewed with numpy and a name is looked for in the bytes of the
string table first, so that the cost follows the size of the tables (10 ms for the 4 MB of a large engine) and debug
information is never read. Every size and offset in the file is checked against the file: a damaged one is one
`TraceError`.

Layouts: System V ABI, chapters 4 and 5, and its x86-64 supplement.
"""

import functools
import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from bitnet_trace.errors import TraceError

Table = npt.NDArray[Any]

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_IDENT_64_BIT_LITTLE_ENDIAN = b"\x7fELF\x02\x01\x01"
_ET_EXEC, _ET_DYN = 2, 3
_EM_X86_64 = 62

_SEGMENT = np.dtype("<u4,<u4,<u8,<u8,<u8,<u8,<u8,<u8")
_SEGMENT.names = ("type", "flags", "offset", "address", "physical", "file_size", "memory_size", "align")
_SECTION = np.dtype("<u4,<u4,<u8,<u8,<u8,<u8,<u4,<u4,<u8,<u8")
_SECTION.names = ("name", "type", "flags", "address", "offset", "size", "link", "info", "align", "entry_size")
_SYMBOL = np.dtype("<u4,u1,u1,<u2,<u8,<u8")
_SYMBOL.names = ("name", "info", "other", "section", "value", "size")
_RELOCATION = np.dtype("<u8,<u4,<u4,<i8")
_RELOCATION.names = ("offset", "type", "symbol", "addend")
_DYNAMIC = np.dtype("<i8,<u8")
_DYNAMIC.names = ("tag", "value")

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE, _PT_GNU_EH_FRAME = 1, 2, 3, 4, 0x6474E550
_SHT_PROGBITS, _SHT_SYMTAB, _SHT_RELA, _SHT_DYNSYM = 1, 2, 4, 11
_STT_FUNC = 2
_SHF_EXECINSTR = 4
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 14, 15, 29
_R_GLOB_DAT, _R_JUMP_SLOT, _R_RELATIVE = 6, 7, 8
_NT_GNU_BUILD_ID = 3

# Beyond what any compiler writes; they bound the work that a damaged or hostile file can ask for.
_MAX_TABLE_BYTES = 256 << 20
_MAX_NAME_BYTES = 8192
_MAX_HITS = 20_000


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function of the file: `name` as the compiler wrote it, `address` virtual, `size` in bytes (0: not recorded)."""

    name: str
    address: int
    size: int


class Elf:
    """An x86-64 executable or shared object.

    `file` stays open and is read by this object while it is used. `path` serves messages only.
    Raises TraceError when it is no such file, or damaged.
    """

    def __init__(self, file: BinaryIO, path: str = "file") -> None:
        self._file = file
        self.path = path
        self._length = self._file_length()
        header = self._read(0, _HEADER.size) if self._length >= _HEADER.size else b""
        if not header.startswith(b"\x7fELF"):
            raise TraceError(f"{path} is no ELF file", "give a program or a shared library (.so)")
        (ident, kind, machine, _, _, segments, sections, _, _) = _HEADER.unpack(header)[:9]
        segment_size, n_segments, section_size, n_sections, self._names_section = _HEADER.unpack(header)[9:]
        if not ident.startswith(_IDENT_64_BIT_LITTLE_ENDIAN) or machine != _EM_X86_64:
            raise TraceError(f"{path} is not for x86-64", "bitnet-trace probes 64-bit x86 programs only")
        if kind not in (_ET_EXEC, _ET_DYN):
            raise TraceError(f"{path} is neither a program nor a shared library", "link it first")
        self._segments = self._table(segments, n_segments, segment_size, _SEGMENT)
        self._sections = self._table(sections, n_sections, section_size, _SECTION)

    # ---- what it is and what it needs -----------------------------------------------------------------------

    @property
    def stripped(self) -> bool:
        """True without .symtab: local functions have no names then, exported ones still have."""
        return not len(self._sections_of_type(_SHT_SYMTAB))

    @functools.cached_property
    def build_id(self) -> str | None:
        """The linker's build id in hexadecimal, None when there is none."""
        for segment in self._segments_of_type(_PT_NOTE):
            notes = self._contents(segment, "file_size")
            position = 0
            while position + 12 <= len(notes):
                name_size, size, kind = struct.unpack_from("<III", notes, position)
                name_at = position + 12
                at = name_at + (name_size + 3) // 4 * 4
                if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + 4] == b"GNU\0":
                    return notes[at : at + size].hex()
                position = at + (size + 3) // 4 * 4
        return None

    @functools.cached_property
    def interpreter(self) -> str | None:
        """The dynamic linker that the file asks for; None for static programs and most libraries."""
        for segment in self._segments_of_type(_PT_INTERP):
            return self._contents(segment, "file_size").rstrip(b"\0").decode(errors="replace")
        return None

    @functools.cached_property
    def debug_link(self) -> tuple[str, int] | None:
        """Name and CRC-32 of the file that the debug information was moved to (.gnu_debuglink); None without one."""
        _, contents = self.section(".gnu_debuglink") or (0, b"")
        name = contents.partition(b"\0")[0].decode(errors="replace")
        return (name, int.from_bytes(contents[-4:], "little")) if name else None

    def section(self, name: str) -> tuple[int, bytes] | None:
        """Address and contents of the first section with that name; None when there is none."""
        for names in self._sections[self._names_section :][:1]:
            strings = self._contents(names, "size")
            for section in self._sections:
                if _string(strings, int(section["name"])) == name:
                    return int(section["address"]), self._contents(section, "size")
        return None

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the libraries that it needs (DT_NEEDED), in the dynamic linker's order."""
        return self._dynamic_strings(_DT_NEEDED)

    @property
    def soname(self) -> str | None:
        return next(iter(self._dynamic_strings(_DT_SONAME)), None)

    @property
    def rpath(self) -> tuple[str, ...]:
        """Folders of DT_RPATH, with `$ORIGIN` as written. Searched before LD_LIBRARY_PATH when `runpath` is empty."""
        return tuple(folder for value in self._dynamic_strings(_DT_RPATH) for folder in value.split(":") if folder)

    @property
    def runpath(self) -> tuple[str, ...]:
        """Folders of DT_RUNPATH, with `$ORIGIN` as written. Searched after LD_LIBRARY_PATH."""
        return tuple(folder for value in self._dynamic_strings(_DT_RUNPATH) for folder in value.split(":") if folder)

    # ---- addresses ------------------------------------------------------------------------------------------

    def file_offset(self, address: int) -> int:
        """Where the byte at a virtual address lies in the file. Raises TraceError when no segment holds it."""
        for segment in self._segments_of_type(_PT_LOAD):
            start = int(segment["address"])
            if start <= address < start + int(segment["file_size"]):
                return address - start + int(segment["offset"])
        raise self._damaged(f"no segment holds the address {address:#x}")

    def address(self, offset: int) -> int | None:
        """The virtual address of a byte of the file; None when no segment holds it."""
        for segment in self._segments_of_type(_PT_LOAD):
            start = int(segment["offset"])
            if start <= offset < start + int(segment["file_size"]):
                return offset - start + int(segment["address"])
        return None

    def segment_of(self, address: int) -> tuple[int, int] | None:
        """Begin and end of what the file has around a virtual address; None when no segment holds it."""
        for segment in self._segments_of_type(_PT_LOAD):
            start, length = int(segment["address"]), int(segment["file_size"])
            if start <= address < start + length:
                return start, start + length
        return None

    @functools.cached_property
    def load_address(self) -> int:
        """The lowest virtual address: 0 for what is loaded anywhere."""
        return min((int(segment["address"]) for segment in self._segments_of_type(_PT_LOAD)), default=0)

    @functools.cached_property
    def unwind_header(self) -> int | None:
        """The address of .eh_frame_hdr; None when there is none."""
        return next((int(segment["address"]) for segment in self._segments_of_type(_PT_GNU_EH_FRAME)), None)

    def read(self, address: int, size: int) -> bytes:
        """Up to `size` bytes at a virtual address; fewer at the end of its segment, none outside of all."""
        for segment in self._segments_of_type(_PT_LOAD):
            start, length = int(segment["address"]), int(segment["file_size"])
            if start <= address < start + length:
                size = min(size, start + length - address)
                return self._read(address - start + int(segment["offset"]), size)
        return b""

    # ---- names ----------------------------------------------------------------------------------------------

    def mentions(self, text: bytes) -> bool:
        """Whether any symbol's name, defined here or imported, contains the text."""
        return any(text in strings for _, strings in self.symbol_tables)

    def names_any(self, names: Iterable[str]) -> str | None:
        """The first of the names that is exactly the name of a symbol, defined here or imported."""
        for name in names:
            ended = name.encode() + b"\0"
            # Linkers store a name that ends another one only once, so what precedes it says nothing: the table decides.
            for symbols, strings in self.symbol_tables:
                if any((symbols["name"] == at).any() for at in _occurrences(strings, ended, limit=8)):
                    return name
        return None

    def functions_containing(self, needles: Iterable[bytes]) -> list[Symbol]:
        """Every function defined here whose name contains one of the needles, ordered by address, then name."""
        found: set[Symbol] = set()
        searches = _searches(needles)
        for symbols, strings in self.symbol_tables:
            spans = set()
            for search in searches:
                for hit in itertools.islice(search.finditer(strings), _MAX_HITS):
                    at = hit.start()
                    begin = strings.rfind(b"\0", max(0, at - _MAX_NAME_BYTES), at) + 1
                    spans.add((begin or max(0, at - _MAX_NAME_BYTES), at))
            if spans:
                found.update(self._named_within(symbols, strings, spans))
            if len(found) > _MAX_HITS:
                raise self._damaged("too many symbols have one name")
        return sorted(found, key=lambda symbol: (symbol.address, symbol.name))

    def plt_entries(self) -> Iterator[int]:
        """Addresses at which entries of the procedure linkage table lie, of all of its sections."""
        for section in self._sections:
            size = int(section["entry_size"])
            if int(section["flags"]) & _SHF_EXECINSTR and size in (8, 16):
                begin = int(section["address"])
                yield from range(begin, begin + min(int(section["size"]), _MAX_HITS * size), size)

    def function_at(self, address: int) -> Symbol | None:
        """The function whose code holds the address, the largest where several do; None when no symbol says."""
        starts, ends, tables, rows = self._functions_by_address
        index = int(np.searchsorted(starts, address, side="right")) - 1
        if index < 0:
            return None
        first = int(np.searchsorted(starts, starts[index]))
        best = first + int(np.argmax(ends[first : index + 1]))
        if address >= ends[best] and address != starts[best]:
            return None
        return self._symbol(*self.symbol_tables[int(tables[best])], int(rows[best]))

    def slot_target(self, slot: int) -> tuple[str, int | None] | None:
        """What the dynamic linker writes into a GOT slot: (name, address), the address None when imported.

        None when no relocation names the slot. The name is empty for a relocation to an address of this file.
        """
        for linked, relocations in self._relocations:
            for row in relocations[relocations["offset"] == slot][:1]:
                if row["type"] == _R_RELATIVE:
                    return "", int(row["addend"])
                if row["type"] not in (_R_GLOB_DAT, _R_JUMP_SLOT):
                    # IRELATIVE: one of several versions of a function, chosen at start (memcpy in static programs).
                    return "a function chosen at start", None
                return self._linked_symbol(linked, int(row["symbol"]))
        return None

    @property
    def file(self) -> BinaryIO:
        """The open file."""
        return self._file

    def holds_debug_text(self, names: Iterable[str]) -> bool:
        """Whether the texts of its debug information have one of the names as a whole."""
        sections = [
            section for section in self._sections if section["type"] == _SHT_PROGBITS and section["flags"] & 0x30
        ]
        texts = [self._contents(section, "size") for section in sections if int(section["size"]) <= _MAX_TABLE_BYTES]
        wanted = [name.encode() + b"\0" for name in names]
        return any(text.startswith(name) or b"\0" + name in text for text in texts for name in wanted)

    def holds_text(self, texts: Iterable[bytes]) -> bytes | None:
        """The first of the texts that occurs in read-only data (segments that are neither written nor executed)."""
        texts = list(texts)
        for segment in self._segments_of_type(_PT_LOAD):
            if int(segment["flags"]) & 3 == 0 or int(segment["flags"]) == 5:
                contents = self._contents(segment, "file_size")
                for text in texts:
                    if text in contents:
                        return text
        return None

    # ---- tables ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def symbol_tables(self) -> list[tuple[Table, bytes]]:
        """(.symtab, its strings) and (.dynsym, its strings), those that exist: arrays of `struct Elf64_Sym`."""
        tables = []
        for kind in (_SHT_SYMTAB, _SHT_DYNSYM):
            for section in self._sections_of_type(kind)[:1]:
                strings = self._sections[int(section["link"]) :][:1]
                if not len(strings):
                    raise self._damaged("a symbol table has no string table")
                tables.append((self._rows(section, _SYMBOL), self._contents(strings[0], "size")))
        return tables

    @functools.cached_property
    def _relocations(self) -> list[tuple[int, Table]]:
        """Of each section of relocations the number of its symbol table, and its rows."""
        return [(int(one["link"]), self._rows(one, _RELOCATION)) for one in self._sections_of_type(_SHT_RELA)]

    @functools.cached_property
    def _functions_by_address(self) -> tuple[Table, Table, Table, Table]:
        """Begin and end address of every function, ordered by begin, with its table and row."""
        parts = [np.zeros((4, 0), np.uint64)]
        for number, (symbols, _) in enumerate(self.symbol_tables):
            rows = np.flatnonzero(_is_function(symbols)).astype(np.uint64)
            begins = symbols["value"][rows]
            parts.append(np.stack([begins, begins + symbols["size"][rows], np.full_like(rows, number), rows]))
        begins, ends, tables, rows = np.concatenate(parts, axis=1)
        order = np.argsort(begins, kind="stable")
        return begins[order], ends[order], tables[order], rows[order]

    def _named_within(self, symbols: Table, strings: bytes, spans: set[tuple[int, int]]) -> Iterator[Symbol]:
        """Functions whose name begins within one of the spans of the string table."""
        functions = np.flatnonzero(_is_function(symbols))
        order = functions[np.argsort(symbols["name"][functions], kind="stable")]
        names = symbols["name"][order]
        firsts = np.searchsorted(names, [begin for begin, _ in spans], side="left")
        lasts = np.searchsorted(names, [end for _, end in spans], side="right")
        if int((lasts - firsts).sum()) > _MAX_HITS:
            raise self._damaged("too many symbols have one name")
        for first, last in zip(firsts, lasts, strict=True):
            for row in order[first:last]:
                yield self._symbol(symbols, strings, int(row))

    def _symbol(self, symbols: Table, strings: bytes, row: int) -> Symbol:
        entry = symbols[row]
        return Symbol(_string(strings, int(entry["name"])), int(entry["value"]), int(entry["size"]))

    def _linked_symbol(self, section: int, row: int) -> tuple[str, int | None] | None:
        for linked in self._sections[section : section + 1]:
            symbols = self._rows(linked, _SYMBOL)
            for strings in self._sections[int(linked["link"]) :][:1]:
                if row < len(symbols):
                    symbol = self._symbol(symbols, self._contents(strings, "size"), row)
                    return symbol.name, symbol.address or None
        return None

    def _dynamic_strings(self, tag: int) -> tuple[str, ...]:
        for segment in self._segments_of_type(_PT_DYNAMIC):
            contents = self._contents(segment, "file_size")
            entries = np.frombuffer(contents, _DYNAMIC, len(contents) // _DYNAMIC.itemsize)
            entries = entries[: (np.flatnonzero(entries["tag"] == 0)[:1].tolist() or [len(entries)])[0]]
            values = {key: entries["value"][entries["tag"] == key].tolist() for key in (tag, _DT_STRTAB, _DT_STRSZ)}
            if values[tag] and values[_DT_STRTAB] and values[_DT_STRSZ]:
                strings = self.read(values[_DT_STRTAB][0], min(values[_DT_STRSZ][0], _MAX_TABLE_BYTES))
                return tuple(_string(strings, offset) for offset in values[tag][:1000])
        return ()

    def _segments_of_type(self, kind: int) -> Table:
        chosen: Table = self._segments[self._segments["type"] == kind]
        return chosen

    def _sections_of_type(self, kind: int) -> Table:
        chosen: Table = self._sections[self._sections["type"] == kind]
        return chosen

    def _rows(self, section: Any, layout: np.dtype[Any]) -> Table:
        contents = self._contents(section, "size")
        return np.frombuffer(contents, layout, len(contents) // layout.itemsize)

    # ---- bytes ----------------------------------------------------------------------------------------------

    def _contents(self, part: Any, size_field: str) -> bytes:
        """The bytes of a section or segment."""
        return self._read(int(part["offset"]), int(part[size_field]))

    def _table(self, offset: int, count: int, entry_size: int, layout: np.dtype[Any]) -> Table:
        if not count or not offset:
            return np.zeros(0, layout)
        if entry_size != layout.itemsize:
            raise self._damaged("its header gives a wrong table layout")
        return np.frombuffer(self._read(offset, count * entry_size), layout)

    def _file_length(self) -> int:
        try:
            return self._file.seek(0, 2)
        except (OSError, ValueError) as error:
            raise TraceError(f"cannot read {self.path}: {error}", "give a regular file") from None

    def _read(self, offset: int, size: int) -> bytes:
        if size > _MAX_TABLE_BYTES or offset + size > self._length:
            raise self._damaged(f"{size} bytes at {offset:#x} are outside of the file")
        try:
            self._file.seek(offset)
            data = self._file.read(size)
        except (OSError, ValueError) as error:
            raise TraceError(f"cannot read {self.path}: {error}", "check the file and its permissions") from None
        if len(data) != size:
            raise self._damaged("it ends early")
        return data

    def _damaged(self, what: str) -> TraceError:
        return TraceError(f"{self.path} is damaged: {what}", "build or download it again")


def _is_function(symbols: Table) -> Table:
    """Mask of the functions that are defined in the file."""
    mask: Table = ((symbols["info"] & 15) == _STT_FUNC) & (symbols["section"] != 0) & (symbols["value"] != 0)
    return mask


def _string(strings: bytes, offset: int) -> str:
    """The string that begins at an offset of a string table, cut at 8192 bytes; empty outside of the table."""
    end = strings.find(b"\0", offset, offset + _MAX_NAME_BYTES)
    return strings[offset : end if end >= 0 else offset + _MAX_NAME_BYTES].decode(errors="replace")


def _searches(needles: Iterable[bytes]) -> list[re.Pattern[bytes]]:
    """Expressions that match where any needle begins: one for all needles with the same first word (`llama_`).

    `re` looks for a literal beginning fast and tries what follows there only: twelve times faster than one
    search for each of 30 needles in the 4 MB of names of a large engine.
    """
    groups: dict[bytes, set[bytes]] = {}
    for needle in needles:
        word, underscore, _ = needle.partition(b"_")
        groups.setdefault(word + underscore, set()).add(needle)
    return [
        re.compile(re.escape(word) + b"(?=" + b"|".join(re.escape(one[len(word) :]) for one in sorted(group)) + b")")
        for word, group in groups.items()
    ]


def _occurrences(strings: bytes, needle: bytes, limit: int) -> Iterator[int]:
    """Positions of a needle, at most `limit`."""
    at = strings.find(needle)
    while at >= 0 and limit:
        yield at
        limit -= 1
        at = strings.find(needle, at + 1)

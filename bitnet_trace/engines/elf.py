"""The functions of an ELF file: by name, by address, by what is linked to them.

Works on an open file and never on a path: a privileged tracer hands over descriptors of what is mapped, and a name may
have come to mean another file since. The tables are viewed with numpy and a name is looked for in the bytes of the
string table first, so that the cost follows the size of the tables (10 ms for the 4 MB of a large engine) and debug
information is never read.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bitnet_trace.engines.elf_file import (
    MAX_NAME_BYTES,
    MAX_TABLE_BYTES,
    PT_LOAD,
    SHT_SYMTAB,
    ElfFile,
    Table,
    string_at,
)

_SYMBOL = np.dtype("<u4,u1,u1,<u2,<u8,<u8")
_SYMBOL.names = ("name", "info", "other", "section", "value", "size")
_RELOCATION = np.dtype("<u8,<u4,<u4,<i8")
_RELOCATION.names = ("offset", "type", "symbol", "addend")
_STT_FUNC = 2
_R_GLOB_DAT, _R_JUMP_SLOT, _R_RELATIVE = 6, 7, 8
_SHF_EXECINSTR = 4
_SHT_PROGBITS, _SHT_RELA, _SHT_DYNSYM = 1, 4, 11

# Beyond what any compiler writes: it bounds the work that a damaged or hostile file can ask for.
_MAX_HITS = 20_000


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function of the file: `name` as the compiler wrote it, `address` virtual, `size` in bytes (0: not recorded)."""

    name: str
    address: int
    size: int


class Elf(ElfFile):
    """An ELF file with its symbols and relocations."""

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
                    begin = strings.rfind(b"\0", max(0, at - MAX_NAME_BYTES), at) + 1
                    spans.add((begin or max(0, at - MAX_NAME_BYTES), at))
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

    def holds_debug_text(self, names: Iterable[str]) -> bool:
        """Whether the texts of its debug information have one of the names as a whole."""
        sections = [
            section for section in self._sections if section["type"] == _SHT_PROGBITS and section["flags"] & 0x30
        ]
        texts = [self._contents(section, "size") for section in sections if int(section["size"]) <= MAX_TABLE_BYTES]
        wanted = [name.encode() + b"\0" for name in names]
        return any(text.startswith(name) or b"\0" + name in text for text in texts for name in wanted)

    def holds_text(self, texts: Iterable[bytes]) -> bytes | None:
        """The first of the texts that occurs in read-only data (segments that are neither written nor executed)."""
        texts = list(texts)
        for segment in self._segments_of_type(PT_LOAD):
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
        for kind in (SHT_SYMTAB, _SHT_DYNSYM):
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
        return Symbol(string_at(strings, int(entry["name"])), int(entry["value"]), int(entry["size"]))

    def _linked_symbol(self, section: int, row: int) -> tuple[str, int | None] | None:
        for linked in self._sections[section : section + 1]:
            symbols = self._rows(linked, _SYMBOL)
            for strings in self._sections[int(linked["link"]) :][:1]:
                if row < len(symbols):
                    symbol = self._symbol(symbols, self._contents(strings, "size"), row)
                    return symbol.name, symbol.address or None
        return None


def _is_function(symbols: Table) -> Table:
    """Mask of the functions that are defined in the file."""
    mask: Table = ((symbols["info"] & 15) == _STT_FUNC) & (symbols["section"] != 0) & (symbols["value"] != 0)
    return mask


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

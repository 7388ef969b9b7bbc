"""What an ELF file is made of: segments, sections, what it links to, and what lies at which address.

Every size and offset in the file is checked against the file: a damaged one is one `TraceError`.

Layouts: System V ABI, chapters 4 and 5, and its x86-64 supplement.
"""

import functools
import struct
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
_DYNAMIC = np.dtype("<i8,<u8")
_DYNAMIC.names = ("tag", "value")

PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE, _PT_GNU_EH_FRAME = 1, 2, 3, 4, 0x6474E550
SHT_SYMTAB = 2
_SHF_COMPRESSED = 0x800
_COMPRESSION_HEADER = struct.Struct("<IIQQ")  # type, reserved, size without compression, alignment
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 14, 15, 29
_NT_GNU_BUILD_ID = 3

# Beyond what any compiler writes; they bound the work that a damaged or hostile file can ask for.
MAX_TABLE_BYTES = 256 << 20
MAX_NAME_BYTES = 8192


class ElfFile:
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
        return not len(self._sections_of_type(SHT_SYMTAB))

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

    def uncompressed_bytes(self) -> int:
        """How large all compressed sections say they are without compression."""
        total = 0
        for section in self._sections[(self._sections["flags"] & _SHF_COMPRESSED) != 0]:
            header = self._read(int(section["offset"]), min(int(section["size"]), _COMPRESSION_HEADER.size))
            if len(header) == _COMPRESSION_HEADER.size:
                total += _COMPRESSION_HEADER.unpack(header)[2]
        return total

    def section(self, name: str) -> tuple[int, bytes] | None:
        """Address and contents of the first section with that name; None when there is none."""
        for names in self._sections[self._names_section :][:1]:
            strings = self._contents(names, "size")
            for section in self._sections:
                if string_at(strings, int(section["name"])) == name:
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
        for segment in self._segments_of_type(PT_LOAD):
            start = int(segment["address"])
            if start <= address < start + int(segment["file_size"]):
                return address - start + int(segment["offset"])
        raise self._damaged(f"no segment holds the address {address:#x}")

    def address(self, offset: int) -> int | None:
        """The virtual address of a byte of the file; None when no segment holds it."""
        for segment in self._segments_of_type(PT_LOAD):
            start = int(segment["offset"])
            if start <= offset < start + int(segment["file_size"]):
                return offset - start + int(segment["address"])
        return None

    def segment_of(self, address: int) -> tuple[int, int] | None:
        """Begin and end of what the file has around a virtual address; None when no segment holds it."""
        for segment in self._segments_of_type(PT_LOAD):
            start, length = int(segment["address"]), int(segment["file_size"])
            if start <= address < start + length:
                return start, start + length
        return None

    @functools.cached_property
    def load_address(self) -> int:
        """The lowest virtual address: 0 for what is loaded anywhere."""
        return min((int(segment["address"]) for segment in self._segments_of_type(PT_LOAD)), default=0)

    @functools.cached_property
    def unwind_header(self) -> int | None:
        """The address of .eh_frame_hdr; None when there is none."""
        return next((int(segment["address"]) for segment in self._segments_of_type(_PT_GNU_EH_FRAME)), None)

    def read(self, address: int, size: int) -> bytes:
        """Up to `size` bytes at a virtual address; fewer at the end of its segment, none outside of all."""
        for segment in self._segments_of_type(PT_LOAD):
            start, length = int(segment["address"]), int(segment["file_size"])
            if start <= address < start + length:
                size = min(size, start + length - address)
                return self._read(address - start + int(segment["offset"]), size)
        return b""

    # ---- bytes ----------------------------------------------------------------------------------------------

    @property
    def file(self) -> BinaryIO:
        """The open file."""
        return self._file

    def _dynamic_strings(self, tag: int) -> tuple[str, ...]:
        for segment in self._segments_of_type(_PT_DYNAMIC):
            contents = self._contents(segment, "file_size")
            entries = np.frombuffer(contents, _DYNAMIC, len(contents) // _DYNAMIC.itemsize)
            entries = entries[: (np.flatnonzero(entries["tag"] == 0)[:1].tolist() or [len(entries)])[0]]
            values = {key: entries["value"][entries["tag"] == key].tolist() for key in (tag, _DT_STRTAB, _DT_STRSZ)}
            if values[tag] and values[_DT_STRTAB] and values[_DT_STRSZ]:
                strings = self.read(values[_DT_STRTAB][0], min(values[_DT_STRSZ][0], MAX_TABLE_BYTES))
                return tuple(string_at(strings, offset) for offset in values[tag][:1000])
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
        if size > MAX_TABLE_BYTES or offset + size > self._length:
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


def string_at(strings: bytes, offset: int) -> str:
    """The string that begins at an offset of a string table, cut at 8192 bytes; empty outside of the table."""
    end = strings.find(b"\0", offset, offset + MAX_NAME_BYTES)
    return strings[offset : end if end >= 0 else offset + MAX_NAME_BYTES].decode(errors="replace")

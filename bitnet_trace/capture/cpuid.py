"""What the CPU says of its TLBs: entries by level and page size.

Sources: Intel SDM volume 2A, CPUID, leaves 02H (table 3-12) and 18H; AMD APM volume 3, appendix E, functions
8000_0005, 8000_0006 and 8000_0019.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

Registers = tuple[int, int, int, int]  # eax, ebx, ecx, edx
Cpuid = Callable[[int, int], Registers]

K4, M2, M4, G1 = 4 << 10, 2 << 20, 4 << 20, 1 << 30
DATA, CODE, BOTH = "data", "code", "data and code"

# push rbx; mov r8, rdx; mov eax, edi; mov ecx, esi; cpuid; mov [r8], eax; ...ebx; ...ecx; ...edx; pop rbx; ret
_CODE = bytes.fromhex("53 49 89d0 89f8 89f1 0fa2 418900 41895804 41894808 4189500c 5b c3")

# leaf 2, by descriptor: (level, what of, entries, page sizes); where several sizes share the entries they are together
_DESCRIPTORS: dict[int, tuple[tuple[int, str, int, tuple[int, ...]], ...]] = {
    0x01: ((1, CODE, 32, (K4,)),),
    0x03: ((1, DATA, 64, (K4,)),),
    0x05: ((1, DATA, 32, (M4,)),),
    0x4F: ((1, CODE, 32, (K4,)),),
    0x50: ((1, CODE, 64, (K4, M2, M4)),),
    0x51: ((1, CODE, 128, (K4, M2, M4)),),
    0x52: ((1, CODE, 256, (K4, M2, M4)),),
    0x55: ((1, CODE, 7, (M2, M4)),),
    0x56: ((1, DATA, 16, (M4,)),),
    0x57: ((1, DATA, 16, (K4,)),),
    0x59: ((1, DATA, 16, (K4,)),),
    0x5A: ((1, DATA, 32, (M2, M4)),),
    0x5B: ((1, DATA, 64, (K4, M4)),),
    0x5C: ((1, DATA, 128, (K4, M4)),),
    0x5D: ((1, DATA, 256, (K4, M4)),),
    0x61: ((1, CODE, 48, (K4,)),),
    0x63: ((1, DATA, 32, (M2, M4)), (1, DATA, 4, (G1,))),
    0x64: ((1, DATA, 512, (K4,)),),
    0x6B: ((1, DATA, 256, (K4,)),),
    0x6C: ((1, DATA, 128, (M2, M4)),),
    0x6D: ((1, DATA, 16, (G1,)),),
    0x76: ((1, CODE, 8, (M2, M4)),),
    0xA0: ((1, DATA, 32, (K4,)),),
    0xB0: ((1, CODE, 128, (K4,)),),
    0xB2: ((1, CODE, 64, (K4,)),),
    0xB3: ((1, DATA, 128, (K4,)),),
    0xB4: ((2, DATA, 256, (K4,)),),
    0xB5: ((1, CODE, 64, (K4,)),),
    0xB6: ((1, CODE, 128, (K4,)),),
    0xBA: ((2, DATA, 64, (K4,)),),
    0xC0: ((1, DATA, 8, (K4, M4)),),
    0xC1: ((2, BOTH, 1024, (K4, M2)),),
    0xC2: ((1, DATA, 16, (K4, M2)),),
    0xC3: ((2, BOTH, 1536, (K4, M2)), (2, BOTH, 16, (G1,))),
    0xC4: ((1, DATA, 32, (M2, M4)),),
    0xCA: ((2, BOTH, 512, (K4,)),),
}
_TYPES = {1: DATA, 2: CODE, 3: BOTH, 4: "loads", 5: "stores"}


@dataclass(frozen=True)
class Tlb:
    """One TLB for one page size. `shared`: other page sizes have the same entries."""

    level: int
    of: str
    page_bytes: int
    entries: int
    shared: bool = False


def described() -> list[dict[str, Any]]:
    """The TLBs of the CPU that this runs on as plain dicts, for meta.json; none where it does not tell."""
    try:
        return [asdict(one) for one in tlbs(execute)]
    except OSError:  # memory that is both written and executed is forbidden here
        return []


def tlbs(cpuid: Cpuid) -> list[Tlb]:
    """By level and page size; 4 MiB pages of 32-bit page tables are left out."""
    highest, *name = cpuid(0, 0)
    vendor = b"".join(name[place].to_bytes(4, "little") for place in (0, 2, 1))
    if vendor in (b"AuthenticAMD", b"HygonGenuine"):
        found = list(_amd(cpuid))
    else:
        found = list(_parameters(cpuid)) if highest >= 0x18 else []
        found = found or (list(_descriptors(cpuid)) if highest >= 2 else [])
    return sorted((one for one in found if one.page_bytes != M4), key=lambda one: (one.level, one.of, one.page_bytes))


def execute(leaf: int, subleaf: int) -> Registers:
    """The instruction itself. Raises OSError where no code may be made."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(_CODE)
        registers = (ctypes.c_uint32 * 4)()
        place = (ctypes.c_char * 1).from_buffer(code)
        try:
            function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
            function(ctypes.addressof(place))(leaf, subleaf, ctypes.addressof(registers))
        finally:
            del place
        eax, ebx, ecx, edx = registers
        return eax, ebx, ecx, edx


def _amd(cpuid: Cpuid) -> Iterator[Tlb]:
    highest = cpuid(0x80000000, 0)[0]
    if highest >= 0x80000005:
        eax, ebx, _, _ = cpuid(0x80000005, 0)
        for word, page_bytes in ((ebx, K4), (eax, M2)):
            yield from _pair(1, page_bytes, word & 0xFF, word >> 16 & 0xFF)
    large = [(2, M2, cpuid(0x80000006, 0)[0]), (2, K4, cpuid(0x80000006, 0)[1])] if highest >= 0x80000006 else []
    if highest >= 0x80000019:
        large += [(1, G1, cpuid(0x80000019, 0)[0]), (2, G1, cpuid(0x80000019, 0)[1])]
    for level, page_bytes, word in large:
        if word >> 16 == 0:  # one for both: it stands where that of code would
            yield from (Tlb(level, BOTH, page_bytes, entries) for entries in [word & 0xFFF] if entries)
        else:
            yield from _pair(level, page_bytes, word & 0xFFF, word >> 16 & 0xFFF)


def _pair(level: int, page_bytes: int, of_code: int, of_data: int) -> Iterator[Tlb]:
    if of_code:
        yield Tlb(level, CODE, page_bytes, of_code)
    if of_data:
        yield Tlb(level, DATA, page_bytes, of_data)


def _parameters(cpuid: Cpuid) -> Iterator[Tlb]:
    for subleaf in range(min(cpuid(0x18, 0)[0], 63) + 1):
        _, ebx, sets, edx = cpuid(0x18, subleaf)
        kind = _TYPES.get(edx & 0x1F)
        if kind is None:
            continue
        sizes = [size for bit, size in enumerate((K4, M2, M4, G1)) if ebx >> bit & 1]
        for page_bytes in sizes:
            yield Tlb(edx >> 5 & 7, kind, page_bytes, (ebx >> 16) * sets, len(set(sizes) - {M4}) > 1)


def _descriptors(cpuid: Cpuid) -> Iterator[Tlb]:
    words = cpuid(2, 0)
    for place, word in enumerate(words):
        if word >> 31:
            continue  # no descriptors in this register
        for number in word.to_bytes(4, "little")[1 if place == 0 else 0 :]:
            for level, kind, entries, sizes in _DESCRIPTORS.get(number, ()):
                for page_bytes in sizes:
                    yield Tlb(level, kind, page_bytes, entries, len(set(sizes) - {M4}) > 1)

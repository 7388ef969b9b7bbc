"""Which BPF programs, links and maps the kernel has, and which uprobes were made through tracefs."""

import ctypes
import os
import re
import struct
from pathlib import Path

from bitnet_trace.engines.elf import Elf

_NR_BPF = 321
# include/uapi/linux/bpf.h
_NEXT_ID = {"prog": 11, "map": 12, "link": 31}

_libc = ctypes.CDLL(None, use_errno=True)


def _ids(kind: str) -> set[int]:
    found: set[int] = set()
    number = 0
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("<III", number, 0, 0), 12)
        if _libc.syscall(_NR_BPF, _NEXT_ID[kind], attributes, 12) < 0:
            return found
        (_, number, _) = struct.unpack("<III", attributes.raw)
        found.add(number)


def all_of_them() -> set[tuple[str, int | str]]:
    """(kind, id) of each, whoever made it."""
    uprobes = Path("/sys/kernel/tracing/uprobe_events")
    lines = uprobes.read_text().splitlines() if uprobes.exists() else []
    return {(kind, number) for kind in _NEXT_ID for number in _ids(kind)} | {("uprobe", line) for line in lines}


def held() -> set[tuple[str, int]]:
    """Those that an open descriptor of some process belongs to: of other people's runs on this machine, too."""
    found = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            for name in os.listdir(f"/proc/{process}/fdinfo"):
                text = Path(f"/proc/{process}/fdinfo/{name}").read_text()
                found |= {
                    (kind, int(number)) for kind, number in re.findall(r"^(prog|map|link)_id:\s*(\d+)", text, re.M)
                }
        except OSError:
            continue  # it has ended, or closed that one
    return found


def function_offset(path: Path, name: str) -> int:
    """Where a function begins in an ELF file."""
    with open(path, "rb") as file:
        elf = Elf(file, str(path))
        return next(
            elf.file_offset(one.address) for one in elf.functions_containing([name.encode()]) if one.name == name
        )

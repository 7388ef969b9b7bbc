"""What a process has mapped of files, as /proc tells."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class MappedFile:
    """What a process has mapped at [begin, end), from `offset` of a file on; inode 0: of no file."""

    begin: int
    end: int
    offset: int
    permissions: str
    device: str
    inode: int
    path: str

    @property
    def executable(self) -> bool:
        return self.permissions[2] == "x"

    @property
    def kernel_device(self) -> int:
        """The number of the device as the kernel has it (dev_t: 12 bits major, 20 minor)."""
        major, minor = (int(part, 16) for part in self.device.split(":"))
        return major << 20 | minor

    def link(self, pid: int) -> str:
        """The very file, also when its path names another by now."""
        return f"/proc/{pid}/map_files/{self.begin:x}-{self.end:x}"


def mapped_files(pid: int) -> Iterator[MappedFile]:
    """The file mappings of a process; nothing when it is gone."""
    return (area for area in areas(pid) if area.inode)


def areas(pid: int) -> Iterator[MappedFile]:
    """All that a process has mapped, as /proc/PID/maps has it; nothing when it is gone. `[heap]` is a path too."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(None, 5)
        begin, end = (int(edge, 16) for edge in fields[0].split(b"-"))
        yield MappedFile(
            begin=begin,
            end=end,
            offset=int(fields[2], 16),
            permissions=fields[1].decode(),
            device=fields[3].decode(),
            inode=int(fields[4]),
            path=os.fsdecode(fields[5]) if len(fields) == 6 else "",
        )


def key_as_mapped(file: BinaryIO) -> tuple[str, int] | None:
    """Device and inode of an open file as /proc/PID/maps has them: stat(2) says others on some file systems."""
    with mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_COPY) as view:
        byte = ctypes.c_char.from_buffer(view)
        start = ctypes.addressof(byte)
        del byte  # or the mapping cannot be closed
        return next(((one.device, one.inode) for one in mapped_files(os.getpid()) if one.begin == start), None)

"""Which file each address of a process belonged to: read while the process lives, kept open until the end."""

import bisect
import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from bitnet_trace.capture.mappings import MappedFile, mapped_files
from bitnet_trace.recording.header import MemoryDetail
from bitnet_trace.recording.schema import KERNEL_SPACE

_MAX_OPEN_FILES = 400
# what a process maps is told before the call is made: one that was read within this time is read once more
_CALL_S = 0.5


class Part(NamedTuple):
    """Addresses of one process, and where they lie in a file."""

    pid: int
    addresses: list[int]
    offsets: list[int]


class AddressSpaces:
    """What the processes of one run have mapped to execute."""

    def __init__(self) -> None:
        self._spaces: dict[int, list[MappedFile]] = {}
        self._read_s: dict[int, float] = {}
        self._changed_s: dict[int, float] = {}
        self._files: dict[tuple[str, int], BinaryIO | None] = {}
        self._paths: dict[tuple[str, int], str] = {}
        self._areas: dict[int, set[MappedFile]] = {}  # of each process at the last look
        self._area_rows: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def note_areas(self, pid: int, held: list[MappedFile]) -> None:
        """Takes all that a process has mapped at a moment at which it stands still."""
        now_ns = time.monotonic_ns()
        before = self._areas.get(pid, set())
        self._area_rows += [_area_row(pid, now_ns, area) for area in held if area not in before]
        self._areas[pid] = set(held)

    def take_area_rows(self) -> list[dict[str, Any]]:
        """Rows of schema.AREA_SCHEMA since the last time: what a process holds and did not when last looked at."""
        rows, self._area_rows = self._area_rows, []
        return rows

    def note(self, pid: int, new: list[MappedFile]) -> None:
        """Takes the executable mappings of a process as they are now.

        Former ones that are gone are forgotten where others have taken their place.
        """
        kept = [
            old
            for old in self._spaces.get(pid, [])
            if not any(old.begin < mapped.end and mapped.begin < old.end for mapped in new)
        ]
        self._spaces[pid] = sorted([*kept, *new], key=lambda mapped: mapped.begin)
        self._read_s[pid] = time.monotonic()
        for mapped in new:
            self._open(pid, mapped)

    def changed(self, pids: Iterable[int]) -> None:
        """These processes map files now, or did since their mappings were read."""
        self._changed_s.update(dict.fromkeys(pids, time.monotonic()))

    def cover(self, pids: Iterable[int]) -> None:
        """Reads the mappings of the processes where they have changed."""
        for pid in pids:
            if self._read_s.get(pid, -math.inf) < self._changed_s.get(pid, 0.0) + _CALL_S:
                self.note(pid, [mapped for mapped in mapped_files(pid) if mapped.executable])

    def by_file(self, addresses: Mapping[int, set[int]]) -> Iterator[tuple[str, BinaryIO | None, list[Part]]]:
        """(path, open file or None, parts) for each file that holds some of the addresses, given by process."""
        parts: dict[tuple[str, int], list[Part]] = {}
        for pid, of_process in addresses.items():
            for address in sorted(of_process):
                mapped = self._mapping(pid, address) if address < KERNEL_SPACE else None
                if mapped is None:
                    continue
                in_file = parts.setdefault((mapped.device, mapped.inode), [])
                if not in_file or in_file[-1].pid != pid:
                    in_file.append(Part(pid, [], []))
                in_file[-1].addresses.append(address)
                in_file[-1].offsets.append(address - mapped.begin + mapped.offset)
        for key, found in parts.items():
            yield self._paths[key], self._files[key], found

    def ended(self, pids: Iterable[int]) -> None:
        """These processes are over: only where their code lay is still of use."""
        for pid in pids:
            for known in (self._areas, self._read_s, self._changed_s):
                known.pop(pid, None)

    def forget(self, pid: int) -> None:
        """The names of a process's addresses are not asked for any more."""
        self._spaces.pop(pid, None)
        self._read_s.pop(pid, None)  # another process may have its number

    def close(self) -> None:
        for file in self._files.values():
            if file is not None:
                file.close()
        self._files.clear()

    def _mapping(self, pid: int, address: int) -> MappedFile | None:
        space = self._spaces.get(pid, [])
        place = bisect.bisect_right(space, address, key=lambda mapped: mapped.begin) - 1
        return space[place] if place >= 0 and address < space[place].end else None

    def _open(self, pid: int, mapped: MappedFile) -> None:
        key = (mapped.device, mapped.inode)
        if key in self._files:
            return
        self._files[key], self._paths[key] = None, mapped.path
        if len(self._files) > _MAX_OPEN_FILES:
            return
        with contextlib.suppress(OSError):
            self._files[key] = open(mapped.link(pid), "rb")  # noqa: SIM115


def _area_row(pid: int, now_ns: int, area: MappedFile) -> dict[str, Any]:
    letters = zip("rwxs", (MemoryDetail.READ, MemoryDetail.WRITE, MemoryDetail.EXEC, MemoryDetail.SHARED), strict=True)
    return {
        "pid": pid,
        "ts_ns": now_ns,
        "moment": "held",
        "begin": area.begin,
        "end": area.end,
        "offset": area.offset,
        "device": area.kernel_device,
        "inode": area.inode,
        "protection": sum(int(bit) for letter, bit in letters if letter in area.permissions),
        "path": area.path or None,
    }

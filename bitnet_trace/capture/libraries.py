"""What a process has mapped, and the probes that belong there."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_trace.capture.bpf import Programs
from bitnet_trace.engines.probes import Location, ProbeSet, load_probe_sets
from bitnet_trace.engines.resolve import Probe, Resolution, engine_of, missing_roles, resolve
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.layout import Role

_ACTIONS = {"begin": 1, "end": 2, "mark": 3, "tokens": 4, "hold": 5}
_LOCATIONS = {"none": 0, "register": 1, "memory": 2}


@dataclass(frozen=True)
class MappedFile:
    """A file that a process has mapped: address range as in /proc/PID/map_files, device and inode of the file."""

    address_range: str
    executable: bool
    device: str
    inode: int
    path: str


def mapped_files(pid: int) -> Iterator[MappedFile]:
    """The file mappings of a process, as /proc/PID/maps has them; nothing when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[4] != b"0":
            yield MappedFile(
                address_range="-".join(f"{int(end, 16):x}" for end in fields[0].split(b"-")),
                executable=fields[1][2:3] == b"x",
                device=fields[3].decode(),
                inode=int(fields[4]),
                path=os.fsdecode(fields[5]),
            )


def _describe(location: Location) -> list[int]:
    return [_LOCATIONS[location.kind], location.register, location.offset]


class ProbePlacer:
    """Places engine probes in the files that traced processes map, each file once, whoever maps it.

    `rows` describes every probe for meta.json, `engine` is what was recognised so far.
    """

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._sets: tuple[ProbeSet, ...] = load_probe_sets()
        self._seen: dict[tuple[str, int], Resolution] = {}
        self.rows: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def look_at(self, pid: int) -> bool:
        """Probes what is new in a process. True when an engine's decode calls are probed there: no more to wait for.

        The process stands still while this is done.
        """
        found = False
        for mapped in mapped_files(pid):
            if not mapped.executable:
                continue
            key = (mapped.device, mapped.inode)
            if key not in self._seen:
                self._seen[key] = self._place(pid, mapped)
            found = found or any(probe.role == "decode" for probe in self._seen[key].probes)
        return found

    @property
    def engine(self) -> str | None:
        return engine_of(self._seen.values())

    @property
    def missing(self) -> list[tuple[str, str]]:
        """(role, reason) for roles that no file had a function for, once an engine was found."""
        return missing_roles(r for r in self._seen.values() if r.engine) if self.engine else []

    def finish(self) -> None:
        """Fills in the hits."""
        for row, hits in zip(self.rows, self._programs.probe_hits(len(self.rows)), strict=True):
            row["hits"] = hits

    def _place(self, pid: int, mapped: MappedFile) -> Resolution:
        try:
            # the mapping's own link: the very file, also when its path names another by now
            with open(f"/proc/{pid}/map_files/{mapped.address_range}", "rb") as file:
                resolution = resolve(file, mapped.path, self._sets)
                self._attach(file.fileno(), mapped.path, resolution)
        except OSError as error:
            self.warnings.append(f"{mapped.path}: {error.strerror}: not probed")
            return Resolution()
        except TraceError as error:
            self.warnings.append(f"{error.message}: not probed")
            return Resolution()
        return resolution

    def _attach(self, descriptor: int, path: str, resolution: Resolution) -> None:
        if not resolution.probes:
            return
        first = len(self.rows)
        cookies = list(range(first, first + len(resolution.probes)))
        for cookie, probe in zip(cookies, resolution.probes, strict=True):
            self._programs.describe_probe(cookie, _fields(probe))
        reason = None
        try:
            self._programs.attach_engine_probes(
                f"/proc/self/fd/{descriptor}", [probe.file_offset for probe in resolution.probes], cookies
            )
        except OSError as error:
            reason = error.strerror
        self.rows += [
            {
                "name": f"{probe.role} {probe.action}",
                "role": probe.role,
                "symbol": probe.symbol,
                "path": path,
                "offset": probe.file_offset,
                "instruction": probe.instruction,
                "attached": reason is None,
                "reason": reason,
                "cost_class": probe.cost_class,
                "hits": 0,
            }
            for probe in resolution.probes
        ]


def _fields(probe: Probe) -> list[int]:
    """The fields of `struct probe` in bpf/state.bpf.c, in order."""
    action = "hold" if probe.role == "link_map" else probe.action
    return [
        Role[probe.role.upper()],
        _ACTIONS[action],
        probe.sp_offset,
        *_describe(probe.context),
        *_describe(probe.n_tokens),
        *_describe(probe.argument),
    ]

"""What a process has mapped, and the probes that belong there."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bitnet_trace.capture.bpf import Programs
from bitnet_trace.capture.parser import Parser
from bitnet_trace.engines.found import engine_of, missing_roles
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.layout import Role

_ACTIONS = {"begin": 1, "end": 2, "mark": 3, "tokens": 4, "hold": 5}
_LOCATIONS = {"none": 0, "register": 1, "memory": 2}


@dataclass(frozen=True)
class MappedFile:
    """A part of a file that a process has mapped at [begin, end), from `offset` of the file on."""

    begin: int
    end: int
    offset: int
    executable: bool
    device: str
    inode: int
    path: str

    def link(self, pid: int) -> str:
        """The very file, also when its path names another by now."""
        return f"/proc/{pid}/map_files/{self.begin:x}-{self.end:x}"


def mapped_files(pid: int) -> Iterator[MappedFile]:
    """The file mappings of a process, as /proc/PID/maps has them; nothing when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[4] != b"0":
            begin, end = (int(edge, 16) for edge in fields[0].split(b"-"))
            yield MappedFile(
                begin=begin,
                end=end,
                offset=int(fields[2], 16),
                executable=fields[1][2:3] == b"x",
                device=fields[3].decode(),
                inode=int(fields[4]),
                path=os.fsdecode(fields[5]),
            )


@dataclass(frozen=True)
class Resolved:
    """What one file was found to have; nothing by default."""

    engine: str | None = None
    roles: frozenset[str] = frozenset()
    missing: tuple[tuple[str, str], ...] = ()


class ProbePlacer:
    """Places engine probes in the files that traced processes map, each file once, whoever maps it.

    `rows` describes every probe for meta.json, `engine` is what was recognised so far.
    """

    def __init__(self, programs: Programs, parser: Parser) -> None:
        self._programs, self._parser = programs, parser
        self._seen: dict[tuple[str, int], Resolved] = {}
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
            found = found or "decode" in self._seen[key].roles
        return found

    @property
    def engine(self) -> str | None:
        return engine_of(self._seen.values())

    @property
    def missing(self) -> list[tuple[str, str]]:
        """(role, reason) for roles that none of the engine's files has a function for."""
        return missing_roles(resolved for resolved in self._seen.values() if resolved.engine)

    def finish(self) -> None:
        """Fills in the hits."""
        for row, hits in zip(self.rows, self._programs.probe_hits(len(self.rows)), strict=True):
            row["hits"] = hits

    def _place(self, pid: int, mapped: MappedFile) -> Resolved:
        try:
            with open(mapped.link(pid), "rb") as file:
                before = _identity(file)
                answer = self._parser.resolve(file, mapped.path)
                if _identity(file) != before:
                    raise TraceError(f"{mapped.path} was changed while it was read", None)
                self._attach(file, mapped.path, answer)
        except OSError as error:
            self.warnings.append(f"{mapped.path}: {error.strerror}: not probed")
            return Resolved()
        except TraceError as error:
            self.warnings.append(f"{error.message}: not probed")
            return Resolved()
        return Resolved(
            engine=answer["engine"],
            roles=frozenset(probe["role"] for probe in answer["probes"]),
            missing=tuple((role, reason) for role, reason in answer["missing"]),
        )

    def _attach(self, file: BinaryIO, path: str, answer: Mapping[str, Any]) -> None:
        """Places what the parser found, after a look at the bytes that will be overwritten."""
        first = len(self.rows)
        probes = answer["probes"]
        if not probes:
            return
        for cookie, probe in enumerate(probes, first):
            code = bytes.fromhex(probe["code"])
            if os.pread(file.fileno(), len(code), probe["file_offset"]) != code or not code:
                raise TraceError(f"{path} has no {probe['instruction']} at {probe['file_offset']:#x}", None)
            self._programs.describe_probe(cookie, _fields(probe))
        reason = None
        try:
            self._programs.attach_engine_probes(
                f"/proc/self/fd/{file.fileno()}",
                [probe["file_offset"] for probe in probes],
                list(range(first, first + len(probes))),
            )
        except OSError as error:
            reason = error.strerror
        self.rows += [
            {
                "name": f"{probe['role']} {probe['action']}",
                "role": probe["role"],
                "symbol": probe["symbol"],
                "path": path,
                "build_id": answer["build_id"],
                "offset": probe["file_offset"],
                "instruction": probe["instruction"],
                "attached": reason is None,
                "reason": reason,
                "cost_class": probe["cost_class"],
                "hits": 0,
            }
            for probe in probes
        ]


def _identity(file: BinaryIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _fields(probe: Mapping[str, Any]) -> list[int]:
    """The fields of `struct probe` in bpf/state.bpf.c, in order."""
    action = "hold" if probe["role"] == "link_map" else probe["action"]
    fields = [int(Role[probe["role"].upper()]), _ACTIONS[action], probe["sp_offset"]]
    for name in ("context", "n_tokens", "argument"):
        location = probe[name]
        fields += [_LOCATIONS[location["kind"]], location["register"], location["offset"]]
    return fields

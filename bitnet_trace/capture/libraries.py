"""What a process has mapped, and the probes that belong there."""

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bitnet_trace.capture.address_spaces import AddressSpaces
from bitnet_trace.capture.bpf import Programs
from bitnet_trace.capture.mappings import MappedFile, areas, key_as_mapped
from bitnet_trace.capture.parser import Parser
from bitnet_trace.capture.window_probes import BARRIERS, OPERATIONS, WindowedFile, WindowProbe, close_files
from bitnet_trace.engines.found import engine_of, missing_roles
from bitnet_trace.engines.libraries import Links, linked_files, open_binary
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.layout import Role

_ACTIONS = {"begin": 1, "end": 2, "mark": 3, "tokens": 4, "hold": 5, "window": 6, "window_end": 7}
_LOCATIONS = {"none": 0, "register": 1, "memory": 2}
_IN_WINDOWS = ("window", "window_end")
_NO_WINDOW = "no window was opened for it"
_MAX_AHEAD = 4  # programs that are looked for in one command line


@dataclass(frozen=True)
class Resolved:
    """What one file was found to have; nothing by default."""

    engine: str | None = None
    roles: frozenset[str] = frozenset()
    missing: tuple[tuple[str, str], ...] = ()


class ProbePlacer:
    """Places engine probes in the files that traced processes map, each file once, whoever maps it.

    `rows` describes every probe for meta.json, `engine` is what was recognised so far. `spaces` sees what is looked at.
    `first_row`: how many rows meta.json has before ours. `windowed` are the files with probes that are attached in
    windows and not here, `decode_cookies` the numbers of probes that tell of a decode call. `operations`: those of the
    graph are probed in windows too; `layouts` are the files that tell how the engine's tensors are laid out.
    """

    def __init__(
        self,
        programs: Programs,
        parser: Parser,
        spaces: AddressSpaces,
        first_row: int = 0,
        functions: Sequence[str] = (),
        operations: bool = False,
    ) -> None:
        self._programs, self._parser, self._spaces = programs, parser, spaces
        self._seen: dict[tuple[str, int], Resolved] = {}
        self._ahead: set[tuple[str, str]] = set()
        self._first_row, self._functions, self._operations = first_row, list(functions), operations
        self.layouts: dict[tuple[str, int], Mapping[str, Any]] = {}
        self.windowed: dict[tuple[str, int], WindowedFile] = {}
        self.decode_cookies: list[int] = []
        self.rows: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def look_at(self, pid: int) -> bool:
        """Probes what is new in a process. True when an engine's decode calls are probed there: no more to wait for.

        The process stands still while this is done.
        """
        found = False
        held = list(areas(pid))
        self._spaces.note_areas(pid, held)
        executable = [mapped for mapped in held if mapped.inode and mapped.executable]
        for mapped in executable:
            key = (mapped.device, mapped.inode)
            if key not in self._seen:
                self._seen[key] = self._place_mapped(pid, mapped, key)
            found = found or "decode" in self._seen[key].roles
        self._spaces.note(pid, executable)
        return found

    def place_program(self, program: str, environment: Mapping[str, str]) -> None:
        """Probes a program that is not running yet, and the libraries that it is linked to. Nothing when it is none."""
        request = (program, environment.get("LD_LIBRARY_PATH", ""))
        if request in self._ahead:
            return
        self._ahead.add(request)
        try:
            files = linked_files(Path(program), environment, self._links_of).files
        except TraceError:
            return  # a script, or text
        for path in files:
            # what cannot be read now may be mapped later, and then is said
            with contextlib.suppress(TraceError, OSError, ValueError), open_binary(path) as file:
                key = key_as_mapped(file)
                if key is not None and key not in self._seen:
                    self._seen[key] = self._place(file, os.path.realpath(path), key)

    def _links_of(self, path: Path) -> Links:
        if not path.is_file():  # or opening a pipe would wait for its writer
            raise TraceError(f"{path} is no file", None)
        with open_binary(path) as file:
            return self._parser.links(file, str(path))

    def look_ahead(self, pid: int) -> None:
        """Probes the programs that a process's command line names: what a debugger is to run."""
        folder = Path(f"/proc/{pid}")
        try:
            arguments = [os.fsdecode(one) for one in (folder / "cmdline").read_bytes().split(b"\0")[1:]]
            pairs = (os.fsdecode(one).partition("=") for one in (folder / "environ").read_bytes().split(b"\0"))
            environment = {name: value for name, _, value in pairs}
            current = os.readlink(folder / "cwd")
        except OSError:
            return
        candidates = (
            str(Path(current, one)) if os.sep in one else shutil.which(one, path=environment.get("PATH"))
            for one in arguments
            if one and not one.startswith("-")
        )
        programs = dict.fromkeys(one for one in candidates if one and os.path.isfile(one) and os.access(one, os.X_OK))
        for program in list(programs)[:_MAX_AHEAD]:
            self.place_program(program, environment)

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

    def close(self) -> None:
        """Lets go of the files that were kept open for windows."""
        close_files(self.windowed)
        self.windowed.clear()

    def _place_mapped(self, pid: int, mapped: MappedFile, key: tuple[str, int]) -> Resolved:
        try:
            with open(mapped.link(pid), "rb") as file:
                return self._place(file, mapped.path, key)
        except OSError as error:
            why = "its process had ended" if error.errno == errno.ESRCH else error.strerror
            self.warnings.append(f"{mapped.path}: {why}: not probed")
            return Resolved()

    def _place(self, file: BinaryIO, path: str, key: tuple[str, int]) -> Resolved:
        try:
            before = _identity(file)
            answer = self._parser.resolve(file, path, self._functions, self._operations)
            if _identity(file) != before:
                raise TraceError(f"{path} was changed while it was read", None)
            self._attach(file, path, key, answer)
            if answer["layout"] is not None:
                self.layouts[key] = answer["layout"]
        except OSError as error:
            self.warnings.append(f"{path}: {error.strerror}: not probed")
            return Resolved()
        except TraceError as error:
            self.warnings.append(f"{error.message}: not probed")
            return Resolved()
        return Resolved(
            engine=answer["engine"],
            roles=frozenset(probe["role"] for probe in answer["probes"]),
            missing=tuple((role, reason) for role, reason in answer["missing"]),
        )

    def _attach(self, file: BinaryIO, path: str, key: tuple[str, int], answer: Mapping[str, Any]) -> None:
        """Places what the parser found, after a look at the bytes that will be overwritten."""
        first = len(self.rows)
        probes = answer["probes"]
        if not probes:
            return
        for cookie, probe in enumerate(probes, first):
            code = bytes.fromhex(probe["code"])
            if os.pread(file.fileno(), len(code), probe["file_offset"]) != code or not code:
                raise TraceError(f"{path} has no {probe['instruction']} at {probe['file_offset']:#x}", None)
            self._programs.describe_probe(cookie, [*_fields(probe), self._first_row + cookie])
        staying = [cookie for cookie, probe in enumerate(probes, first) if probe["action"] not in _IN_WINDOWS]
        reason = None
        try:
            if staying:
                offsets = [probes[cookie - first]["file_offset"] for cookie in staying]
                self._programs.attach_engine_probes(f"/proc/self/fd/{file.fileno()}", offsets, staying)
        except OSError as error:
            reason = error.strerror
        for cookie, probe in enumerate(probes, first):
            windowed = cookie not in staying
            self.rows.append(
                {
                    "name": f"{probe['role']} {probe['action']}",
                    "role": probe["role"],
                    "symbol": probe["symbol"],
                    "path": path,
                    "build_id": answer["build_id"],
                    "offset": probe["file_offset"],
                    "instruction": probe["instruction"],
                    "attached": reason is None and not windowed,
                    "reason": _NO_WINDOW if windowed else reason,
                    "cost_class": probe["cost_class"],
                    "windowed": windowed,
                    "hits": 0,
                }
            )
            if windowed:
                if key not in self.windowed:
                    self.windowed[key] = WindowedFile(os.dup(file.fileno()), [])
                is_end = probe["action"] == "window_end"
                found = WindowProbe(_what(probe), cookie, probe["file_offset"], probe["level"], self.rows[-1], is_end)
                self.windowed[key].probes.append(found)
            elif probe["role"] == "decode" and probe["action"] == "begin":
                self.decode_cookies.append(cookie)


def _what(probe: Mapping[str, Any]) -> str:
    """What windows of a probe are for, as the stream `windows` has it."""
    if probe["role"] == "operation":
        return OPERATIONS
    return f"function:{probe['wanted']}" if probe["role"] == "function" else BARRIERS


def _identity(file: BinaryIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _fields(probe: Mapping[str, Any]) -> list[int]:
    """The fields of `struct probe` in bpf/state.bpf.c, in order, but for the last."""
    action = "hold" if probe["role"] == "link_map" else probe["action"]
    fields = [int(Role[probe["role"].upper()]), _ACTIONS[action], probe["sp_offset"], probe["condition"] + 1]
    for name in ("context", "n_tokens", "argument"):
        location = probe[name]
        fields += [_LOCATIONS[location["kind"]], location["register"], location["offset"]]
    return fields

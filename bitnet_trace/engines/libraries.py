"""The libraries that a program will load, found on disk as the dynamic linker would (ld.so(8))."""

import functools
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bitnet_trace.engines.elf import Elf
from bitnet_trace.errors import TraceError

_DEFAULT_FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_CACHE_LINE = re.compile(r"^\s*(?P<name>\S+) \((?P<flags>[^)]*)\) => (?P<path>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Linked:
    """A program with what it needs: `files` begins with itself, `not_found` are names that no folder has."""

    files: tuple[Path, ...]
    not_found: tuple[str, ...]


class Links(NamedTuple):
    """What a file says of the libraries that it needs: as in the attributes of `Elf` with the same names."""

    runpath: Sequence[str]
    rpath: Sequence[str]
    needed: Sequence[str]
    interpreter: str | None


def links(file: BinaryIO, path: str) -> Links:
    """Raises TraceError when it cannot be read as ELF. `path` serves messages only."""
    elf = Elf(file, path)
    return Links(elf.runpath, elf.rpath, elf.needed, elf.interpreter)


def _links_of(path: Path) -> Links:
    with open_binary(path) as file:
        return links(file, str(path))


def linked_files(
    program: Path, environment: Mapping[str, str] | None = None, links_of: Callable[[Path], Links] = _links_of
) -> Linked:
    """The program, its dynamic linker and all libraries it needs, directly or not, breadth first.

    Searched in this order: DT_RPATH of the file and of those that need it (where there is no DT_RUNPATH),
    LD_LIBRARY_PATH, DT_RUNPATH, the cache (`ldconfig -p`), the default folders. What a program opens later by itself
    (plug-ins, Python extensions) is not known here. `links_of` reads a file, and raises TraceError when it cannot, as
    this function does for `program`.
    """
    links_of = functools.cache(links_of)
    environment = os.environ if environment is None else environment
    library_path = [folder for folder in re.split("[:;]", environment.get("LD_LIBRARY_PATH", "")) if folder]
    found: dict[str, Path] = {}
    not_found: list[str] = []
    files = [program]
    pending: list[tuple[Path, list[str]]] = [(program, [])]
    while pending:
        path, inherited = pending.pop(0)
        elf_runpath, elf_rpath, needed, interpreter = links_of(path)
        rpath = [] if elf_runpath else [_expanded(folder, path) for folder in elf_rpath] + inherited
        if interpreter and path == program and Path(interpreter).is_file():
            found[Path(interpreter).name] = Path(interpreter)
            files.append(Path(interpreter))
        folders = [*rpath, *library_path, *(_expanded(folder, path) for folder in elf_runpath)]
        for name in needed:
            if name in found or name in not_found:
                continue
            library = _find(name, folders, links_of)
            if library is None:
                not_found.append(name)
                continue
            found[name] = library
            files.append(library)
            pending.append((library, rpath))
    return Linked(tuple(files), tuple(not_found))


def open_binary(path: Path) -> BinaryIO:
    """The regular file, opened for reading. Raises TraceError."""
    try:
        # a FIFO is not waited for
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise TraceError(f"cannot open {path}: {error.strerror}", "check the path and its permissions") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise TraceError(f"{path} is not a regular file", "give a program or a shared library (.so)")
    return file


def _find(name: str, folders: list[str], links_of: Callable[[Path], Links]) -> Path | None:
    if "/" in name:
        return Path(name) if _is_usable(Path(name), links_of) else None
    in_folders = (Path(folder, name) for folder in folders)
    cached = (Path(path) for path in _cache().get(name, ()))
    by_default = (Path(folder, name) for folder in _DEFAULT_FOLDERS)
    return next((path for path in (*in_folders, *cached, *by_default) if _is_usable(path, links_of)), None)


def _is_usable(path: Path, links_of: Callable[[Path], Links]) -> bool:
    """A library for another machine is passed over, as the dynamic linker does."""
    if not path.is_file():
        return False
    try:
        links_of(path)
    except TraceError:
        return False
    return True


def _expanded(folder: str, path: Path) -> str:
    origin = str(path.resolve().parent)
    for token, value in (("ORIGIN", origin), ("LIB", "lib/x86_64-linux-gnu"), ("PLATFORM", "x86_64")):
        folder = folder.replace(f"${{{token}}}", value).replace(f"${token}", value)
    return folder


@functools.cache
def _cache() -> dict[str, list[str]]:
    """Library name to paths, as /etc/ld.so.cache has them; empty on systems without one (musl)."""
    ldconfig = shutil.which("ldconfig", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if ldconfig is None:
        return {}
    try:
        text = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    paths: dict[str, list[str]] = {}
    for match in _CACHE_LINE.finditer(text):
        if "x86-64" in match["flags"]:
            paths.setdefault(match["name"], []).append(match["path"])
    return paths

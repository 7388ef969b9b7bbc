"""The folder of an experiment: what it is, and the result of each run as soon as there is one."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitnet_trace.capture.identity import Identity
from bitnet_trace.errors import TraceError

_SPEC, _RESULTS = "experiment.json", "results.jsonl"
# of a result
_FIELDS: dict[str, Any] = {"kind": str, "block": int, "cell": int, "levels": dict, "why": str | None}
_OPTIONAL: dict[str, Any] = {"figures": dict | None, "recording": str | None, "read_back": dict | None}
_NUMBERS = ("at_s", "steal_pct", "others_pct", "frequency_mhz", "throttled", "cached_pct")


class Store:
    """`facts`: of the experiment, as it was begun. The folder is the user's: its files are opened without following
    links, and given to that user. `lock`: who has the folder open has it alone; a fork of ours should close it."""

    def __init__(self, path: Path, user: Identity | None) -> None:
        """Raises TraceError where another experiment is at work there."""
        self.path = path
        self._user = user
        self.n_damaged = 0
        try:
            self.lock = self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise TraceError(f"{path} cannot be used: {error.strerror}", "choose another place with -o") from None
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise TraceError(
                f"another experiment is writing to {path}", "wait for its end, or choose another place with -o"
            ) from None

    @staticmethod
    def new(path: Path, user: Identity | None, facts: dict[str, Any], force: bool) -> "Store":
        """Raises TraceError where it exists and `force` is not set."""
        if os.path.lexists(path):
            if not force:
                raise TraceError(
                    f"{path} exists already", "go on with it: --resume; replace it: --force; another name: -o"
                )
            if path.is_symlink() or not (path / _SPEC).is_file():
                raise TraceError(
                    f"{path} is not an experiment, so --force does not replace it", "choose another with -o"
                )
            with contextlib.closing(Store(path, user)):
                shutil.rmtree(path)
        try:
            path.mkdir(mode=0o755)
        except OSError as error:
            raise TraceError(f"cannot make {path}: {error.strerror}", "choose another place with -o") from None
        store = Store(path, user)
        store.write(_SPEC, json.dumps(facts, indent=1).encode() + b"\n")
        (path / "recordings").mkdir(mode=0o755)
        store._give(path / "recordings")
        store._give(path)
        return store

    @staticmethod
    def existing(path: Path, user: Identity | None) -> "Store":
        """Raises TraceError where there is none."""
        if not (path / _SPEC).is_file():
            raise TraceError(f"{path} is no experiment", "leave out --resume to begin one")
        return Store(path, user)

    @property
    def facts(self) -> dict[str, Any]:
        try:
            with open(self._open(_SPEC, os.O_RDONLY)) as file:
                value = json.load(file)
            return dict(value)
        except (OSError, ValueError, TypeError):
            raise TraceError(f"{self.path / _SPEC} is damaged", "begin anew: --force") from None

    def recordings(self, cell: str) -> None:
        """Makes the folder for the recordings of a cell. Raises TraceError."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._told(), contextlib.suppress(FileExistsError):
            parent = os.open("recordings", flags, dir_fd=self._folder)
            try:
                os.mkdir(cell, 0o755, dir_fd=parent)
                if self._user is not None:
                    os.chown(cell, self._user.uid, self._user.gid, dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(parent)

    def add(self, result: dict[str, Any]) -> None:
        """On the disk when it returns. Raises TraceError."""
        data = json.dumps(result).encode() + b"\n"
        with self._told(), open(self._open(_RESULTS, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab") as file:
            size = os.fstat(file.fileno()).st_size
            # the one before may have been cut off, by a full disk for example
            whole = not size or os.pread(file.fileno(), 1, size - 1) == b"\n"
            file.write(data if whole else b"\n" + data)
            file.flush()
            os.fsync(file.fileno())

    def results(self) -> Iterator[dict[str, Any]]:
        """All that are whole: the last one may have been cut off. `n_damaged` counts the others."""
        self.n_damaged = 0
        try:
            descriptor = self._open(_RESULTS, os.O_RDONLY)
        except FileNotFoundError:
            return
        with open(descriptor, "rb") as file:
            for line in file:
                row = _result(line)
                if row is None:
                    self.n_damaged += bool(line.strip())
                else:
                    yield row

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file. Raises TraceError."""
        temporary = f".{name}.{os.getpid()}"
        with self._told():
            try:
                with open(self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                    file.write(data)
                os.replace(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=self._folder)
                raise

    def close(self) -> None:
        os.close(self._folder)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TraceError(
                f"{self.path} cannot be written: {error.strerror}", f"mend that, then go on: --resume -o {self.path}"
            ) from None

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=self._folder)
        if flags & os.O_CREAT and self._user is not None:
            os.fchown(descriptor, self._user.uid, self._user.gid)
        return descriptor

    def _give(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.uid, self._user.gid, follow_symlinks=False)


def _result(line: bytes) -> dict[str, Any] | None:
    """None where it is not one that we have written."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not _FIELDS.keys() <= row.keys():
        return None
    kinds = {**_FIELDS, **_OPTIONAL, **dict.fromkeys(_NUMBERS, int | float | None)}
    if not all(isinstance(row.get(name), kind) for name, kind in kinds.items()):
        return None
    parts = ((row["levels"], str), (row.get("figures"), int | float), (row.get("read_back"), list | int))
    return row if all(isinstance(one, kind) for part, kind in parts for one in (part or {}).values()) else None

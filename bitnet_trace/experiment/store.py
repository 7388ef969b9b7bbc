"""The folder of an experiment: what it is, and the result of each run as soon as there is one."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitnet_trace.capture.identity import Identity
from bitnet_trace.errors import TraceError

_SPEC, _RESULTS = "experiment.json", "results.jsonl"


class Store:
    """`facts`: of the experiment, as it was begun. The folder is the user's: its files are opened without following
    links, and given to that user."""

    def __init__(self, path: Path, user: Identity | None) -> None:
        self.path = path
        self._user = user
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

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
        """Makes the folder for the recordings of a cell."""
        folder = self.path / "recordings" / cell
        if not folder.is_dir():
            folder.mkdir(mode=0o755)
            self._give(folder)

    def add(self, result: dict[str, Any]) -> None:
        """On the disk when it returns."""
        with open(self._open(_RESULTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
            file.write(json.dumps(result) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def results(self) -> Iterator[dict[str, Any]]:
        """All that are whole: the last one may have been cut off."""
        try:
            descriptor = self._open(_RESULTS, os.O_RDONLY)
        except FileNotFoundError:
            return
        with open(descriptor) as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and {"kind", "block", "cell", "why"} <= row.keys():
                    yield row

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file."""
        temporary = f".{name}.{os.getpid()}"
        with open(self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(data)
        os.replace(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def close(self) -> None:
        os.close(self._folder)

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=self._folder)
        if flags & os.O_CREAT and self._user is not None:
            os.fchown(descriptor, self._user.uid, self._user.gid)
        return descriptor

    def _give(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.uid, self._user.gid, follow_symlinks=False)

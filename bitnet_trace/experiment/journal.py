"""Settings of the whole system: what each was is on the disk before it is changed, and is set back from there.

The journal lies where only root can write. Whoever changes settings holds a lock beside it: one that holds something
and that nobody has locked was left by an experiment that was killed, or by a power loss.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bitnet_trace.errors import TraceError

FOLDER = Path("/var/lib/bitnet-trace")
_NAME, _LOCK = "settings.json", "lock"
_ALLOWED = ("/sys/", "/proc/sys/")
_KEPT_THERE = "what settings were is kept there; none is changed without it"


class Journal:
    """The settings that an experiment has changed. Use `opened`."""

    def __init__(self, folder: int, lock: int) -> None:
        self._folder, self.lock = folder, lock
        self.before = _load(folder)

    def apply(self, settings: Iterable[tuple[str, str]]) -> None:
        """Makes these settings, and no others: what an earlier run changed besides is set back.

        Raises TraceError where one cannot be made, or reads back as something else.
        """
        wanted = dict(settings)
        new = {path: read(path) for path in wanted if path not in self.before}
        if new:
            self.before.update(new)
            _store(self._folder, self.before)
        for path, value in {**self.before, **wanted}.items():
            write(path, value)

    def restore(self) -> list[tuple[str, str, str]]:
        """Sets back all; (file, what it was changed to, what it is again) of those that had to be.

        Raises TraceError, after all others, where one could not be set back: it stays in the journal.
        """
        changed, failed = [], {}
        for path, value in reversed(list(self.before.items())):
            try:
                found = read(path)
                if found != value:
                    write(path, value)
                    changed.append((path, found, value))
            except TraceError as error:
                failed[path] = error
        self.before = {path: self.before[path] for path in failed}
        if failed:
            _store(self._folder, self.before)
            raise next(iter(failed.values()))
        _remove(self._folder)
        return changed


@contextlib.contextmanager
def opened(folder: Path = FOLDER) -> Iterator[Journal]:
    """The journal, locked. At the end, however that comes, everything is set back.

    Raises TraceError where another experiment has it, or its place cannot be trusted or written.
    """
    directory, lock = _open(folder)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TraceError("another experiment that changes settings is running", "wait for its end") from None
        journal = Journal(directory, lock)
        try:
            yield journal
        finally:
            try:
                journal.restore()
            except KeyboardInterrupt:  # of a signal that came just now; another one raises nothing
                journal.restore()
                raise
    finally:
        # said, not left to the closing: a fork of ours may have the file open too
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
        os.close(directory)


def _open(folder: Path) -> tuple[int, int]:
    """Of the folder and its lock. A folder of somebody else's would be theirs to say what root writes."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(directory)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            os.close(directory)
            raise TraceError(
                f"others than root can write {folder}", f"see what is in it; chown root, chmod 700 {folder}"
            )
        lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        raise TraceError(f"{folder} cannot be used: {error.strerror}", _KEPT_THERE) from None
    return directory, lock


def leftover(folder: Path = FOLDER) -> bool:
    """Whether a killed experiment has left settings that nobody has set back yet."""
    try:
        return bool(json.loads((folder / _NAME).read_text()))
    except (OSError, ValueError):
        return False


def read(path: str) -> str:
    """A setting's value; of `always [madvise] never` the word that is chosen."""
    try:
        text = Path(path).read_text().strip()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}", "this kernel, or this machine, has no such setting") from None
    chosen = re.search(r"\[(\S+)\]", text)
    return chosen[1] if chosen else text


def write(path: str, value: str) -> None:
    """Sets it, unless it is so, and reads it back."""
    if not path.startswith(_ALLOWED) or ".." in path:
        raise TraceError(f"{path} is no setting of the system", "the journal was changed by something else")
    if read(path) == value:
        return
    try:
        Path(path).write_text(value)
    except OSError as error:
        raise TraceError(f"{path} cannot be set to {value}: {error.strerror}", "leave this level out") from None
    found = read(path)
    if found != value:
        raise TraceError(
            f"{path}: asked for {value}, the kernel gives {found}", "less, or after a restart: memory is in pieces"
        )


def _load(folder: int) -> dict[str, str]:
    try:
        descriptor = os.open(_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return {}
    try:
        with open(descriptor) as file:
            value = json.load(file)
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise ValueError
    except ValueError:
        raise TraceError(
            f"{FOLDER / _NAME} is damaged", "see what is in it, set that back by hand, remove it"
        ) from None
    return value


def _store(folder: int, before: dict[str, str]) -> None:
    """On the disk, whole, when it returns. Raises TraceError."""
    temporary = f".{_NAME}.{os.getpid()}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
        with open(descriptor, "w") as file:
            json.dump(before, file)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, _NAME, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise TraceError(f"{FOLDER / _NAME} cannot be written: {error.strerror}", _KEPT_THERE) from None


def _remove(folder: int) -> None:
    """Needs no room on the disk."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_NAME, dir_fd=folder)
    os.fsync(folder)

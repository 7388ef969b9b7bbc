"""Whose program it is: under sudo the target runs as the user who called it, and the recording is theirs."""

import contextlib
import os
import pwd
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitnet_trace.errors import TraceError


@dataclass(frozen=True)
class Identity:
    """A user as the target runs: numbers, supplementary groups, home folder."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str = "/bin/sh"

    def assume(self) -> None:
        """Makes this process that user, for good. Only for a process that is about to exec or to serve that user."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


_OF_SUDO = ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "SUDO_HOME", "SUDO_TTY")

# what has no owner of its own: the overflow user of every Linux
NOBODY = Identity(uid=65534, gid=65534, groups=(), name="nobody", home="/")


def require_root() -> None:
    """Raises TraceError."""
    if os.geteuid() != 0:
        raise TraceError("tracing needs root", "sudo bitnet-trace ... (the program itself still runs as you)")


def calling_user(environment: Mapping[str, str], as_root: bool) -> Identity | None:
    """The user who called sudo; None when the target runs as whoever runs this: no sudo, or `as_root`.

    Raises TraceError when sudo names a user that does not exist.
    """
    if as_root or os.geteuid() != 0 or "SUDO_UID" not in environment:
        return None
    try:
        uid = int(environment["SUDO_UID"])
        if uid == 0:
            return None
        user = pwd.getpwuid(uid)
    except (ValueError, KeyError):
        raise TraceError(
            f"SUDO_UID={environment['SUDO_UID']!r} is no user of this machine", "call sudo again, or use --as-root"
        ) from None
    groups = tuple(os.getgrouplist(user.pw_name, user.pw_gid))
    return Identity(uid, user.pw_gid, groups, user.pw_name, user.pw_dir, user.pw_shell)


@dataclass(frozen=True)
class Caller:
    """What sudo was called from, as sudo and PAM change it on the way to us. `umask` None: not known."""

    environment: Mapping[str, str]
    umask: int | None
    limits: Mapping[int, tuple[int, int]]

    def limit(self) -> None:
        """Gives this process the caller's resource limits, as far as it may: in a container root may not raise them."""
        for number, (soft, hard) in self.limits.items():
            try:
                resource.setrlimit(number, (soft, hard))
            except (OSError, ValueError):
                allowed = resource.getrlimit(number)[1]
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(number, (_lower(soft, allowed), _lower(hard, allowed)))


NO_CALLER = Caller({}, None, {})

# what is tight for a program may be too tight for its tracer: a file for each probe and CPU, and a compiler to map
_LIFTED = {
    resource.RLIMIT_NOFILE: 65_536,
    resource.RLIMIT_CPU: resource.RLIM_INFINITY,
    resource.RLIMIT_AS: resource.RLIM_INFINITY,
    resource.RLIMIT_DATA: resource.RLIM_INFINITY,
}


def lift_limits() -> dict[int, tuple[int, int]]:
    """Raises limits of this process that tracing could meet, as far as it may, and says what they were."""
    before = {number: resource.getrlimit(number) for number in _LIFTED}
    for number, wanted in _LIFTED.items():
        soft, hard = before[number]
        with contextlib.suppress(OSError, ValueError):  # in a container root may not pass the hard limit
            resource.setrlimit(number, (hard, hard))
            resource.setrlimit(number, (_higher(soft, wanted), _higher(hard, wanted)))
    return before


def caller(user: Identity | None) -> Caller:
    """The nearest ancestor that is the user's own: the shell that sudo was called from.

    NO_CALLER without a user, and where there is no such process: a shell that replaced itself by sudo (`su -c 'sudo
    ...'`). Then the target has what sudo gave to us.
    """
    if user is None:
        return NO_CALLER
    pid = os.getppid()
    while pid > 1:
        folder = Path(f"/proc/{pid}")
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            if set(status["Uid"].split()) == {str(user.uid)}:
                pairs = (folder / "environ").read_bytes().split(b"\0")
                environment = dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)
                return Caller(environment, int(status["Umask"], 8), _limits((folder / "limits").read_text()))
            pid = int(status["PPid"])
        except (OSError, ValueError, KeyError):
            break
    return NO_CALLER


def _limits(text: str) -> dict[int, tuple[int, int]]:
    """Of /proc/PID/limits, which is in the order of their numbers: prlimit(2) asks for more rights."""
    found = {}
    for number, line in enumerate(text.splitlines()[1:]):
        soft, hard = (resource.RLIM_INFINITY if word == "unlimited" else int(word) for word in line[25:].split()[:2])
        found[number] = (soft, hard)
    return found


def _height(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def _lower(one: int, other: int) -> int:
    """The lower of two limits."""
    return min(one, other, key=_height)


def _higher(one: int, other: int) -> int:
    return max(one, other, key=_height)


def target_environment(
    environment: Mapping[str, str], user: Identity | None, called_from: Caller, extra: Mapping[str, str]
) -> dict[str, str]:
    """What the target's environment is: ours, with the user's own home, name and search path in place of root's.

    `extra` (--env K=V) comes last.
    """
    result = dict(environment)
    if user is not None:
        for name in _OF_SUDO:
            result.pop(name, None)
        result.update(HOME=user.home, USER=user.name, LOGNAME=user.name, MAIL=f"/var/mail/{user.name}")
        result.update(SHELL=called_from.environment.get("SHELL", user.shell))
        # the user's own comes first, as without sudo; what sudo's secure_path has besides is found too
        paths = [called_from.environment.get("PATH", ""), result.get("PATH", os.defpath)]
        folders = [folder for path in paths for folder in path.split(os.pathsep) if folder]
        result["PATH"] = os.pathsep.join(dict.fromkeys(folders))
    result.update(extra)
    return result


def find_program(name: str, environment: Mapping[str, str]) -> str:
    """The file that a shell would run for `name`. Raises TraceError when there is none."""
    if not name:
        raise TraceError("the program's name is empty", "bitnet-trace run -- /path/to/llama-cli ...")
    path = environment.get("PATH", os.defpath)
    found = shutil.which(name, path=path)
    if found is None:
        if os.sep in name and Path(name).is_dir():
            raise TraceError(f"{name} is a directory", "name the program in it")
        if os.sep in name and Path(name).exists():
            raise TraceError(f"{name} is not executable", f"chmod +x {name}")
        where = name if os.sep in name else f"{name} in PATH"
        raise TraceError(
            f"there is no program {where}", "give its whole path: bitnet-trace run -- /path/to/llama-cli ..."
        )
    return found

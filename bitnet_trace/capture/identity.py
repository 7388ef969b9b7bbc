"""Whose program it is: under sudo the target runs as the user who called it, and the recording is theirs."""

import os
import pwd
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

    def assume(self) -> None:
        """Makes this process that user, for good. Only for a process that is about to exec or to serve that user."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


# what has no owner of its own: the overflow user of every Linux
NOBODY = Identity(uid=65534, gid=65534, groups=(), name="nobody", home="/")


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
    return Identity(uid, user.pw_gid, groups, user.pw_name, user.pw_dir)


def _caller_environment(uid: int) -> dict[str, str]:
    """The environment of the nearest ancestor that is the user's own: what sudo was called from; {}: not readable."""
    pid = os.getppid()
    while pid > 1:
        folder = Path(f"/proc/{pid}")
        try:
            if folder.stat().st_uid == uid:
                pairs = (folder / "environ").read_bytes().split(b"\0")
                return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)
            status = (folder / "status").read_text()
            pid = int(status.split("PPid:", 1)[1].split(None, 1)[0])
        except (OSError, ValueError, IndexError):
            break
    return {}


def target_environment(
    environment: Mapping[str, str], identity: Identity | None, extra: Mapping[str, str]
) -> dict[str, str]:
    """What the target's environment is: ours, with the user's own home, name and search path in place of root's.

    `extra` (--env K=V) comes last.
    """
    result = dict(environment)
    if identity is not None:
        for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"):
            result.pop(name, None)
        result.update(HOME=identity.home, USER=identity.name, LOGNAME=identity.name, MAIL=f"/var/mail/{identity.name}")
        # sudo's secure_path hides the user's own; what was in the caller's shell is put behind it
        own = _caller_environment(identity.uid).get("PATH", "")
        known = result.get("PATH", os.defpath).split(os.pathsep)
        added = [folder for folder in own.split(os.pathsep) if folder and folder not in known]
        result["PATH"] = os.pathsep.join([*known, *added])
    result.update(extra)
    return result


def find_program(name: str, environment: Mapping[str, str]) -> str:
    """The file that a shell would run for `name`. Raises TraceError when there is none."""
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

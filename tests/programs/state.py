"""Prints, as JSON, all that a process inherits: whose it is, limits, masks, descriptors, scheduling, keys."""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

STATUS = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "THP_enabled",
    "Cpus_allowed_list",
    "Mems_allowed_list",
]
FILES = [
    "oom_score_adj",
    "coredump_filter",
    "loginuid",
    "sessionid",
    "timerslack_ns",
    "personality",
    "cgroup",
    "cpuset",
    "setgroups",
    "uid_map",
    "gid_map",
]
PR_GET_DUMPABLE, PR_GET_PDEATHSIG, PR_GET_SECUREBITS, PR_GET_KEEPCAPS, PR_GET_CHILD_SUBREAPER = 3, 2, 27, 7, 37
KEYCTL, KEYCTL_GET_KEYRING_ID, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING = 250, 0, 6, -3


def text(name: str) -> str:
    try:
        return Path("/proc/self", name).read_text().strip()
    except OSError as error:
        return str(error.strerror)


def number(option: int, into_memory: bool = False) -> int:
    libc = ctypes.CDLL(None)
    value = ctypes.c_int(-1)
    returned = libc.prctl(option, ctypes.byref(value) if into_memory else 0, 0, 0, 0)
    return value.value if into_memory else returned


def terminal() -> str | None:
    """Of the controlling terminal: whether there is one."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError as error:
        return str(error.strerror)
    return "there is one"


def state() -> dict[str, object]:
    status = dict(line.split(":", 1) for line in text("status").splitlines())
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
    return {
        **{name: status[name].split() for name in STATUS if name in status},
        **{name: text(name) for name in FILES},
        "limits": limits,
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
        "fd_kinds": [os.fstat(fd).st_mode >> 12 for fd in (0, 1, 2)],
        "ignored": sorted(one for one in signal.valid_signals() if signal.getsignal(one) == signal.SIG_IGN),
        "nice": os.nice(0),
        "scheduler": (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority),
        "affinity": sorted(os.sched_getaffinity(0)),
        "cwd": os.getcwd(),
        "terminal": terminal(),
        "keyring": ctypes.CDLL(None).syscall(KEYCTL, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0),
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))},
        "dumpable": number(PR_GET_DUMPABLE),
        "death_signal": number(PR_GET_PDEATHSIG, into_memory=True),
        "securebits": number(PR_GET_SECUREBITS),
        "keepcaps": number(PR_GET_KEEPCAPS),
        "subreaper": number(PR_GET_CHILD_SUBREAPER, into_memory=True),
        "environment": dict(os.environ),
    }


with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(state(), file)

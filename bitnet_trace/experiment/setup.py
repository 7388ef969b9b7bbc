"""How one run is to be set up: what the factors of its cell have asked for, and what of it the program itself does."""

import ctypes
import itertools
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bitnet_trace.errors import TraceError

POLICIES = {"other": os.SCHED_OTHER, "batch": os.SCHED_BATCH, "idle": os.SCHED_IDLE, "fifo": os.SCHED_FIFO,
            "rr": os.SCHED_RR}  # fmt: skip
REAL_TIME = ("fifo", "rr")
MEMORY_POLICIES = {"default": 0, "preferred": 1, "bind": 2, "interleave": 3, "local": 4}  # linux/mempolicy.h
_SET_MEMPOLICY = 238  # x86-64
_PR_SET_THP_DISABLE = 41
_THREAD_OPTIONS = ("-t", "--threads")


@dataclass
class Setup:
    """Of one cell. None: left as it is. Numbers of CPUs and nodes are sorted.

    `settings`: (file below /proc or /sys, what to write) of the whole system; `one_cpu_each`: threads of OpenMP are
    bound, each to a CPU of its own; `load`: (kind, how many) of a background load; `page_cache`: of the model's file.
    """

    command: list[str]
    threads: int | None = None
    policy: str | None = None
    priority: int = 0
    nice: int | None = None
    cpus: tuple[int, ...] | None = None
    one_cpu_each: bool = False
    memory_policy: tuple[str, tuple[int, ...]] | None = None
    thp: str | None = None
    hugetlb_pages: int | None = None
    locked: bool = False
    page_cache: str | None = None
    load: tuple[str, int] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, list[str]] = field(default_factory=dict)
    settings: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self) -> list[str]:
        """The command with its placeholders filled; what has no placeholder is put where engines look for it."""
        result: list[str] = []
        placed: set[str] = set()
        for word in self.command:
            name = word[1:-1] if word.startswith("{") and word.endswith("}") else None
            if name in self.replaced:
                result += self.replaced[name]
                placed.add(name)
                continue
            for name, words in self.replaced.items():
                if f"{{{name}}}" in word:
                    word = word.replace(f"{{{name}}}", " ".join(words))
                    placed.add(name)
            result.append(word)
        for name, words in self.replaced.items():
            if name in placed:
                continue
            result = _with_threads(result, words[0]) if name == "threads" else [*result, *words]
        return result

    def tunables(self) -> dict[str, str]:
        """The environment, with what glibc's malloc is told of huge pages beside what it was told before."""
        mode = "2" if self.hugetlb_pages else "1" if self.thp == "on" else None
        if mode is None:
            return self.environment
        before = self.environment.get("GLIBC_TUNABLES")
        value = f"glibc.malloc.hugetlb={mode}"
        return {**self.environment, "GLIBC_TUNABLES": f"{before}:{value}" if before else value}

    def become(self) -> None:
        """In the program's process, before it is the program and the user's: all that it hands on to its threads.

        Raises OSError.
        """
        if self.cpus is not None:
            os.sched_setaffinity(0, self.cpus)
        if self.nice is not None:
            os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        if self.memory_policy is not None:
            _set_memory_policy(*self.memory_policy)
        if self.thp == "off" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "huge pages cannot be switched off")
        if self.locked:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        # last: from here on it may not give the CPU back
        if self.policy is not None:
            os.sched_setscheduler(0, POLICIES[self.policy], os.sched_param(self.priority))


def _with_threads(command: Sequence[str], number: str) -> list[str]:
    """As llama.cpp and its forks take it; what the command says already is replaced."""
    result = list(command)
    for at, word in enumerate(result):
        if word in _THREAD_OPTIONS and at + 1 < len(result):
            result[at + 1] = number
            return result
        if word.startswith("--threads="):
            result[at] = f"--threads={number}"
            return result
    return [*result, "-t", number]


def _set_memory_policy(policy: str, nodes: Sequence[int]) -> None:
    """set_mempolicy(2); glibc has no wrapper for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    mask = ctypes.c_ulong(sum(1 << node for node in nodes))
    bits = ctypes.c_ulong(8 * ctypes.sizeof(mask) + 1) if nodes else ctypes.c_ulong(0)
    pointer = ctypes.byref(mask) if nodes else None
    if libc.syscall(_SET_MEMPOLICY, MEMORY_POLICIES[policy], pointer, bits):
        number = ctypes.get_errno()
        raise OSError(number, f"memory policy {policy}: {os.strerror(number)}")


def model_of(command: Sequence[str]) -> str:
    """The model's file of an engine's command line. Raises TraceError when there is none."""
    for option, value in itertools.pairwise(command):
        if option in ("-m", "--model"):
            return value
    named = [word for word in command if word.endswith(".gguf")]
    if not named:
        raise TraceError("the command names no model whose page cache could be set", "give it one: -m model.gguf")
    return named[0]


def as_dict(setup: Setup) -> dict[str, Any]:
    """What was asked for, for the results: only what was set."""
    asked = {
        "threads": setup.threads,
        "policy": setup.policy,
        "priority": setup.priority if setup.policy in REAL_TIME else None,
        "nice": setup.nice,
        "cpus": list(setup.cpus) if setup.cpus else None,
        "memory_policy": setup.memory_policy,
        "thp": setup.thp,
        "hugetlb_pages": setup.hugetlb_pages,
        "page_cache": setup.page_cache,
        "load": setup.load,
        "environment": setup.tunables() or None,
        "settings": setup.settings or None,
    }
    return {name: value for name, value in asked.items() if value is not None}

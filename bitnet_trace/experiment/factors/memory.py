"""Memory: page sizes, nodes, locks, and how the model gets in."""

import re
from pathlib import Path
from typing import Any

from bitnet_trace.errors import TraceError
from bitnet_trace.experiment.factors.base import Factor, Machine, Named, cpu_list
from bitnet_trace.experiment.setup import MEMORY_POLICIES, Setup

_THP = Path("/sys/kernel/mm/transparent_hugepage")
THP_ENABLED = str(_THP / "enabled")
_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


class Thp(Named):
    """Transparent huge pages of this program alone: off by prctl, on by glibc's malloc (MADV_HUGEPAGE)."""

    words = ("off", "on", "default")
    help = ", ".join(words)

    def read(self, raw: Any, machine: Machine) -> str:
        return super().read("on" if raw is True else "off" if raw is False else raw, machine)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.thp = None if value == "default" else value


class ThpSystem(Named):
    """/sys/kernel/mm/transparent_hugepage/enabled."""

    words = ("always", "madvise", "never")
    help = ", ".join(words)
    system = True

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.settings.append((THP_ENABLED, value))


class Mthp(Factor):
    """Sizes of huge pages below 2 MiB: hugepages-*kB/enabled."""

    help = '"none", or SIZEkB:always, SIZEkB:madvise, SIZEkB:inherit, SIZEkB:never'
    system = True

    def read(self, raw: Any, machine: Machine) -> tuple[str, str] | None:
        if raw == "none":
            return None
        found = re.fullmatch(r"(\d+)kB:(always|madvise|inherit|never)", str(raw))
        if not found:
            raise self.wrong(raw)
        file = _THP / f"hugepages-{found[1]}kB/enabled"
        if not file.exists():
            sizes = sorted(int(re.sub(r"\D", "", one.name)) for one in _THP.glob("hugepages-*kB"))
            raise TraceError(f"{self.name} = {raw!r}: this kernel has no such size", f"sizes in kB: {sizes}")
        return str(file), found[2]

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        if value is not None:
            setup.settings.append(value)


class Hugetlb(Factor):
    """A pool of so many pages of 2 MiB, that glibc's malloc takes its memory from."""

    help = '"none", or a number of pages of 2 MiB'
    system = True

    def read(self, raw: Any, machine: Machine) -> int:
        if raw == "none":
            return 0
        if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= 1 << 20:
            raise self.wrong(raw)
        available = machine.host.memory_available_bytes
        if available is not None and raw << 21 > available // 2:
            raise TraceError(f"{self.name} = {raw}: {raw * 2} MiB are more than half of what is available", "fewer")
        if not _POOL.exists():
            raise TraceError(f"{self.name} = {raw}: this kernel has no pool of 2 MiB pages", "CONFIG_HUGETLBFS")
        return raw

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.hugetlb_pages = value
        if value:
            setup.settings.append((str(_POOL), str(value)))


class Numa(Factor):
    """Where memory is taken from: set_mempolicy(2), inherited by the program."""

    help = '"default", "local", bind:NODES, interleave:NODES, preferred:NODE; NODES as 0-1 or "all"'

    def read(self, raw: Any, machine: Machine) -> tuple[str, tuple[int, ...]]:
        policy, _, text = str(raw).partition(":")
        if policy not in MEMORY_POLICIES or bool(text) == (policy in ("default", "local")):
            raise self.wrong(raw)
        if not text:
            return policy, ()
        try:
            nodes = tuple(range(machine.nodes)) if text == "all" else cpu_list(text)
        except ValueError:
            raise self.wrong(raw) from None
        if nodes[-1] >= machine.nodes or (policy == "preferred" and len(nodes) > 1):
            there = "node 0 only" if machine.nodes == 1 else f"nodes 0 to {machine.nodes - 1}"
            raise TraceError(f"{self.name} = {raw!r}: no such node, or too many", f"this machine has {there}")
        return policy, nodes

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.memory_policy = value


class PageCache(Named):
    """The model's file before each run: taken out of the page cache, or brought into it."""

    words = ("cold", "warm")
    help = ", ".join(words)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.page_cache = value


class Mlock(Named):
    """The engine's option --mlock, with the limit raised for it."""

    words = ("false", "true")
    help = ", ".join(words)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.locked = value == "true"
        setup.replaced["mlock"] = ["--mlock"] if setup.locked else []


class Mmap(Named):
    """Whether the engine maps the model: its option --no-mmap."""

    words = ("true", "false")
    help = ", ".join(words)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.replaced["mmap"] = [] if value == "true" else ["--no-mmap"]

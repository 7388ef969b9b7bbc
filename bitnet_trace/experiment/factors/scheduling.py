"""Who runs when and where: policy and priority, nice, CPUs, number of threads."""

import re
from pathlib import Path
from typing import Any

from bitnet_trace.errors import TraceError
from bitnet_trace.experiment.factors.base import Factor, Machine, cpu_list
from bitnet_trace.experiment.setup import POLICIES, REAL_TIME, Setup

_RT_RUNTIME = Path("/proc/sys/kernel/sched_rt_runtime_us")


class Policy(Factor):
    """The scheduling policy, given before the program starts: all of its threads inherit it."""

    help = "other, batch, idle, fifo:1 to fifo:99, rr:1 to rr:99"

    def read(self, raw: Any, machine: Machine) -> tuple[str, int]:
        found = re.fullmatch(r"([a-z]+)(?:[: ](-?\d{1,6}))?", str(raw))
        if not found or found[1] not in POLICIES:
            raise self.wrong(raw)
        policy, priority = found[1], found[2]
        if policy not in REAL_TIME:
            if priority is not None:
                raise self.wrong(raw, f"only fifo and rr have priorities: {self.help}")
            return policy, 0
        if priority is None or not 1 <= int(priority) <= 99:
            raise TraceError(f"{self.name} = {raw!r}: priorities of {policy} are 1 to 99", f"write {policy}:50")
        if _RT_RUNTIME.read_text().strip() == "-1":
            raise TraceError(
                f"{self.name} = {raw!r}: real-time threads may use all of every CPU here, nothing could stop them",
                "sysctl kernel.sched_rt_runtime_us=950000",
            )
        return policy, int(priority)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.policy, setup.priority = value


class Nice(Factor):
    """Of the program, handed on to its threads."""

    help = "-20 to 19"

    def read(self, raw: Any, machine: Machine) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not -20 <= raw <= 19:
            raise self.wrong(raw)
        return raw

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.nice = value


class Threads(Factor):
    """How many threads the engine computes with: `{threads}` in the command, else its option -t."""

    help = 'a number, "all" (one for each CPU), "all+1", "all*2"'

    def read(self, raw: Any, machine: Machine) -> int:
        n = len(machine.cpus)
        found = re.fullmatch(r"(\d{1,4})|all(?:([+*])(\d{1,2}))?", str(raw))
        if not found or isinstance(raw, bool):
            raise self.wrong(raw)
        if found[1]:
            number = int(found[1])
        else:
            other = int(found[3]) if found[3] else 0
            number = n * other if found[2] == "*" else n + other
        if not 1 <= number <= 1024:
            raise self.wrong(raw)
        return number

    def shown(self, raw: Any) -> str:
        return str(raw)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.threads = value
        setup.replaced["threads"] = [str(value)]


class Affinity(Factor):
    """The CPUs that the program may use.

    `pinned`: as many CPUs as it has threads, of different cores first; OpenMP binds each of its threads to one.
    """

    help = 'all, a list as 0-3,8, "pinned", "cores" (one CPU of each core), "performance", "efficient"'
    order = 1  # `pinned` asks how many threads there are

    def read(self, raw: Any, machine: Machine) -> str | tuple[int, ...]:
        text = str(raw)
        if text in ("all", "pinned"):
            return text
        if text == "cores":
            return tuple(sorted(core[0] for core in machine.cores))
        if text in ("performance", "efficient"):
            kind = "core" if text == "performance" else "atom"
            cpus = tuple(cpu for cpu in machine.core_types.get(kind, ()) if cpu in machine.cpus)
            if not cpus:
                raise TraceError(f"{self.name} = {raw!r}: all cores of this machine are alike", f"levels: {self.help}")
            return cpus
        try:
            cpus = cpu_list(text)
        except ValueError:
            raise self.wrong(raw) from None
        absent = sorted(set(cpus) - set(machine.cpus))
        if absent:
            raise TraceError(
                f"{self.name} = {raw!r}: CPU {absent[0]} is not there, or not allowed",
                f"CPUs that can be used here: {', '.join(map(str, machine.cpus))}",
            )
        return cpus

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        if value == "all":
            setup.cpus = machine.cpus
        elif value == "pinned":
            in_turn = [
                core[at] for at in range(max(map(len, machine.cores))) for core in machine.cores if at < len(core)
            ]
            chosen = in_turn[: setup.threads or len(machine.cpus)]
            setup.cpus, setup.one_cpu_each = tuple(sorted(chosen)), True
            places = ",".join(f"{{{cpu}}}" for cpu in chosen)
            setup.environment.update(OMP_PROC_BIND="true", OMP_PLACES=places)
        else:
            setup.cpus = value

"""The program itself: which binary, with which arguments and environment; what runs beside it; and nothing at all."""

import shlex
from pathlib import Path
from typing import Any

from bitnet_trace.errors import TraceError
from bitnet_trace.experiment.factors.base import Factor, Machine
from bitnet_trace.experiment.setup import Setup

LOADS = ("cpu-hog", "memory-hog", "cache-flusher")


class Binary(Factor):
    """The program to run in place of the command's; a whole command line where engines differ in their options."""

    help = "a path; or {label = path}; or {label = [path, arguments...]}: the whole command"
    order = -1  # what follows changes its arguments

    def level(self, label: str | None, raw: Any, machine: Machine) -> Any:
        found = super().level(label, raw, machine)
        return found if label else type(found)(Path(found.value[0]).name if isinstance(raw, list) else raw, found.value)

    def read(self, raw: Any, machine: Machine) -> list[str]:
        words = [raw] if isinstance(raw, str) else raw
        if not isinstance(words, list) or not words:
            raise self.wrong(raw)
        if not all(isinstance(one, str) and one and "\0" not in one for one in words):
            raise self.wrong(raw)
        return words

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.command = list(value) if len(value) > 1 else [value[0], *setup.command[1:]]


class Argument(Factor):
    """`argument.NAME`: words that take the place of {NAME} in the command, or are added to its end."""

    help = "text; or {label = [words]}"

    def read(self, raw: Any, machine: Machine) -> list[str]:
        words = raw if isinstance(raw, list) else [raw]
        if not all(isinstance(one, str | int | float) and "\0" not in str(one) for one in words):
            raise self.wrong(raw)
        if isinstance(raw, list):
            return [str(one) for one in raw]
        try:
            return shlex.split(str(raw))
        except ValueError:
            raise self.wrong(raw) from None

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.replaced[self.name.partition(".")[2]] = value


class Environment(Factor):
    """`env.NAME`: a variable of the program's environment."""

    help = "text or a number"

    def read(self, raw: Any, machine: Machine) -> str:
        if isinstance(raw, list | dict) or "\0" in str(raw):
            raise self.wrong(raw)
        return self.shown(raw)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.environment[self.name.partition(".")[2]] = value


class Load(Factor):
    """What runs beside the program: started before each run, ended after it, and with the experiment."""

    help = f"none, {', '.join(LOADS)}; KIND:N for N of them"

    def read(self, raw: Any, machine: Machine) -> tuple[str, int] | None:
        if raw == "none":
            return None
        kind, _, number = str(raw).partition(":")
        if kind not in LOADS or (number and not number.isdecimal()):
            raise self.wrong(raw)
        n = int(number or 1)
        if not 1 <= n <= 4 * len(machine.cpus):
            raise self.wrong(raw, f"1 to {4 * len(machine.cpus)} of them on {len(machine.cpus)} CPUs")
        return kind, n

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        setup.load = value


class Nothing(Factor):
    """Levels that change nothing: what the experiment says of them shows what its verdicts are worth."""

    help = "any names"

    def read(self, raw: Any, machine: Machine) -> None:
        if isinstance(raw, list | dict):
            raise self.wrong(raw)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        pass


class Governor(Factor):
    """cpufreq's governor, of all CPUs."""

    help = "as in /sys/devices/system/cpu/cpu0/cpufreq/scaling_available_governors"
    system = True

    def read(self, raw: Any, machine: Machine) -> str:
        if not machine.host.governors:
            raise TraceError(f"{self.name}: this machine has no cpufreq governors", "usual in a guest: leave it out")
        folder = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_available_governors")
        known = folder.read_text().split() if folder.exists() else []
        if str(raw) not in known:
            raise self.wrong(raw, f"governors here: {', '.join(known)}")
        return str(raw)

    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        for cpu in machine.host.governors or {}:
            setup.settings.append((f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", value))

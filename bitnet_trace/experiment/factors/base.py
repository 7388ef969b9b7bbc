"""What a factor is: levels that are read from a spec, and what a level means for the setup of a run."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from bitnet_trace import host
from bitnet_trace.errors import TraceError
from bitnet_trace.experiment.setup import Setup


@dataclass(frozen=True)
class Machine:
    """What levels are checked against. `threads_of_core`: CPUs grouped by physical core."""

    cpus: tuple[int, ...]
    cores: tuple[tuple[int, ...], ...]
    core_types: dict[str, tuple[int, ...]]
    nodes: int
    host: host.Host


@dataclass(frozen=True)
class Level:
    """`label` names it in tables; `value` is what the factor made of it."""

    label: str
    value: Any


class Factor(ABC):
    """One kind of factor. `help` is a line for people: the levels that there are.

    `system`: it changes the whole system. `order`: those with smaller numbers are applied first.
    """

    help = ""
    system = False
    order = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def level(self, label: str | None, raw: Any, machine: Machine) -> Level:
        """A level of a spec; `label` where the spec gives one. Raises TraceError."""
        value = self.read(raw, machine)
        return Level(label or self.shown(raw), value)

    def shown(self, raw: Any) -> str:
        return str(raw).lower() if isinstance(raw, bool) else str(raw)

    @abstractmethod
    def read(self, raw: Any, machine: Machine) -> Any:
        """What `apply` takes. Raises TraceError for what is no level here."""

    @abstractmethod
    def apply(self, value: Any, setup: Setup, machine: Machine) -> None:
        """Asks for the level in the setup of a run."""

    def wrong(self, raw: Any, hint: str | None = None) -> TraceError:
        return TraceError(f"{self.name} = {raw!r} is no level of this factor", hint or f"levels: {self.help}")


class Named(Factor):
    """A factor whose levels are a few words."""

    words: tuple[str, ...] = ()

    def read(self, raw: Any, machine: Machine) -> str:
        text = self.shown(raw)
        if text not in self.words:
            raise self.wrong(raw)
        return text


def cpu_list(text: str) -> tuple[int, ...]:
    """`0-3,8` as numbers. Raises ValueError."""
    numbers: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if not found:
            raise ValueError(text)
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(text)
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))

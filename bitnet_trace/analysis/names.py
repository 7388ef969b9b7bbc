"""Names of threads by their numbers: the target's, and of others those that were asked for while it ran."""

from typing import Any

import pandas as pd


class ThreadNames:
    """`threads`: tid and comm, the last row of a number holds. `neighbours`: {"tid": name} of foreign threads."""

    def __init__(self, threads: pd.DataFrame, neighbours: Any) -> None:
        named = threads.dropna(subset=["comm"])
        self._own = {int(tid): str(comm) for tid, comm in zip(named["tid"], named["comm"], strict=True)}
        self._foreign = neighbours if isinstance(neighbours, dict) else {}

    def is_own(self, tid: int) -> bool:
        """Whether it is one of the target's."""
        return tid in self._own

    def of(self, tid: int) -> str | None:
        """Its name; "idle" for no thread at all (0), None where it is not known."""
        if tid == 0:
            return "idle"
        name = self._own.get(tid, self._foreign.get(str(tid)))
        return name if isinstance(name, str) else None

    def described(self, tid: int) -> str:
        """Name and number, as far as they are known."""
        name = self.of(tid)
        return f"thread {tid}" if name is None else f"{name} ({tid})" if tid else name

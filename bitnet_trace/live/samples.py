"""Timer samples by function while they come; the names of functions come later than the samples."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.engines.roles import role_of
from bitnet_trace.live.phase_book import NAMES, PhaseBook

_MOST_PLACES = 20_000  # different instructions that were sampled; what is rarer is counted without a place
_MOST_STACKS = 60_000
_NOWHERE = (0, 0)
_UNKNOWN = ("[unknown]", "[unknown]", "other", False)

Place = tuple[int, int]  # pid, address


class SampleSums:
    """Samples by place: `counts[place][tid]`, and how many of them spin."""

    def __init__(self, book: PhaseBook) -> None:
        self._book = book
        self._leaves: dict[int, Place] = {}  # by stack
        self._places: dict[Place, Place] = {}  # of all stacks that are kept, each once
        self.names: dict[Place, tuple[str, str, str, bool]] = {}  # function, module, role, spins
        self.counts: dict[Place, dict[int, int]] = {}
        self._by_code = np.zeros((len(NAMES), 2), np.int64)  # of settled phases: samples, and those that spin
        self._former: dict[tuple[str, str], tuple[int, str]] = {}  # as by_function(), of processes that are forgotten
        self._newest: list[tuple[int, Place]] = []  # phase and place of samples in phases that are not settled
        self.n = 0

    def take(self, stream: str, rows: Any) -> None:
        if stream == "stacks":
            leaves = rows[rows["level"] == 0]
            pairs = zip(leaves["pid"].tolist(), leaves["address"].tolist(), strict=True)
            for stack, place in zip(leaves["stack"].tolist(), pairs, strict=True):
                self._leaves[stack] = self._places.setdefault(place, place)
        elif stream == "samples":
            timer = rows[rows["reason"] == 0]
            self.n += len(timer)
            columns = (timer[name].tolist() for name in ("stack", "tid", "phase"))
            for stack, tid, phase in zip(*columns, strict=True):
                place = self._leaves.get(stack, _NOWHERE)
                if place not in self.counts and len(self.counts) >= _MOST_PLACES:
                    place = _NOWHERE
                of_place = self.counts.setdefault(place, {})
                of_place[tid] = of_place.get(tid, 0) + 1
                self._newest.append((phase, place))
        else:
            for row in rows:
                self._name(row)

    def settle(self) -> None:
        """Stacks are told once; those of the rarest places are not kept."""
        if len(self._leaves) > _MOST_STACKS:
            self._keep(dict(list(self._leaves.items())[-_MOST_STACKS // 2 :]))

    def settled(self, ids: npt.NDArray[np.uint32], codes: npt.NDArray[np.int8]) -> None:
        """These phases have their final names."""
        known = dict(zip(ids.tolist(), codes.tolist(), strict=True))
        kept = []
        phases = np.array([phase for phase, _ in self._newest], np.uint32)
        still_open = self._book.is_open(phases) | (phases > self._book.newest)
        for (phase, place), is_open in zip(self._newest, still_open.tolist(), strict=True):
            code = known.get(phase)
            if code is None and is_open:
                kept.append((phase, place))
            else:
                self._count(self._by_code, len(NAMES) - 1 if code is None else code, place)
        self._newest = kept

    def forget(self, pids: set[int]) -> None:
        """Nothing comes of these processes any more: their functions are counted, and not where they were."""
        for place in [place for place in self.counts if place[0] in pids]:
            function, module, role, _ = self.names.get(place, _UNKNOWN)
            n, _ = self._former.get((function, module), (0, role))
            self._former[function, module] = n + sum(self.counts.pop(place).values()), role
        gone = {stack for stack, place in self._leaves.items() if place[0] in pids}
        if gone:
            self._keep({stack: place for stack, place in self._leaves.items() if stack not in gone})
        waiting = {place for _, place in self._newest}
        for place in [place for place in self.names if place[0] in pids and place not in waiting]:
            del self.names[place]

    def unnamed(self, n: int) -> list[Place]:
        """The most frequent places without a name, at most `n`."""
        missing = [place for place in self.counts if place not in self.names and place != _NOWHERE]
        return sorted(missing, key=lambda place: -sum(self.counts[place].values()))[:n]

    def spin_share(self, name: str) -> float | None:
        """Of the samples in phases of that name those that spin; None without samples."""
        sums = self._by_code.copy()
        names = {int(row["id"]): NAMES.index(row["name"]) for row in self._book.named()}
        for phase, place in self._newest:
            self._count(sums, names.get(phase, len(NAMES) - 1), place)
        n, spinning = sums[NAMES.index(name)]
        return round(float(100 * spinning / n), 2) / 100 if n else None

    def by_thread(self) -> dict[int, tuple[int, int]]:
        """By tid: samples, and those of them that spin."""
        result: dict[int, tuple[int, int]] = {}
        for place, of_place in self.counts.items():
            spins = self.names.get(place, _UNKNOWN)[3]
            for tid, n in of_place.items():
                samples, spinning = result.get(tid, (0, 0))
                result[tid] = samples + n, spinning + (n if spins else 0)
        return result

    def by_function(self) -> dict[tuple[str, str], tuple[int, str]]:
        """By (function, module): samples, and the role."""
        result = dict(self._former)
        for place, of_place in self.counts.items():
            function, module, role, _ = self.names.get(place, _UNKNOWN)
            before, _ = result.get((function, module), (0, role))
            result[function, module] = before + sum(of_place.values()), role
        return result

    def _keep(self, leaves: dict[int, Place]) -> None:
        self._leaves = leaves
        self._places = {place: place for place in leaves.values()}

    def _count(self, sums: npt.NDArray[np.int64], code: int, place: Place) -> None:
        sums[code, 0] += 1
        sums[code, 1] += self.names.get(place, _UNKNOWN)[3]

    def _name(self, row: Any) -> None:
        place = int(row["pid"]), int(row["address"])
        if place not in self.counts and place not in self._places:
            return
        module = None if row.get("module") is None else str(row["module"]).rsplit("/", 1)[-1]
        function = row.get("function") or (None if module is None else f"[{module.strip('[]')}]")
        spins = bool(row.get("spins"))
        role = role_of(str(function), module) if function else None
        named = "spin" if spins else role.role if role else None
        self.names[place] = str(function or "[unknown]"), module or "[unknown]", named or "other", spins

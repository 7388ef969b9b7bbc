"""What a run shows of itself while it goes on: frames of the fold of what is recorded, at an interval."""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bitnet_trace.capture import footprint
from bitnet_trace.capture.address_spaces import AddressSpaces
from bitnet_trace.capture.models import tensor_rows
from bitnet_trace.capture.parser import Parser
from bitnet_trace.capture.symbols import symbol_rows
from bitnet_trace.live.model import Frame

if TYPE_CHECKING:
    from bitnet_trace.live.figures import Figures
    from bitnet_trace.live.fold import Fold

_MOST_NAMES = 60  # that are asked for at a time
# Names of functions are asked for at these moments after the beginning, later regularly: files are read for it.
_NAMES_AT_S = (1.0, 3.0, 8.0, 20.0, 60.0)
_NAMES_EVERY_S = 60.0
_SHORTEST_S, _LONGEST_S = 0.25, 60.0  # between two frames, by the keys + and -


class View:
    """`show` gets each frame and says whether the user has had enough. begin() comes first."""

    def __init__(self, show: Callable[[Frame], bool], interval_s: float) -> None:
        self.fold: Fold  # from begin() on
        self.interval_s = interval_s
        self.is_enough = False
        self.message: str | None = None  # what the user should know
        self._show = show
        self._names_at_s = list(_NAMES_AT_S)
        self._next_s = self._begin_s = time.monotonic()
        self._cpu_ns = time.process_time_ns()
        self._looked_at: set[tuple[int, int]] = set()  # files
        self._figures: Figures

    def begin(self, start_ns: int, cpus: int) -> None:
        """The recording begins at `start_ns`; the target may use so many CPUs."""
        # not before: what other processes are forked for should not have pandas in it
        from bitnet_trace.live.figures import Figures
        from bitnet_trace.live.fold import Fold

        self.fold = Fold()
        self._figures = Figures(self.fold, start_ns, cpus)
        self._next_s = self._begin_s = time.monotonic()

    @property
    def next_s(self) -> float:
        """When a frame is due, by time.monotonic()."""
        return self._next_s

    def name_functions(self, spaces: AddressSpaces, parser: Parser) -> None:
        """Asks for the names of what was sampled most, now and then."""
        if time.monotonic() < self._begin_s + self._names_at_s[0]:
            return
        at_s = self._names_at_s.pop(0)
        if not self._names_at_s:
            self._names_at_s.append(at_s + _NAMES_EVERY_S)
        addresses: dict[int, set[int]] = defaultdict(set)
        for pid, address in self.fold.samples.unnamed(_MOST_NAMES):
            addresses[pid].add(address)
        if addresses:
            self.fold.take("symbols", list(symbol_rows(addresses, spaces, parser, patient=False)))
            footprint.give_back()  # the kernel's symbol table was read

    def name_tensors(self, files: Mapping[tuple[int, int], str], parser: Parser) -> None:
        """Asks for the tensors of models among the files that were mapped or read since the last time."""
        new = {key: path for key, path in files.items() if key not in self._looked_at}
        if new:
            self._looked_at |= new.keys()
            self.fold.take("tensors", tensor_rows(new, parser, warnings=[]))  # they are told when the run has ended

    def take_write(self) -> bool:
        """Whether the user wants the flight recorder's recording now."""
        return bool(getattr(self._show, "take_write", bool)())

    def _ask_for_policies(self) -> None:
        """Of threads that have not asked for one themselves yet."""
        for thread in self.fold.threads.by_tid.values():
            if thread.policy is None and thread.state != "X":
                with contextlib.suppress(OSError):
                    policy = os.sched_getscheduler(thread.tid) & ~os.SCHED_RESET_ON_FORK
                    priority = os.sched_getparam(thread.tid).sched_priority
                    nice = os.getpriority(os.PRIO_PROCESS, thread.tid)
                    self.fold.threads.set_policy(thread.tid, policy, priority, nice)

    def update(self, meta: Mapping[str, Any], blind: set[str], **more: Any) -> None:
        """Shows a frame of this moment; `more` are fields of it."""
        now_s = time.monotonic()
        cpu_ns = time.process_time_ns()
        spent_s = max(now_s - (self._next_s - self.interval_s), 1e-3)
        own_pct = 100 * (cpu_ns - self._cpu_ns) / 1e9 / spent_s
        self._cpu_ns = cpu_ns
        if more.get("ended"):
            self.fold.finish()
        self._ask_for_policies()
        frame = self._figures.frame(time.monotonic_ns(), meta, blind, own_cpu_pct=own_pct, message=self.message, **more)
        self.is_enough = self._show(frame) or self.is_enough
        factor = getattr(self._show, "take_factor", lambda: 1.0)()
        if factor != 1.0:
            self.interval_s = min(max(self.interval_s * factor, _SHORTEST_S), _LONGEST_S)
        self._next_s = now_s + self.interval_s

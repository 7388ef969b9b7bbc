"""What windows may cost: what is left of the budget when everything that is always on is paid for."""

import time
from collections.abc import Callable

# What a first window is taken to cost before anything was measured: a share of the CPU time while its probes are live.
# Barriers took 3 % of it of a model of 70 MB and 20 % of one of 6 MB; what the first one took more is saved up again.
_FIRST_SHARE = {"barriers": 0.08, "operations": 0.15}
_FIRST_SHARE_OF_FUNCTIONS = 0.8
# Probes are live a while longer than their window is open: until the kernel has waited for its readers.
_LIVE_LONGER_NS = 25_000_000
_FIRST_FIXED_NS = 500_000  # of the tracer, to attach and detach
_WEIGHT_OF_NEWEST = 0.3
_UNBOUNDED_PCT, _PLENTY_NS = 100.0, 1 << 62


class Governor:
    """The account of one run. All times are CPU time, of all CPUs together.

    `always_on_ns`: what tracing has cost so far without any window: an estimate from the CPU time that the target used.
    """

    def __init__(self, budget_pct: float, always_on_ns: Callable[[int], int]) -> None:
        self.budget_pct = budget_pct
        self.spent_ns: dict[str, int] = {}  # by what windows are for
        self.share_left_pct: float | None = None
        self._always_on_ns = always_on_ns
        self._since_ns: dict[int, int] = {}  # CPU time of a process when it was first seen in an engine call
        self._always_on_before_ns: int | None = None  # what had been spent when the first process was seen there
        self._fixed_ns = float(_FIRST_FIXED_NS)
        self._live_share: dict[str, float] = {}

    def left_ns(self, pid: int, what: str, n_kinds: int) -> int:
        """What a window in this process may cost now; less than 0 when too much was spent already. Raises
        ProcessLookupError.

        Each of the kinds of windows has the same part of what is left. Only what the engine has computed so far gives
        credit, and only what tracing has cost since then counts: start and loading are another matter than tokens, with
        page faults by the ten thousand.
        """
        if self.budget_pct >= _UNBOUNDED_PCT:
            self.share_left_pct = self.budget_pct
            return _PLENTY_NS
        used_ns = process_cpu_ns(pid)
        computed_ns = used_ns - self._since_ns.setdefault(pid, used_ns)
        spent_ns = self._always_on_ns(used_ns)
        if self._always_on_before_ns is None:
            self._always_on_before_ns = spent_ns
        always_on = max(spent_ns - self._always_on_before_ns, 0) / computed_ns if computed_ns > 0 else 0.0
        self.share_left_pct = self.budget_pct - 100 * always_on
        return int(self.share_left_pct / 100 * computed_ns / n_kinds) - self.spent_ns.get(what, 0)

    def forecast_ns(self, what: str, open_ns: int, cpus: int) -> int:
        """What a window that is open for so long will cost while the target uses so many CPUs."""
        share = self._live_share.get(what, _FIRST_SHARE.get(what, _FIRST_SHARE_OF_FUNCTIONS))
        return int(self._fixed_ns + share * cpus * (open_ns + _LIVE_LONGER_NS))

    def charge(self, what: str, hits_ns: int, tracer_ns: int, open_ns: int, cpus: int) -> int:
        """Books a window: its hits, and the tracer's own time. Returns what it cost."""
        share = hits_ns / (cpus * (open_ns + _LIVE_LONGER_NS))
        before = self._live_share.get(what, share)
        self._live_share[what] = before + _WEIGHT_OF_NEWEST * (share - before)
        self._fixed_ns += _WEIGHT_OF_NEWEST * (tracer_ns - self._fixed_ns)
        self.spent_ns[what] = self.spent_ns.get(what, 0) + hits_ns + tracer_ns
        return hits_ns + tracer_ns


def process_cpu_ns(pid: int) -> int:
    """CPU time that a process has used. Raises ProcessLookupError when it is gone."""
    # the clock of a process's CPU time: MAKE_PROCESS_CPUCLOCK of linux/posix-timers.h, as clock_getcpuclockid(3)
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:  # "invalid argument"
        raise ProcessLookupError from None

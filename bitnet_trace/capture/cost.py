"""What tracing cost the target, as far as it can be known without running it again: an estimate, and its parts."""

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from bitnet_trace.capture import syscalls

_FIRST_WINDOW_S = 0.5
_WINDOW_S, _EVERY_S = 0.1, 2.0

# ns of a hit's trap by cost class of the probed instruction, outside of our program, which the kernel times itself: for
# where capture/calibration.py cannot measure. The upper ends seen in a virtual machine (6.18); bare metal is cheaper.
TRAP_NS = {"nop": 200, "emulated": 1_000, "single-step": 21_000}
# of our program at such a hit, which streams a record
_RECORD_NS = 300


def window_hit_ns(cost_class: str, hit_ns: Mapping[str, int]) -> int:
    """What a hit costs of a probe that is attached in windows only, trap and program."""
    return hit_ns.get(cost_class, 0) + _RECORD_NS


class StatsWindows:
    """When the kernel times our programs: at first, then for a twentieth of the time.

    Its clock costs as much as a short program does (0.09 µs a run on the machine that this was written on).
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._next_s = 0.0
        self._opened_s = time.monotonic()
        self._timed_s = 0.0
        self._open(_FIRST_WINDOW_S)

    def step(self) -> None:
        """To be called often; opens and closes windows."""
        if time.monotonic() < self._next_s:
            return
        if self._descriptor is None:
            self._open(_WINDOW_S)
        else:
            self.close()
            self._next_s = time.monotonic() + _EVERY_S - _WINDOW_S

    def share(self, elapsed_s: float) -> float:
        """The share of `elapsed_s` that was timed, at most 1."""
        running_s = time.monotonic() - self._opened_s if self._descriptor is not None else 0.0
        return min((self._timed_s + running_s) / elapsed_s, 1.0) if elapsed_s > 0 else 1.0

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._timed_s += time.monotonic() - self._opened_s

    def _open(self, length_s: float) -> None:
        self._descriptor = syscalls.enable_bpf_stats()
        self._opened_s = time.monotonic()
        self._next_s = self._opened_s + length_s


def trap_ns(probes: Iterable[Mapping[str, Any]], hit_ns: Mapping[str, int] = TRAP_NS) -> int:
    """What hits of the probes that are always attached cost outside of our program. `hit_ns`: of one, by cost class."""
    return sum(
        hit_ns.get(probe["cost_class"], 0) * probe.get("hits", 0) for probe in probes if not probe.get("windowed")
    )


def estimate(
    bpf_ns: int,
    probes: Iterable[Mapping[str, Any]],
    tracer_cpu_ns: int,
    target_cpu_ns: int,
    wall_ns: int,
    cpus: int,
    windows_ns: int = 0,
    hit_ns: Mapping[str, int] = TRAP_NS,
) -> dict[str, Any]:
    """The parts in ns and their sum as a share of what the target used, in percent.

    `bpf_ns`: time in all our programs, on all processes: the kernel's own count, of a sample of the time.
    `tracer_cpu_ns`: our process's since the target's first instruction. It competes only as far as the target leaves no
    CPU free, which the share of the machine that the target used stands for. `windows_ns`: what windows were charged
    with; their probes' hits and the time that their thread used are in none of the others.
    """
    traps_ns = trap_ns(probes, hit_ns)
    busy_share = min(target_cpu_ns / (wall_ns * cpus), 1.0) if wall_ns and cpus else 1.0
    competing_ns = int(tracer_cpu_ns * busy_share)
    total_ns = bpf_ns + traps_ns + competing_ns + windows_ns
    return {
        "uprobe_trap_ns_estimate": traps_ns,
        "tracer_competing_ns_estimate": competing_ns,
        "overhead_pct_estimate": round(100 * total_ns / target_cpu_ns, 3) if target_cpu_ns else None,
    }

"""What tracing costs the target, as far as it can be known without running it again: an estimate, and its parts."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from bitnet_trace.capture import syscalls

CALL, CLOCK = "system call", "clock"
_FIRST_WINDOW_S = 0.5
_WINDOW_S = 0.05
_EVERY_S, _SELDOM_S = 1.0, 5.0  # at first, and when it has been running for long

# What the kernel's accounting of our programs does not have, in ns, for where capture/calibration.py cannot measure: a
# hit's trap by cost class of the probed instruction, and what a system call takes longer because it is traced; and what
# its clock adds to each run that it times. The upper ends seen in a virtual machine (6.18); bare metal is cheaper.
TRAP_NS = {"nop": 200, "emulated": 1_000, "single-step": 21_000}
AROUND_NS = {**TRAP_NS, CALL: 300, CLOCK: 40}
# of our program at such a hit, which streams a record
_RECORD_NS = 300


def window_hit_ns(cost_class: str, hit_ns: Mapping[str, int]) -> int:
    """What a hit costs of a probe that is attached in windows only, trap and program."""
    return hit_ns.get(cost_class, 0) + _RECORD_NS


# ---- when programs are timed ----------------------------------------------------------------------------------------


Counts = dict[str, int]


class StatsWindows:
    """When the kernel times our programs: until begin() and a while after, then for a twentieth of the time and less.

    Its clock costs as much as a short program does (0.09 µs a run on the machine that this was written on), and to
    begin and end such a time takes the tracer up to 2 ms. `read` gives the counts so far; what they grow by while no
    window is open is left out.
    """

    def __init__(self, read: Callable[[], Counts]) -> None:
        self._read = read
        self._first: Counts = {}
        self._first_s = 0.0  # length of the first window
        self._later: Counts = {}
        self._later_s = 0.0  # of all others, as far as they are closed
        self._in_first = True
        self._opened: tuple[float, Counts] | None = None
        self._descriptor = -1
        self._next_s = math.inf
        self._open()

    def begin(self) -> Counts:
        """The first window begins now. Returns the counts of what came before."""
        assert self._opened is not None
        before, now = self._opened[1], self._read()
        self._opened = time.monotonic(), now
        self._next_s = self._opened[0] + _FIRST_WINDOW_S
        return _grown(before, now)

    @property
    def next_s(self) -> float:
        """When step() is to be called, by time.monotonic()."""
        return self._next_s

    def step(self) -> None:
        """Opens or closes a window when it is time to."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        if self._opened is None:
            self._open()
            self._next_s = now_s + _WINDOW_S
        else:
            self.close()
            every_s = min(max(self._later_s / _WINDOW_S / 2, _EVERY_S), _SELDOM_S)
            self._next_s = now_s + every_s - _WINDOW_S

    def close(self) -> None:
        """Closes the window that is open, if any."""
        if self._opened is None:
            return
        self._first, self._first_s, self._later, self._later_s = self._so_far()
        self._opened, self._in_first = None, False
        os.close(self._descriptor)

    def share(self, elapsed_s: float) -> float:
        """The share of `elapsed_s` that was timed, at most 1."""
        _, first_s, _, later_s = self._so_far()
        return min((first_s + later_s) / elapsed_s, 1.0) if elapsed_s > 0 else 1.0

    def in_all(self, elapsed_s: float) -> Counts:
        """The counts of `elapsed_s` since begin(): what was timed stands for what was not.

        The first window, in which programs start and load, stands for itself, once there is another.
        """
        first, first_s, later, later_s = self._so_far()
        if later_s > 0:
            factor = max((elapsed_s - first_s) / later_s, 1.0)
            return {name: round(n + later[name] * factor) for name, n in first.items()}
        factor = max(elapsed_s / first_s, 1.0) if first_s > 0 else 1.0
        return {name: round(n * factor) for name, n in first.items()}

    def _open(self) -> None:
        self._descriptor = syscalls.enable_bpf_stats()
        self._opened = time.monotonic(), self._read()

    def _so_far(self) -> tuple[Counts, float, Counts, float]:
        """Counts and length of the first window and of all later ones, with what is open."""
        if self._opened is None:
            return self._first, self._first_s, self._later, self._later_s
        opened_s, at_open = self._opened
        grown, open_s = _grown(at_open, self._read()), time.monotonic() - opened_s
        if self._in_first:
            return grown, open_s, {}, 0.0
        sums = {name: n + self._later.get(name, 0) for name, n in grown.items()}
        return self._first, self._first_s, sums, self._later_s + open_s


def _grown(before: Counts, after: Counts) -> Counts:
    return {name: n - before[name] for name, n in after.items()}


# ---- the account of a run -------------------------------------------------------------------------------------------


class Programs(Protocol):
    """Of capture.bpf.Programs, what is needed here."""

    def probe_hits(self, count: int) -> list[int]: ...


class Meter:
    """What tracing has cost one run so far, from now, before the target's first instruction, to `end()`.

    `timing` was made before the programs were attached: until now all that they ran for was others, which tells what
    such a run takes. `around_ns`: AROUND_NS of this machine. `probes`: the rows of meta["probes"] of uprobes.
    `windows_cpu_ns`: CPU time of our thread that opens windows, which are charged by themselves.
    """

    def __init__(
        self,
        programs: Programs,
        timing: StatsWindows,
        around_ns: Mapping[str, int],
        probes: Sequence[Mapping[str, Any]],
        windows_cpu_ns: Callable[[], int],
    ) -> None:
        self._programs, self._windows, self._around_ns = programs, timing, around_ns
        self._probes, self._windows_cpu_ns = probes, windows_cpu_ns
        before = timing.begin()
        self._others_run_ns = before["bpf_ns"] / before["bpf_runs"] if before["bpf_runs"] else 0.0
        self._begin_s, self._cpu_begin_ns = time.monotonic(), time.process_time_ns()
        self._cpu_end_ns: int | None = None
        self._wall_s: float | None = None

    @property
    def next_s(self) -> float:
        """When step() is to be called, by time.monotonic()."""
        return self._windows.next_s

    def step(self) -> None:
        self._windows.step()

    def end(self) -> None:
        """The target has ended: what comes now costs it nothing."""
        self._cpu_end_ns, self._wall_s = time.process_time_ns(), time.monotonic() - self._begin_s

    def always_on_ns(self, target_cpu_ns: int) -> int:
        """All but what windows were charged with, in ns of CPU time; the target has used `target_cpu_ns` so far."""
        hits = self._programs.probe_hits(len(self._probes))
        rows = [{**row, "hits": n} for row, n in zip(self._probes, hits, strict=False)]
        return self._in_kernel()["kernel_ns"] + self._competing_ns(target_cpu_ns) + self._trap_ns(rows)

    def parts(self) -> dict[str, Any]:
        """For meta["cost"]: what is known while the target runs."""
        return {
            **self._in_kernel(),
            "bpf_timed_share": round(self._windows.share(self._elapsed_s()), 3),
            "around_ns": dict(self._around_ns),
            "tracer_cpu_ns": self._tracer_cpu_ns(),
        }

    def estimate(self, target_cpu_ns: int, windows_ns: int) -> dict[str, Any]:
        """For meta["cost"], when the target has ended: the sum as a share of what the target used, in percent.

        `windows_ns`: what windows were charged with.
        """
        competing_ns = self._competing_ns(target_cpu_ns)
        traps_ns = self._trap_ns(self._probes)
        total_ns = self._in_kernel()["kernel_ns"] + traps_ns + competing_ns + windows_ns
        return {
            "target_cpu_ns": target_cpu_ns,
            "uprobe_trap_ns_estimate": traps_ns,
            "tracer_competing_ns_estimate": competing_ns,
            "overhead_pct_estimate": round(100 * total_ns / target_cpu_ns, 3) if target_cpu_ns else None,
        }

    def _in_kernel(self) -> dict[str, int]:
        """Run time and runs of our programs for the target, from a sample of the time; and with what is around them.

        `others_runs`: of programs that only found that it was not the target that they ran for.
        """
        known = self._windows.in_all(self._elapsed_s())
        others = known["others_runs"]
        known["bpf_ns"] = max(known["bpf_ns"] - round(others * self._others_run_ns), 0)
        known["bpf_runs"] = max(known["bpf_runs"] - others, 0)
        known["calls"] = max(known["calls"] - known.pop("others_calls"), 0)
        clean_ns = max(known["bpf_ns"] - known["bpf_runs"] * self._around_ns[CLOCK], 0)
        known["kernel_ns"] = round(clean_ns + known["calls"] * self._around_ns[CALL])
        return known

    def _competing_ns(self, target_cpu_ns: int) -> int:
        """Of the tracer's own CPU time what the target had to wait for: it competes only as far as the target leaves no
        CPU free, which the share of the machine that the target used stands for."""
        machine_ns = self._elapsed_s() * 1e9 * len(os.sched_getaffinity(0))
        return int(self._tracer_cpu_ns() * min(target_cpu_ns / machine_ns, 1.0)) if machine_ns else 0

    def _elapsed_s(self) -> float:
        return self._wall_s if self._wall_s is not None else time.monotonic() - self._begin_s

    def _tracer_cpu_ns(self) -> int:
        until_ns = self._cpu_end_ns if self._cpu_end_ns is not None else time.process_time_ns()
        return until_ns - self._cpu_begin_ns - self._windows_cpu_ns()

    def _trap_ns(self, probes: Iterable[Mapping[str, Any]]) -> int:
        """What the hits of probes cost that are always attached, outside of our program."""
        return sum(
            self._around_ns.get(probe["cost_class"], 0) * probe.get("hits", 0)
            for probe in probes
            if not probe.get("windowed")
        )

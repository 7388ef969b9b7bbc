"""What the machine did during a run besides the run: stolen time, other programs, frequency, throttling."""

import os
from dataclasses import dataclass
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_RT = Path("/proc/sys/kernel")


@dataclass(frozen=True)
class Moment:
    """/proc/stat in seconds, all CPUs together; throttling counted since boot, None where nobody counts it."""

    total_s: float
    busy_s: float
    steal_s: float
    throttled: int | None


def now() -> Moment:
    """The counters of this moment."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, idle, waiting, irq, softirq, steal = (int(word) for word in line.split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    busy = user + nice + system + irq + softirq
    return Moment((busy + idle + waiting + steal) / tick, busy / tick, steal / tick, _throttled())


def between(before: Moment, after: Moment, own_cpu_s: float) -> dict[str, float | int | None]:
    """Of the time of all CPUs: what a hypervisor took, and what others than the run used, in percent.

    Ticks are 10 ms: of a run of half a second on two CPUs one is a percent.
    """
    total_s = after.total_s - before.total_s
    others_s = max(after.busy_s - before.busy_s - own_cpu_s, 0.0)
    throttled = None if before.throttled is None or after.throttled is None else after.throttled - before.throttled
    return {
        "steal_pct": 100 * (after.steal_s - before.steal_s) / total_s if total_s else None,
        "others_pct": 100 * others_s / total_s if total_s else None,
        "frequency_mhz": frequency_mhz(),
        "throttled": throttled,
    }


def frequency_mhz() -> float | None:
    """Mean of all CPUs by cpufreq; None without a driver, usual in a guest."""
    found = [_number(path) for path in _CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [one for one in found if one is not None]
    return sum(known) / len(known) / 1000 if known else None


def real_time_limit() -> str:
    """How much of each CPU real-time threads may use, in words."""
    runtime, period = (_number(_RT / f"sched_rt_{name}_us") for name in ("runtime", "period"))
    if runtime is None or period is None:
        return "not known"
    return (
        "no limit" if runtime < 0 else f"{runtime / 1000:g} of each {period / 1000:g} ms (kernel.sched_rt_runtime_us)"
    )


def _throttled() -> int | None:
    found = [_number(path) for path in _CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    known = [one for one in found if one is not None]
    return sum(known) if known else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None

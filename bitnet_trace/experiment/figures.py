"""The figures of a run: where they come from, and how they are written."""

from dataclasses import dataclass
from typing import Any

from bitnet_trace.render.format import MISSING, amount, duration, percent, size, three_digits


@dataclass(frozen=True)
class Figure:
    """`key` in results; `more_is_better` None: neither. `source` as help text has it."""

    key: str
    title: str
    kind: str
    source: str
    more_is_better: bool | None = None


_PRINTED, _KERNEL = "printed by the engine", "counted by the kernel for the process (wait4)"
FIGURES = {
    one.key: one
    for one in (
        Figure("decode_tokens_per_s", "decode speed", "rate", _PRINTED, True),
        Figure("prefill_tokens_per_s", "prefill speed", "rate", _PRINTED, True),
        Figure("load_ns", "load", "ns", _PRINTED, False),
        Figure("prefill_ns_per_token", "prefill per token", "ns", _PRINTED, False),
        Figure("decode_ns_per_token", "decode per token", "ns", _PRINTED, False),
        Figure("total_ns", "total", "ns", _PRINTED, False),
        Figure("wall_ns", "elapsed", "ns", "from before its first instruction to its end", False),
        Figure("cpu_ns", "CPU time", "ns", _KERNEL, False),
        Figure("faults_minor", "minor faults", "count", _KERNEL, False),
        Figure("faults_major", "major faults", "count", _KERNEL, False),
        Figure("switches_voluntary", "voluntary switches", "count", _KERNEL),
        Figure("switches_involuntary", "involuntary switches", "count", _KERNEL, False),
        Figure("rss_peak_bytes", "peak RSS", "bytes", _KERNEL, False),
    )
}
_AS_FACTOR_PCT, _MOST = 900, 10_000
# perf's names, counted in traced runs where there is a PMU
HARDWARE = ("instructions", "cycles", "dTLB-load-misses", "iTLB-load-misses", "cache-references", "cache-misses")
PRINTED = ("load_ns", "prefill_ns_per_token", "decode_ns_per_token", "total_ns", "wall_ns")
COUNTED = ("cpu_ns", "faults_minor", "faults_major", "switches_voluntary", "switches_involuntary", "rss_peak_bytes")


def shown(key: str, value: Any) -> str:
    """A mean of the figure `key`; `-` where there is none."""
    if value is None:
        return MISSING
    kind, number = FIGURES[key].kind, float(value)
    if kind == "ns":
        return duration(round(number))
    if kind == "bytes":
        return size(round(number))
    if kind == "rate":
        return f"{three_digits(number)} tok/s"
    return amount(round(number)) if number >= 100 or number == round(number) else three_digits(number)


def chart_unit(key: str) -> tuple[str, float]:
    """(unit of an axis, what values are divided by for it)."""
    return {"ns": ("ms", 1e6), "bytes": ("MiB", float(1 << 20)), "rate": ("tokens/s", 1.0)}.get(
        FIGURES[key].kind, ("count", 1.0)
    )


def signed_percent(value: float | None) -> str:
    """Large ones as a factor: `×12.3`."""
    if value is None:
        return MISSING
    if value < _AS_FACTOR_PCT:
        return percent(value, signed=True)
    factor = 1 + value / 100
    return f"×{three_digits(factor)}" if factor < _MOST else f"> ×{_MOST:,}"

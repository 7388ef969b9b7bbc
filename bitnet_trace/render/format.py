"""Values as people read them."""

from typing import Any

from bitnet_trace.columns import Column
from bitnet_trace.printable import printable

MISSING = "-"
_TEXT_LIMIT = 200
_DURATIONS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def cell(value: Any, column: Column) -> str:
    """`value` in the format of its column; `-` when it is missing."""
    if _is_missing(value):
        return MISSING
    if column.format == "ns":
        return duration(int(value))
    if column.format == "bytes":
        return size(int(value))
    if column.format == "count":
        return amount(int(value))
    if column.format == "rate":
        return f"{three_digits(float(value))} tok/s"
    if column.format == "pct":
        return percent(float(value))
    if column.format == "number":
        return f"{value:g}" if isinstance(value, float) else str(value)
    return printable(str(value), _TEXT_LIMIT)


def _is_missing(value: Any) -> bool:
    if value is None or isinstance(value, str | int | float):
        return value is None or value != value
    import pandas as pd  # the live view's screen does without

    return bool(pd.isna(value))


def duration(ns: int) -> str:
    """ns in the largest unit that leaves at least 1, with three digits: `12.3 ms`."""
    return _scaled(ns, _DURATIONS)


def size(size_bytes: int) -> str:
    """Bytes in binary units, with three digits: `68.7 MiB`."""
    return _scaled(size_bytes, _SIZES)


def amount(n: int) -> str:
    """A count with thousands set apart; from ten million on in millions."""
    return f"{n:,}" if abs(n) < 10_000_000 else f"{three_digits(n / 1e6)} M"


def percent(value: float, signed: bool = False) -> str:
    """`99.6 %`, with a sign where it is a difference."""
    return f"{value:{'+' if signed else ''}.1f} %"


def three_digits(value: float) -> str:
    """At least three significant digits, and no fraction from 100 on."""
    magnitude = abs(value)
    return f"{value:.2f}" if magnitude < 9.995 else f"{value:.1f}" if magnitude < 99.95 else f"{value:,.0f}"


def _scaled(value: int, units: tuple[tuple[int, str], ...]) -> str:
    for factor, unit in units:
        if abs(value) >= factor or factor == 1:
            return f"{value} {unit}" if factor == 1 else f"{three_digits(value / factor)} {unit}"
    raise AssertionError("the last unit is 1")

"""perf's counters by phase and by thread, and the rates that people look for in them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.phases import UNKNOWN
from bitnet_trace.columns import PERF_PHASES, PERF_RATES, PERF_THREADS, Column
from bitnet_trace.printable import printable
from bitnet_trace.recording.reader import Recording

Ints = npt.NDArray[np.int64]

_VALUES = ["count", "enabled_ns", "running_ns"]
_LARGEST = float(1 << 62)
# rate: what is divided by what, times how much, in which unit
_RATES = (
    ("instructions per cycle", "instructions", "cycles", 1.0, ""),
    ("dTLB load misses", "dTLB-load-misses", "dTLB-loads", 100.0, "%"),
    ("cache misses", "cache-misses", "cache-references", 100.0, "%"),
    ("branch misses", "branch-misses", "branches", 100.0, "%"),
    ("cycles in page walks", "page-walk-cycles", "cycles", 100.0, "%"),
    *(
        (f"{misses} per 1,000 instructions", misses, "instructions", 1000.0, "")
        for misses in ("dTLB-load-misses", "dTLB-store-misses", "iTLB-load-misses", "cache-misses", "LLC-load-misses")
    ),
)
_SAME = {"cpu-cycles": "cycles", "branch-instructions": "branches", "faults": "page-faults"}


@dataclass(frozen=True)
class PerfCounters:
    """`by_phase`: columns.PERF_PHASES, a row per phase name and counter, in the order of an inference.

    `by_thread`: columns.PERF_THREADS; `rates`: columns.PERF_RATES; `missing`: {reason: [names]}. `late_pct`: share of
    the counted time that lies behind the end of the phase that it is billed to.
    """

    names: tuple[str, ...]
    by_phase: pd.DataFrame
    by_thread: pd.DataFrame
    rates: pd.DataFrame
    missing: dict[str, list[str]]
    late_pct: float | None


def perf_counters(recording: Recording, phases: pd.DataFrame, order: Sequence[str]) -> PerfCounters | None:
    """None where no counters were asked for. `phases`: named; `order`: of phase names."""
    asked = [_described(one) for one in recording.meta.get("counters", [])]
    if not asked:
        return None
    missing: dict[str, list[str]] = {}
    for one in asked:
        if one["reason"] is not None:
            missing.setdefault(one["reason"], []).append(one["name"])
    rows = recording.perf[recording.perf["counter"] < len(asked)]
    table = pd.DataFrame({name: rows[name].to_numpy(dtype=np.float64) for name in _VALUES})
    number = rows["counter"].to_numpy(dtype=np.int64)
    table["counter"] = number
    table["tid"] = rows["tid"].to_numpy(dtype=np.int64)
    unique = phases.drop_duplicates("id", keep="last").set_index("id")
    ids = rows["phase"].to_numpy(dtype=np.int64)
    table["phase"] = unique["name"].reindex(ids).fillna(UNKNOWN).to_numpy(dtype=object)
    table["pid"] = unique["pid"].reindex(ids).fillna(0).to_numpy(dtype=np.int64)
    by_phase = _summed(table, ["phase"], asked)
    total = _summed(table.assign(phase="total"), ["phase"], asked)
    places = {name: place for place, name in enumerate([*order, UNKNOWN, "total"])}
    both = pd.concat([by_phase, total]) if len(by_phase) else total
    both = both.sort_values("phase", key=lambda names: names.map(places), kind="stable").reset_index(drop=True)
    return PerfCounters(
        names=tuple(one["name"] for one in asked),
        by_phase=both[_keys(PERF_PHASES)],
        by_thread=_summed(table, ["pid", "tid"], asked)[_keys(PERF_THREADS)],
        rates=pd.DataFrame(list(_rates(both)), columns=_keys(PERF_RATES)),
        missing=missing,
        late_pct=_late_pct(rows, ids, unique, table),
    )


def _described(one: dict[str, Any]) -> dict[str, Any]:
    """A row of meta["counters"] as it should be, whatever the file holds."""
    unit, scale, reason = one.get("unit"), one.get("scale"), one.get("reason")
    return {
        "name": printable(str(one.get("name")), 200),
        "unit": printable(str(unit), 20) if unit else None,
        "scale": float(scale) if isinstance(scale, int | float) and 0 < scale < 1e18 else 1.0,
        "reason": printable(str(reason), 200) if reason else None,
    }


def _keys(columns: tuple[Column, ...]) -> list[str]:
    return [column.key for column in columns]


def _summed(table: pd.DataFrame, keys: list[str], asked: list[dict[str, Any]]) -> pd.DataFrame:
    """Counts by `keys` and counter: of those that had a place in the PMU for a part of the time, by that share."""
    sums = table.groupby([*keys, "counter"], as_index=False, sort=True)[_VALUES].sum()
    number = sums["counter"].to_numpy(dtype=np.int64)
    count, enabled, running = (sums[name].to_numpy() for name in _VALUES)
    scale = np.array([one["scale"] for one in asked])[number]
    scaled = count * np.where(running < enabled, enabled / np.maximum(running, 1), 1.0)
    value = np.minimum(np.rint(scaled * scale), _LARGEST)
    sums["value"] = pd.array(np.where(running > 0, value, 0).astype(np.int64), dtype="Int64")
    sums.loc[running == 0, "value"] = pd.NA
    sums["running_pct"] = 100 * running / np.maximum(enabled, 1)
    sums["how"] = np.where(running < enabled, "estimated", "counted")
    sums["counter"] = [asked[one]["name"] for one in number]
    sums["unit"] = [asked[one]["unit"] for one in number]
    return sums


def _rates(by_phase: pd.DataFrame) -> Iterator[tuple[str, str | None, str, float, str]]:
    """Of counters of one kind of core, and of the same levels (`:u`)."""
    for phase, rows in by_phase.groupby("phase", sort=False):
        values: dict[tuple[str | None, str], dict[str, int]] = {}
        for counter, value in zip(rows["counter"], rows["value"], strict=True):
            pmu, name, modifier = _parts(counter)
            if not pd.isna(value):
                values.setdefault((pmu, modifier), {})[_SAME.get(name, name)] = int(value)
        for (pmu, _), found in values.items():
            for rate, above, below, factor, unit in _RATES:
                if found.get(below) and above in found:
                    yield str(phase), pmu, rate, factor * found[above] / found[below], unit


def _parts(counter: str) -> tuple[str | None, str, str]:
    """PMU, name and modifier of `cpu_core/cycles:u/`, `cycles:u`."""
    within = re.fullmatch(r"([\w.-]+)/(.*)/(\w*)", counter)
    pmu, rest, behind = (within[1], within[2], within[3]) if within else (None, counter, "")
    name, _, modifier = rest.partition(":")
    return pmu, name, modifier or behind


def _late_pct(rows: pd.DataFrame, ids: Ints, unique: pd.DataFrame, table: pd.DataFrame) -> float | None:
    """Of one counter of each thread and phase, the time from the phase's end to the thread's next edge."""
    if not len(rows):
        return None
    first = table["counter"] == table["counter"].min()
    ends = unique["end_ns"].reindex(ids).astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    late = np.nan_to_num(np.clip(rows["until_ns"].to_numpy(dtype=np.float64) - ends, 0, None))
    late = np.minimum(late, table["enabled_ns"].to_numpy())
    return float(100 * late[first].sum() / max(table.loc[first, "enabled_ns"].sum(), 1))

"""perf's counters, as tables of text."""

from typing import Any

import pandas as pd

from bitnet_trace.analysis.names import ThreadNames
from bitnet_trace.analysis.perf_counters import PerfCounters
from bitnet_trace.analysis.tlb_reach import TlbReach
from bitnet_trace.columns import TLB_REACH
from bitnet_trace.render.format import MISSING, amount, cell, duration, percent, size, three_digits
from bitnet_trace.render.grids import Grid, has_values

MAX_THREADS = 6
_NOTED_PCT = 0.1


def grids(found: PerfCounters | None, names: ThreadNames) -> list[Grid]:
    """Counters by phase, rates by phase, counters by thread; nothing where none were asked for."""
    if found is None or not len(found.by_phase):
        return []
    return [_by_phase(found), *_rates(found.rates), *_by_thread(found, names)]


def missing_lines(found: PerfCounters | None) -> list[str]:
    """What was asked for and cannot be counted here, a line per reason."""
    return [] if found is None else [f"{', '.join(names)}: - ({reason})" for reason, names in found.missing.items()]


def tlb_reach(found: TlbReach | None) -> Grid | None:
    """How far the TLBs reach, against the weights of one token; nothing where no model is known."""
    if found is None or found.touched_bytes is None or not len(found.levels):
        return None
    columns = [one for one in TLB_REACH if one.key != "shared" and has_values(found.levels[one.key])]
    rows = [
        [("" if one.key != "level" else "L") + cell(row[one.key], one) for one in columns]
        for _, row in found.levels.iterrows()
    ]
    grid = Grid("TLB reach (estimated)", [one.title for one in columns], rows, 2)
    most = "at most " if found.experts else ""
    grid.notes.append(f"a token reads {most}{size(found.touched_bytes)} of weights; entries by CPUID")
    return grid


def _by_phase(found: PerfCounters) -> Grid:
    table = found.by_phase
    phases = list(dict.fromkeys(table["phase"]))
    whole = table[table["phase"] == "total"]
    partly = bool((table["running_pct"] < 100).any())
    cells = {
        (phase, counter): _value(value, unit)
        for phase, counter, value, unit in zip(
            table["phase"], table["counter"], table["value"], table["unit"], strict=True
        )
    }
    rows = []
    for counter, running_pct in zip(whole["counter"], whole["running_pct"], strict=True):
        row = [counter, *(cells.get((phase, counter), MISSING) for phase in phases)]
        rows.append(row + ([percent(running_pct)] if partly else []))
    grid = Grid("Counters by phase", ["counter", *phases] + ["counted for"] * partly, rows)
    if partly:
        grid.notes.append("what the PMU had a place for during a part of the time only is estimated by that share")
    if found.late_pct is not None and found.late_pct >= _NOTED_PCT:
        grid.notes.append(
            f"{percent(found.late_pct)} of the counted time lies behind the end of its phase: until the thread's "
            "own next edge"
        )
    return grid


def _rates(table: pd.DataFrame) -> list[Grid]:
    if not len(table):
        return []
    phases = list(dict.fromkeys(table["phase"]))
    named = table.assign(
        label=[f"{pmu} {rate}" if pmu else rate for pmu, rate in zip(table["pmu"], table["rate"], strict=True)]
    )
    cells = {
        (phase, label): f"{three_digits(value)} {unit}".rstrip()
        for phase, label, value, unit in zip(named["phase"], named["label"], named["value"], named["unit"], strict=True)
    }
    labels = dict.fromkeys(named["label"])
    rows = [[label, *(cells.get((phase, label), MISSING) for phase in phases)] for label in labels]
    return [Grid("Rates of counters by phase", ["rate", *phases], rows)]


def _by_thread(found: PerfCounters, names: ThreadNames) -> list[Grid]:
    table = found.by_thread
    first = table[table["counter"] == table["counter"].iloc[0]] if len(table) else table
    if len(first) < 2:
        return []
    busiest = first.sort_values("value", ascending=False, kind="stable")["tid"].head(MAX_THREADS).tolist()
    cells = {
        (tid, counter): _value(value, unit)
        for tid, counter, value, unit in zip(table["tid"], table["counter"], table["value"], table["unit"], strict=True)
    }
    counters = list(dict.fromkeys(found.by_phase["counter"]))
    rows = [[names.described(tid), *(cells.get((tid, counter), MISSING) for counter in counters)] for tid in busiest]
    grid = Grid("Counters by thread", ["thread", *counters], rows)
    if len(first) > MAX_THREADS:
        grid.notes.append(f"and {amount(len(first) - MAX_THREADS)} more threads")
    return [grid]


def _value(value: Any, unit: object) -> str:
    if pd.isna(value):
        return MISSING
    return duration(int(value)) if unit == "ns" else amount(int(value)) + (f" {unit}" if isinstance(unit, str) else "")

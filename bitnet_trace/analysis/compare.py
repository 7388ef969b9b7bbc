"""Which differences between groups of recordings are real, and what explains those of speed.

Differences are of means, with Welch's interval (variances need not be equal). Each family of metrics is corrected for
how many it has: Benjamini and Hochberg (1995) choose those that are called real, so that of these 5 % are false, and
the intervals are those of Benjamini and Yekutieli (2005) for the chosen ones. An interval leaves out 0 if and only if
its metric is called real.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.analysis.differences import Difference, chosen
from bitnet_trace.analysis.metrics import COUNTS, CPU, SPEED, TIME, Key, Metrics
from bitnet_trace.columns import COMPARED, PARTS

# A cause is named when it is at least this share of what there is to explain.
LEAST_SHARE = 0.2
# Waiting for the program's own other threads follows from what delays those; computing is what nothing else explains.
_CAUSES = ("runq_ns", "fault_ns", "io_ns", "rest_ns")
_REMAINDER = ("compute_ns",)
_CONSEQUENCES = ("spin_ns", "futex_ns")


@dataclass(frozen=True)
class Group:
    """Recordings of the same thing."""

    name: str
    runs: list[Metrics]


@dataclass(frozen=True)
class Explanation:
    """A part of the time per token of `phase` that differs: `difference_ns`, `share_pct` of the whole difference.

    `kind`: "cause", "remainder" (computing itself), or "consequence" (waiting for the program's other threads).
    `ran_instead`: (name, ns more per run) of programs that had the CPU.
    """

    phase: str
    key: str
    title: str
    kind: str
    difference_ns: float
    share_pct: float
    ran_instead: list[tuple[str, int]]


@dataclass(frozen=True)
class Comparison:
    """One group beside the first: `table` has a row per metric, columns.COMPARED; intervals are missing where a group
    has one recording only."""

    base: Group
    other: Group
    table: pd.DataFrame
    explanations: list[Explanation]

    @property
    def repeated(self) -> bool:
        """Whether both groups have the repeats that tell a difference from chance."""
        return min(len(self.base.runs), len(self.other.runs)) > 1

    def family(self, name: str) -> pd.DataFrame:
        """The rows of metrics.SPEED, TIME, COUNTS or CPU."""
        return self.table[self.table["family"] == name]


def compare(base: Group, other: Group, known: Collection[str] = ()) -> Comparison:
    """What is different in `other`. `known`: phases of which other runs have shown that they last longer or shorter."""
    base, other = _alike(base, other)
    tables = [_family(family, base, other) for family in (SPEED, TIME, COUNTS, CPU)]
    table = pd.concat(tables, ignore_index=True)
    return Comparison(base, other, table, _explanations(table, base, other, known))


def _alike(base: Group, other: Group) -> tuple[Group, Group]:
    """Where samples of one run do not tell spinning from computing, both are one in all runs."""
    runs = [*base.runs, *other.runs]
    merged = [run.values for run in runs]
    for phase in {phase for run in runs for family, phase, _ in run.values if family == TIME}:
        spin, compute = (TIME, phase, "spin_ns"), (TIME, phase, "compute_ns")
        if any(spin not in run.values for run in runs):
            merged = [
                {key: value + (own.get(spin, 0) if key == compute else 0) for key, value in own.items() if key != spin}
                for own in merged
            ]
    alike = [replace(run, values=values) for run, values in zip(runs, merged, strict=True)]
    n = len(base.runs)
    return replace(base, runs=alike[:n]), replace(other, runs=alike[n:])


def setup_differences(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """(what, its value in each group) of what the groups were made with and that is not the same in all runs."""
    runs = [run for group in groups for run in group.runs]
    result = []
    for what in runs[0].setup:
        if len({run.setup[what] for run in runs}) > 1:
            values = [" / ".join(dict.fromkeys(run.setup[what] for run in group.runs)) for group in groups]
            result.append((what, values))
    return result


def _family(family: str, base: Group, other: Group) -> pd.DataFrame:
    """Metrics that all runs have; those that are 0 in all of them are left out."""
    every = [set(run.values) for group in (base, other) for run in group.runs]
    keys: list[Key] = [key for key in base.runs[0].values if key[0] == family and all(key in own for own in every)]
    rows: list[dict[str, Any]] = []
    tests = []
    for key in keys:
        a, b = (np.array([run.values[key] for run in group.runs]) for group in (base, other))
        if a.any() or b.any():
            rows.append({"family": family, "phase": key[1], "key": key[2], "base": a.mean(), "other": b.mean()})
            unit = max((run.units.get(key, 0.0) for group in (base, other) for run in group.runs), default=0.0)
            tests.append(Difference.welch(a, b, unit))
    p_values = np.array([test.p_value for test in tests], dtype=np.float64)
    real_ones, level = chosen(p_values)
    for row, test, real in zip(rows, tests, real_ones, strict=True):
        half = test.half_width(level)
        difference = row["other"] - row["base"]
        row["difference"] = difference
        row["difference_pct"] = 100 * difference / row["base"] if row["base"] else math.nan
        row["low"], row["high"] = difference - half, difference + half
        row["p_value"] = test.p_value
        row["real"] = None if math.isnan(test.p_value) else bool(real)
    table = pd.DataFrame(rows, columns=[column.key for column in COMPARED])
    return table.astype({"family": "string", "phase": "string", "key": "string", "real": "boolean"})


def _explanations(table: pd.DataFrame, base: Group, other: Group, known: Collection[str]) -> list[Explanation]:
    """What makes tokens take longer, or less long, in phases where that is real: causes first, largest first."""
    result = []
    times = table[(table["family"] == TIME) & (table["real"].fillna(False) | table["phase"].isin(known))]
    titles = {part.key: part.title for part in PARTS}
    for phase, rows in times.groupby("phase", sort=False):
        whole = rows[rows["key"] == "dur_ns"]
        if not len(whole) or not whole["difference"].iloc[0]:
            continue
        difference = float(whole["difference"].iloc[0])
        large = rows.assign(share=rows["difference"] / difference).sort_values("share", ascending=False)
        large = large[large["share"] >= LEAST_SHARE]
        for kind, keys in (("cause", _CAUSES), ("remainder", _REMAINDER), ("consequence", _CONSEQUENCES)):
            for row in large[large["key"].isin(keys)].to_dict("records"):
                key = str(row["key"])
                instead = _ran_instead(base, other, difference > 0) if key == "runq_ns" else []
                part = (str(phase), key, titles[key], kind, float(row["difference"]), 100 * float(row["share"]))
                result.append(Explanation(*part, ran_instead=instead))
    # decoding is what users wait for
    return sorted(result, key=lambda one: one.phase != "decode")


def _ran_instead(base: Group, other: Group, longer: bool) -> list[tuple[str, int]]:
    """The programs that had the CPU for longer, or less long, at the cost of the target's threads: two at most."""
    sums: dict[str, float] = {}
    for group, sign in ((base, -1), (other, 1)):
        for run in group.runs:
            for name, ns in run.ran_instead.items():
                sums[name] = sums.get(name, 0) + sign * ns / len(group.runs)
    ranked = sorted(sums.items(), key=lambda item: item[1], reverse=longer)
    return [(name, round(ns)) for name, ns in ranked[:2] if (ns > 0) == longer and ns]


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values, for JSON; what is missing is None."""
    rows = [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in comparison.table.to_dict("records")
    ]
    return {
        "base": comparison.base.name,
        "other": comparison.other.name,
        "repeated": comparison.repeated,
        "metrics": rows,
        "explanations": [
            {**vars(one), "ran_instead": [{"name": name, "offcpu_ns": ns} for name, ns in one.ran_instead]}
            for one in comparison.explanations
        ],
    }

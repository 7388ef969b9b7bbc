"""What the runs of an experiment come to: figures by cell, and what each factor does to the headline figure.

Effects are ratios, paired within blocks: the runs of a block were made one after the other, so what changes slowly on
the machine falls out. Each is the mean over blocks of log(level / baseline), the other factors being equal, with
Student's interval; chosen and widened for how many there are as in analysis.compare.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.analysis.differences import Difference, chosen
from bitnet_trace.experiment.plan import TRACED, UNTRACED, Cell
from bitnet_trace.loadlab.compare import mean_interval

# Iglewicz and Hoaglin (1993): a modified z-score above 3.5
_OUTLIER, _MAD_TO_SD = 3.5, 0.6745
_LEAST_FOR_OUTLIERS = 4
_CONDITIONS = ("steal_pct", "others_pct", "frequency_mhz", "throttled", "cached_pct", "threads_seen")


@dataclass(frozen=True)
class Effect:
    """Of one level against the baseline's (`factor` None: of a whole cell against the baseline's cell).

    `pct` with its interval; `size`: the mean over the standard deviation between blocks; `least_pct`, `most_pct`:
    of the single combinations of the other factors. Figures are None where there are too few blocks; `real` then too.
    """

    factor: str | None
    level: str
    base: str
    cell: int | None
    n_blocks: int
    pct: float | None = None
    low_pct: float | None = None
    high_pct: float | None = None
    size: float | None = None
    p_value: float | None = None
    real: bool | None = None
    least_pct: float | None = None
    most_pct: float | None = None


def table(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per run, with its levels and figures as columns: what results.parquet holds."""
    rows = []
    for result in results:
        read_back = result.get("read_back") or {}
        conditions = {**result, "threads_seen": read_back.get("threads_seen")}
        rows.append(
            {
                **{f"factor.{name}": label for name, label in result["levels"].items()},
                **{key: result.get(key) for key in ("kind", "block", "cell", "why", "recording", "at_s")},
                **{key: conditions.get(key) for key in _CONDITIONS},
                "hugetlb_bytes": max(read_back.get("hugetlb_bytes", []), default=None),
                "reader_reserved": read_back.get("reserved"),
                "policies_seen": ", ".join(read_back.get("policies", [])),
                "nices_seen": ", ".join(map(str, read_back.get("nices", []))),
                "cpus_seen": " | ".join(read_back.get("cpus", [])),
                **(result.get("figures") or {}),
            }
        )
    runs = pd.DataFrame(rows)
    return runs.astype(dict.fromkeys((*_CONDITIONS, "hugetlb_bytes"), "float64")).astype(
        {"why": "string", "recording": "string"}
    )


def valid(runs: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Of a kind, those that count."""
    return runs[(runs["kind"] == kind) & runs["why"].isna()]


def by_cell(runs: pd.DataFrame, cells: Mapping[int, Cell], figure: str) -> dict[int, dict[str, Any]]:
    """Of each cell's untraced runs: n, mean, low, high (95 %), outliers, and traced_pct: the mean of the traced ones
    against it. Missing is None."""
    found = {}
    for number in cells:
        own = _values(valid(runs, UNTRACED), number, figure)
        traced = _values(valid(runs, TRACED), number, figure)
        row: dict[str, Any] = {
            "n": len(own),
            "mean": None,
            "low": None,
            "high": None,
            "outliers": [],
            "traced_pct": None,
        }
        if own:
            row["mean"], row["low"], row["high"] = mean_interval(own)
            row["outliers"] = outliers(own)
            if traced and row["mean"]:
                row["traced_pct"] = 100 * (sum(traced) / len(traced) / row["mean"] - 1)
        found[number] = row
    return found


def outliers(values: Sequence[float]) -> list[float]:
    """Those far from the median, by the median absolute deviation; shown, never left out."""
    if len(values) < _LEAST_FOR_OUTLIERS:
        return []
    middle = float(np.median(values))
    spread = float(np.median(np.abs(np.array(values) - middle)))
    return [one for one in values if spread and _MAD_TO_SD * abs(one - middle) / spread > _OUTLIER]


def difference_pct(runs: pd.DataFrame, kind: str, figure: str, cell: Cell, base: Cell) -> float | None:
    """Of a figure's geometric means over the runs of that kind, one cell against another; None where one has none."""
    logs = []
    for one in (cell, base):
        known = [math.log(value) for value in _values(valid(runs, kind), one.number, figure) if value > 0]
        if not known:
            return None
        logs.append(sum(known) / len(known))
    return 100 * math.expm1(logs[0] - logs[1])


def of_factors(runs: pd.DataFrame, cells: Mapping[int, Cell], baseline: Mapping[str, str], figure: str) -> list[Effect]:
    """Of each level of each factor, against the baseline's, over all combinations of the other factors."""
    logs = _logs(runs, figure)
    effects, tests = [], []
    for factor, base in baseline.items():
        levels = list(dict.fromkeys(cell.levels[factor] for cell in cells.values()))
        for level in levels:
            if level == base:
                continue
            pairs = matched(cells, factor, level, base)
            differences = [_differences(logs, other.number, own.number) for own, other in pairs]
            by_block = pd.concat(differences, axis=1).dropna().mean(axis=1) if differences else pd.Series(dtype=float)
            single = [100 * math.expm1(one.mean()) for one in differences if len(one)]
            ends = (min(single), max(single)) if len(single) > 1 else (None, None)
            effects.append(
                (Effect(factor, level, base, None, len(by_block), least_pct=ends[0], most_pct=ends[1]), by_block)
            )
            tests.append(Difference.paired(by_block.to_numpy(dtype=float)))
    return _judged(effects, tests)


def of_cells(runs: pd.DataFrame, cells: Mapping[int, Cell], baseline: Mapping[str, str], figure: str) -> list[Effect]:
    """Of each cell against the baseline's."""
    logs = _logs(runs, figure)
    base = next(cell for cell in cells.values() if cell.levels == dict(baseline))
    effects, tests = [], []
    for number, cell in cells.items():
        if cell is base:
            continue
        by_block = _differences(logs, base.number, number)
        effects.append((Effect(None, cell.name, base.name, number, len(by_block)), by_block))
        tests.append(Difference.paired(by_block.to_numpy(dtype=float)))
    return _judged(effects, tests)


def matched(cells: Mapping[int, Cell], factor: str, level: str, base: str) -> list[tuple[Cell, Cell]]:
    """(cell with the level, cell with the baseline's) that differ in nothing else."""
    by_levels = {tuple(sorted(cell.levels.items())): cell for cell in cells.values()}
    pairs = []
    for cell in cells.values():
        if cell.levels[factor] == level:
            other = by_levels.get(tuple(sorted({**cell.levels, factor: base}.items())))
            if other is not None:
                pairs.append((cell, other))
    return pairs


def _judged(effects: "Sequence[tuple[Effect, pd.Series[Any]]]", tests: Sequence[Difference]) -> list[Effect]:
    known = [at for at, test in enumerate(tests) if not math.isnan(test.p_value)]
    real, level = chosen(np.array([tests[at].p_value for at in known], dtype=np.float64))
    verdict = dict(zip(known, real, strict=True))
    judged = []
    for at, (effect, by_block) in enumerate(effects):
        values = dict(vars(effect))
        if len(by_block):
            mean = float(by_block.mean())
            values["pct"] = 100 * math.expm1(mean)
        if at in verdict:
            half, spread = tests[at].half_width(level), float(by_block.std(ddof=1))
            values.update(
                low_pct=100 * math.expm1(mean - half),
                high_pct=100 * math.expm1(mean + half),
                size=mean / spread if spread else None,
                p_value=tests[at].p_value,
                real=bool(verdict[at]),
            )
        judged.append(Effect(**values))
    return judged


def _logs(runs: pd.DataFrame, figure: str) -> "pd.Series[Any]":
    """log of the figure, index (cell, block), of untraced runs that have it."""
    own = valid(runs, UNTRACED)
    if figure not in own:
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["cell", "block"]))
    own = own[own[figure].notna() & (own[figure] > 0)]
    return own.set_index(["cell", "block"])[figure].astype(float).map(math.log)


def _differences(logs: "pd.Series[Any]", base: int, other: int) -> "pd.Series[Any]":
    """By block."""
    known = logs.index.get_level_values("cell")
    if base not in known or other not in known:
        return pd.Series(dtype=float)
    return (logs.xs(other, level="cell") - logs.xs(base, level="cell")).dropna()


def _values(runs: pd.DataFrame, cell: int, figure: str) -> list[float]:
    if figure not in runs:
        return []
    return [float(one) for one in runs.loc[runs["cell"] == cell, figure].dropna()]

"""Everything that the report of an experiment shows, computed once from its results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bitnet_trace.analysis.compare import Comparison, Group, compare
from bitnet_trace.experiment import effects
from bitnet_trace.experiment.effects import Effect
from bitnet_trace.experiment.plan import TRACED, UNTRACED, Cell
from bitnet_trace.experiment.recordings import Traced
from bitnet_trace.experiment.spec import Spec

# of a factor's level, and of cells against the baseline's, at most so many are explained
_MAX_PAIRS = 2


@dataclass(frozen=True)
class Reason:
    """Why a level makes a difference: the traced runs of one cell against those of the cell that has the baseline's
    level; `new_findings`: what only the reports of the one warn of; `untraced_pct`, `traced_pct`: how the headline
    figure of the two differs without the tracer and with it, None where it is not known."""

    effect: Effect
    cell: Cell
    base: Cell
    comparison: Comparison
    new_findings: tuple[str, ...]
    untraced_pct: float | None = None
    traced_pct: float | None = None

    @property
    def contradicted(self) -> bool:
        """The traced runs differ the other way: what they are made of is no reason for what the others showed."""
        if self.untraced_pct is None or self.traced_pct is None:
            return False
        return self.untraced_pct * self.traced_pct < 0


@dataclass(frozen=True)
class Outcome:
    """`runs`: effects.table; `cells_by_figure[figure][cell]`: effects.by_cell; `of_factors`, `of_cells`: effects on the
    headline figure, `also`: of the factors on other figures; `reasons`: of those on the headline that are real."""

    spec: Spec
    cells: Mapping[int, Cell]
    runs: pd.DataFrame
    results: Sequence[Mapping[str, Any]]
    traced: Mapping[tuple[int, int], Traced]
    of_factors: list[Effect]
    of_cells: list[Effect]
    also: dict[str, list[Effect]]
    reasons: list[Reason]
    facts: Mapping[str, Any]

    def by_cell(self, figure: str) -> dict[int, dict[str, Any]]:
        return effects.by_cell(self.runs, self.cells, figure)


def outcome(
    spec: Spec,
    cells: Mapping[int, Cell],
    results: Sequence[Mapping[str, Any]],
    traced: Mapping[tuple[int, int], Traced],
    facts: Mapping[str, Any],
) -> Outcome:
    """`facts`: of the machine, for the report's heading."""
    runs = effects.table(results)
    of_factors = effects.of_factors(runs, cells, spec.baseline, spec.headline)
    of_cells = effects.of_cells(runs, cells, spec.baseline, spec.headline)
    reasons = [_measured(one, runs, spec.headline) for one in _reasons(spec, cells, of_factors, of_cells, traced)]
    also = {figure: effects.of_factors(runs, cells, spec.baseline, figure) for figure in spec.also}
    return Outcome(spec, cells, runs, results, traced, of_factors, of_cells, also, reasons, facts)


def _reasons(
    spec: Spec,
    cells: Mapping[int, Cell],
    of_factors: Sequence[Effect],
    of_cells: Sequence[Effect],
    traced: Mapping[tuple[int, int], Traced],
) -> Iterator[Reason]:
    pct_of = {effect.cell: effect.pct or 0.0 for effect in of_cells}
    known = _phases_of(spec.headline)
    explained: set[tuple[int, int]] = set()
    for effect in of_factors:
        if not effect.real or effect.factor is None:
            continue
        pairs = effects.matched(cells, effect.factor, effect.level, effect.base)
        with_figures = [pair for pair in pairs if all(_group(cell, traced).runs for cell in pair)]

        def gap(one: tuple[Cell, Cell]) -> float:
            return abs(pct_of.get(one[0].number, 0.0) - pct_of.get(one[1].number, 0.0))

        for own, base in sorted(with_figures, key=gap, reverse=True)[:_MAX_PAIRS]:
            explained.add((own.number, base.number))
            yield _reason(effect, own, base, traced, known)
    baseline = next(cell for cell in cells.values() if cell.levels == spec.baseline)
    largest = sorted((one for one in of_cells if one.real), key=lambda one: abs(one.pct or 0.0), reverse=True)
    for effect in largest[:_MAX_PAIRS]:
        own = cells[effect.cell or 0]
        both = _group(own, traced).runs and _group(baseline, traced).runs
        if both and (own.number, baseline.number) not in explained:
            yield _reason(effect, own, baseline, traced, known)


def _phases_of(figure: str) -> tuple[str, ...]:
    """The phases with tokens whose time decides a figure."""
    if figure in ("wall_ns", "total_ns"):
        return "prefill", "decode"
    return tuple(phase for phase in ("prefill", "decode") if figure.startswith(phase))


def _measured(reason: Reason, runs: pd.DataFrame, figure: str) -> Reason:
    differences = (effects.difference_pct(runs, kind, figure, reason.cell, reason.base) for kind in (UNTRACED, TRACED))
    untraced_pct, traced_pct = differences
    return replace(reason, untraced_pct=untraced_pct, traced_pct=traced_pct)


def _reason(
    effect: Effect, own: Cell, base: Cell, traced: Mapping[tuple[int, int], Traced], known: Sequence[str]
) -> Reason:
    new = _findings(own, traced) - _findings(base, traced)
    return Reason(effect, own, base, compare(_group(base, traced), _group(own, traced), known), tuple(sorted(new)))


def _group(cell: Cell, traced: Mapping[tuple[int, int], Traced]) -> Group:
    own = [one.metrics for (number, _), one in sorted(traced.items()) if number == cell.number]
    return Group(cell.name, [one for one in own if one is not None])


def _findings(cell: Cell, traced: Mapping[tuple[int, int], Traced]) -> set[str]:
    """Rules that were broken in at least half of the cell's traced runs, by title of the last one."""
    own = [one for (number, _), one in traced.items() if number == cell.number]
    rules: dict[str, list[str]] = {}
    for one in own:
        for rule, title in one.findings:
            rules.setdefault(rule, []).append(title)
    return {rule for rule, titles in rules.items() if 2 * len(titles) >= len(own)}

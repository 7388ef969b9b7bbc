"""What an experiment says in words: which factor mattered, by how much, and why."""

from collections import Counter
from collections.abc import Iterator
from statistics import median

from bitnet_trace.analysis.findings.finding import plural
from bitnet_trace.analysis.metrics import COUNTS, PER_TOKEN
from bitnet_trace.experiment.effects import Effect
from bitnet_trace.experiment.figures import FIGURES, shown, signed_percent
from bitnet_trace.experiment.outcome import Outcome, Reason
from bitnet_trace.experiment.plan import TRACED, UNTRACED
from bitnet_trace.render.comparison import explained
from bitnet_trace.render.format import amount, duration

_WITH_LOADING = ("load_ns", "total_ns", "wall_ns")
# of phases: at most so many are named, of those that differ by this much
_MAX_PHASES, _LEAST_NS, _LEAST_PCT = 2, 10_000_000, 10


def verdict(found: Outcome) -> Iterator[str]:
    """A line per level that was compared with the baseline, those that matter first."""
    for figure, of_factors in ((found.spec.headline, found.of_factors), *found.also.items()):
        known = [one for one in of_factors if one.real is not None]
        for effect in sorted(known, key=lambda one: (not one.real, -abs(one.pct or 0.0))):
            yield _line(effect, FIGURES[figure].title, found)
    for effect in found.of_factors:
        if effect.real is None:
            why = "no run of either has the figure" if not effect.n_blocks else "one block tells nothing of chance"
            yield f"{effect.factor} {effect.level}: not compared: {why}."
    best = _best(found)
    if best:
        yield best


def _line(effect: Effect, title: str, found: Outcome) -> str:
    ends = f"interval {signed_percent(effect.low_pct)} to {signed_percent(effect.high_pct)}"
    line = f"{effect.factor} {effect.level} against {effect.base}: {title} {signed_percent(effect.pct)} ({ends})"
    line += ": a real difference" if effect.real else ": no real difference"
    others = [name for name in found.spec.baseline if name != effect.factor and _varies(found, name)]
    if others and effect.least_pct is not None:
        by = " and ".join(others)
        line += f"; from {signed_percent(effect.least_pct)} to {signed_percent(effect.most_pct)} depending on {by}"
    return f"{line}."


def _varies(found: Outcome, factor: str) -> bool:
    return len({cell.levels[factor] for cell in found.cells.values()}) > 1


def _best(found: Outcome) -> str | None:
    """The best cell, when it is really better than the baseline's."""
    figure = FIGURES[found.spec.headline]
    sign = 1 if figure.more_is_better else -1
    real = [one for one in found.of_cells if one.real and one.pct is not None and sign * one.pct > 0]
    if not real:
        worse = any(one.real for one in found.of_cells)
        return "No cell is really better than the baseline's." if worse else None
    best = max(real, key=lambda one: sign * (one.pct or 0.0))
    assert best.cell is not None
    value = shown(figure.key, found.by_cell(figure.key)[best.cell]["mean"])
    return f"Best: {best.level}: {value}, {signed_percent(best.pct)} against {best.base}."


def reasons(found: Outcome) -> Iterator[str]:
    """What the traced runs say of each real difference, in the words of compare."""
    for reason in found.reasons:
        for line in _reason(reason, found.spec.headline):
            yield f"{reason.cell.name} against {reason.base.name}: {line}"
    if not found.reasons and any(one.real for one in (*found.of_factors, *found.of_cells)):
        yield "There are too few traced runs to say why (traced in [measure])."


def _reason(reason: Reason, figure: str) -> Iterator[str]:
    if reason.contradicted:
        yield (
            f"the traced runs differ the other way: {FIGURES[figure].title} {signed_percent(reason.traced_pct)}, "
            f"untraced {signed_percent(reason.untraced_pct)}. They cannot say why; more may (traced in [measure])."
        )
        return
    lines = [*_phases(reason, figure), *(explained(one) for one in reason.comparison.explanations)]
    yield from lines or ["no single part of the time per token explains the difference."]
    if reason.new_findings:
        yield f"findings that only its reports have: {', '.join(reason.new_findings)}."


def _phases(reason: Reason, figure: str) -> Iterator[str]:
    """Of figures that loading is part of: the phases without tokens that take longer, or less long."""
    if figure not in _WITH_LOADING:
        return
    counts = reason.comparison.family(COUNTS)
    whole = counts[(counts["key"] == "dur_ns") & ~counts["phase"].isin(PER_TOKEN)]
    largest = whole.reindex(whole["difference"].abs().sort_values(ascending=False).index)
    for row in largest.head(_MAX_PHASES).to_dict("records"):
        if abs(row["difference"]) >= _LEAST_NS and row["base"] and abs(row["difference_pct"]) >= _LEAST_PCT:
            yield f"{row['phase']}: {duration(round(row['other']))}, where it was {duration(round(row['base']))}."


def tracer(found: Outcome) -> str | None:
    """What tracing cost, over all cells: of the headline figure, traced against untraced."""
    figures = [
        one["traced_pct"] for one in found.by_cell(found.spec.headline).values() if one["traced_pct"] is not None
    ]
    if not figures:
        return None
    title, middle = FIGURES[found.spec.headline].title, median(figures)
    return (
        f"traced runs against untraced ones, {title}: {signed_percent(middle)} in the median "
        f"of {plural(len(figures), 'cell')} (from {signed_percent(min(figures))} to {signed_percent(max(figures))})"
    )


def doubts(found: Outcome) -> Iterator[str]:
    """Runs that do not count, and what else is to be known before the verdict is believed."""
    failed = found.runs[found.runs["why"].notna()]
    for (cell, why), n in Counter(zip(failed["cell"], failed["why"], strict=True)).items():
        yield f"{plural(n, 'run')} of {found.cells[int(cell)].name} not counted: {why}"
    counted = found.runs[found.runs["why"].isna()]
    for kind, planned in ((UNTRACED, found.spec.measure.repeats), (TRACED, found.spec.measure.traced)):
        n_done, n_planned = int((found.runs["kind"] == kind).sum()), planned * len(found.cells)
        if n_done < n_planned:
            yield f"{n_done} of {n_planned} {kind} runs were made (budget_s, or interrupted: go on with --resume)"
    if "steal_pct" in counted and counted["steal_pct"].max() > 2:
        yield f"a hypervisor took up to {counted['steal_pct'].max():.0f} % of the CPU time of a run"
    untraced = counted[(counted["kind"] == UNTRACED)]
    if len(untraced) and untraced["others_pct"].median() > 5:
        yield f"other programs used {untraced['others_pct'].median():.0f} % of all CPU time, in the median of runs"
    if len(counted) and counted["throttled"].notna().any() and counted["throttled"].sum() > 0:
        yield f"the CPUs were throttled for their heat {amount(int(counted['throttled'].sum()))} times"
    if found.facts.get("n_damaged"):
        yield f"{plural(found.facts['n_damaged'], 'line')} of results.jsonl damaged, and left out"
    for number, of_cell in found.cells.items():
        if counted.loc[counted["cell"] == number, "hugetlb_bytes"].max() == 0:
            yield f"{of_cell.name}: nothing came of the hugetlb pool; is one allocation larger than it?"
    if "numa" in found.spec.baseline and (found.facts.get("host", {}).get("numa_nodes") or 1) == 1:
        yield "this machine has one node: all levels of numa take memory from it"
    for (cell, block), one in sorted(found.traced.items()):
        if one.why:
            yield f"recording {block} of {found.cells[cell].name} cannot be read: {one.why}"

"""The report of an experiment, as the sections that text, Markdown and HTML lay out."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from bitnet_trace.analysis.metrics import TIME
from bitnet_trace.columns import PARTS
from bitnet_trace.experiment import verdict
from bitnet_trace.experiment.effects import Effect, valid
from bitnet_trace.experiment.figures import COUNTED, FIGURES, HARDWARE, PRINTED, shown, signed_percent
from bitnet_trace.experiment.outcome import Outcome
from bitnet_trace.experiment.plan import TRACED, UNTRACED, Cell
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, amount, duration, percent, size, three_digits
from bitnet_trace.render.grids import Grid
from bitnet_trace.render.sections import Section

_LABEL_LIMIT, _LIST_LIMIT = 60, 120
_NO_PMU = "this machine has no PMU (usual in a guest)"


def sections(found: Outcome) -> list[Section]:
    """The verdict first, then what it rests on."""
    parts = [
        Section("verdict", "Verdict", [], [*verdict.verdict(found), *_lines(verdict.tracer(found))]),
        Section("reasons", "Why", [], list(verdict.reasons(found))),
        Section("doubts", "To be known", [], [printable(line, 500) for line in verdict.doubts(found)]),
        Section("factors", "What mattered", list(_factors(found))),
        Section(
            "cells", "Cells", [_cells(found), _figures(found, PRINTED, "Times"), _figures(found, COUNTED, "Counts")]
        ),
        Section("tokens", "Where the time of a token went", [_token_time(found, one) for one in ("decode", "prefill")]),
        Section("counters", "Counters of the CPU", [_hardware(found)]),
        Section("machine", "What was set, and what the machine did besides", [_read_back(found), _conditions(found)]),
    ]
    filled = [replace(part, tables=[grid for grid in part.tables if grid.rows]) for part in parts]
    return [part for part in filled if part.lines or part.tables]


def _lines(line: str | None) -> list[str]:
    return [line] if line else []


def plan_grid(cells: Mapping[int, Cell], commands: Mapping[int, Sequence[str]]) -> Grid:
    """What would be run, for --dry-run; of commands what is not the same in all of them."""
    factors = _factor_names(cells)
    common = set.intersection(*(set(words) for words in commands.values()))
    own = {number: shlex.join(word for word in words if word not in common) for number, words in commands.items()}
    shown_words = any(own.values())
    rows = [
        [str(number), *_labels(cell, factors), *([printable(own[number], 200)] if shown_words else [])]
        for number, cell in cells.items()
    ]
    titles = ["cell", *factors, *(["command differs in"] if shown_words else [])]
    grid = Grid("Cells", titles, rows, 1, frozenset(range(1, len(titles))))
    grid.notes.append(f"command of the first: {printable(shlex.join(next(iter(commands.values()))), 1000)}")
    return grid


def _factor_names(cells: Mapping[int, Cell]) -> list[str]:
    return list(next(iter(cells.values())).levels)


def _labels(cell: Cell, factors: list[str]) -> list[str]:
    return [printable(cell.levels[name], _LABEL_LIMIT) for name in factors]


def _yes(real: bool | None) -> str:
    return MISSING if real is None else "yes" if real else "no"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f}"


def _factors(found: Outcome) -> Iterator[Grid]:
    yield _effects(found.spec.headline, found.of_factors)
    for figure, effects in found.also.items():
        yield _effects(figure, effects)


def _effects(figure: str, effects: Sequence[Effect]) -> Grid:
    rows = []
    for one in effects:
        ends = [signed_percent(one.low_pct), signed_percent(one.high_pct)]
        rows.append(
            [
                printable(one.factor or "", _LABEL_LIMIT),
                printable(one.level, _LABEL_LIMIT),
                printable(one.base, _LABEL_LIMIT),
                signed_percent(one.pct),
                *ends,
                _number(one.size),
                _yes(one.real),
                signed_percent(one.least_pct),
                signed_percent(one.most_pct),
                str(one.n_blocks),
            ]
        )
    titles = ["factor", "level", "against", "difference", "from", "to", "effect size", "real", "least of cells",
              "most of cells", "blocks"]  # fmt: skip
    grid = Grid(f"What mattered: {FIGURES[figure].title}", titles, rows, 3, frozenset({0, 1, 2}))
    grid.notes.append(
        "pairs within blocks; intervals and what is called real are corrected for the number of comparisons"
    )
    return grid


def _cells(found: Outcome) -> Grid:
    figure = found.spec.headline
    factors = _factor_names(found.cells)
    effects: dict[int | None, Effect] = {one.cell: one for one in found.of_cells}
    rows, strange = [], []
    for number, row in found.by_cell(figure).items():
        cell, effect = found.cells[number], effects.get(number)
        interval = MISSING if row["low"] is None else f"{shown(figure, row['low'])} to {shown(figure, row['high'])}"
        ends = [] if effect is None else [signed_percent(effect.low_pct), signed_percent(effect.high_pct)]
        difference = (
            ["baseline", "", "", ""] if effect is None else [signed_percent(effect.pct), *ends, _yes(effect.real)]
        )
        rows.append(
            [str(number), *_labels(cell, factors), str(row["n"]), shown(figure, row["mean"]), interval, *difference,
             signed_percent(row["traced_pct"]), str(len(row["outliers"]))]
        )  # fmt: skip
        if row["outliers"]:
            strange.append(f"cell {number}: {', '.join(shown(figure, one) for one in row['outliers'])}")
    titles = ["cell", *factors, "runs", FIGURES[figure].title, "interval (95 %)", "difference", "from", "to", "real",
              "traced against", "outliers"]  # fmt: skip
    n_keys = 1 + len(factors)
    grid = Grid(f"Cells: {FIGURES[figure].title}", titles, rows, n_keys, frozenset(range(1, n_keys)))
    grid.notes.append(f"{FIGURES[figure].source}, untraced; traced against: the mean of the traced runs")
    if strange:
        grid.notes.append(f"outliers, which are counted with the others: {'; '.join(strange)}")
    return grid


def _figures(found: Outcome, keys: tuple[str, ...], title: str) -> Grid:
    factors = _factor_names(found.cells)
    by_figure = {key: found.by_cell(key) for key in keys}
    known = [key for key in keys if any(row["mean"] is not None for row in by_figure[key].values())]
    rows = []
    for number, cell in found.cells.items():
        cells = []
        for key in known:
            row = by_figure[key][number]
            half = None if row["low"] is None else (row["high"] - row["mean"]) / row["mean"] if row["mean"] else None
            cells.append(shown(key, row["mean"]) + (f" ±{percent(100 * half)}" if half is not None else ""))
        rows.append([str(number), *_labels(cell, factors), *cells])
    titles = ["cell", *factors, *(FIGURES[key].title for key in known)]
    n_keys = 1 + len(factors)
    grid = Grid(f"{title}: means of the untraced runs, ± half of the 95 % interval", titles, rows if known else [],
                n_keys, frozenset(range(1, n_keys)))  # fmt: skip
    for source in dict.fromkeys(FIGURES[key].source for key in known):
        grid.notes.append(
            f"{', '.join(FIGURES[key].title for key in known if FIGURES[key].source == source)}: {source}"
        )
    missing = [FIGURES[key].title for key in keys if key not in known]
    if missing:
        grid.notes.append(f"not printed by this engine: {', '.join(missing)}")
    return grid


def _token_time(found: Outcome, phase: str) -> Grid:
    """Of the traced runs that count; a part that is missing in one of a cell's is missing in their mean."""
    factors = _factor_names(found.cells)
    parts = [part for part in PARTS if any(_part(found, number, phase, part.key) for number in found.cells)]
    rows = []
    for number, cell in found.cells.items():
        whole = _part(found, number, phase, "dur_ns")
        figures = [_part(found, number, phase, part.key) for part in parts]
        cells = [MISSING if one is None else duration(round(one)) for one in (whole, *figures)]
        rows.append([str(number), *_labels(cell, factors), *cells])
    titles = ["cell", *factors, "per token", *(part.title for part in parts)]
    grid = Grid(f"Where the time of a token went: {phase}", titles, rows if parts else [], 1 + len(factors),
                frozenset(range(1, len(factors) + 1)))  # fmt: skip
    grid.notes.append("means of the traced runs, of the threads that compute; spin: at barriers, by timer samples")
    return grid


def _part(found: Outcome, cell: int, phase: str, key: str) -> float | None:
    own = [one.metrics.values for (number, _), one in found.traced.items() if number == cell and one.metrics]
    values = [one.get((TIME, phase, key)) for one in own if (TIME, phase, "dur_ns") in one]
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _hardware(found: Outcome) -> Grid:
    factors = _factor_names(found.cells)
    rows = [[str(number), *_labels(cell, factors), *_counted(found, number)] for number, cell in found.cells.items()]
    titles = ["cell", *factors, *HARDWARE, "IPC", "cache miss rate"]
    grid = Grid("Counters of the CPU", titles, rows, 1, frozenset(range(1, len(factors) + 1)))
    empty = all(cell == MISSING for row in rows for cell in row[1 + len(factors) :])
    if empty and not found.facts.get("host", {}).get("pmu"):
        grid.notes.append(f"empty, dTLB and iTLB too: {_NO_PMU}")
    else:
        grid.notes.append("means of the traced runs, of the whole program; doctor says what this machine can count")
    return grid


def _counted(found: Outcome, number: int) -> Iterator[str]:
    own = [dict(traced.perf) for (cell, _), traced in found.traced.items() if cell == number]
    means = {}
    for name in HARDWARE:
        values = [one[name] for one in own if name in one]
        means[name] = sum(values) / len(values) if values else None
        yield MISSING if not values else amount(round(sum(values) / len(values)))
    cycles, references = means["cycles"], means["cache-references"]
    instructions, misses = means["instructions"], means["cache-misses"]
    yield MISSING if not cycles or instructions is None else three_digits(instructions / cycles)
    yield MISSING if not references or misses is None else percent(100 * misses / references)


def _read_back(found: Outcome) -> Grid:
    factors = _factor_names(found.cells)
    rows = []
    pool = found.runs["hugetlb_bytes"].notna().any()
    for number, cell in found.cells.items():
        own = found.runs[found.runs["cell"] == number]
        most = own["hugetlb_bytes"].max()
        ended = [one for (of_cell, _), traced in found.traced.items() if of_cell == number for one in traced.scheduled]
        ends = sorted({f"{one.as_policy} on {','.join(map(str, one.cpus))}" for one in ended})
        wrong = int(own["why"].fillna("").str.startswith("not as asked").sum())
        seen = own["threads_seen"].dropna()
        rows.append(
            [
                str(number),
                *_labels(cell, factors),
                MISSING if not len(seen) else amount(int(seen.max())),
                _joined(own["policies_seen"], ", "),
                _joined(own["nices_seen"], ", "),
                _joined(own["cpus_seen"], " | "),
                printable("; ".join(ends) or MISSING, _LIST_LIMIT),
                str(wrong),
                *([MISSING if pd.isna(most) else size(int(most))] if pool else []),
            ]
        )
    first = 1 + len(factors)
    titles = ["cell", *factors, "threads", "policies", "nice", "CPUs", "at their ends", "not as asked"]
    titles += ["of the hugetlb pool"] if pool else []
    left = frozenset([*range(1, first), *range(first + 1, first + 5)])
    grid = Grid("Read back from the kernel while it ran: every thread of the program", titles, rows, 1, left)
    grid.notes.append(
        "CPUs: the different masks of its threads; at their ends: what the tracer's probe saw in the kernel"
    )
    if found.runs["reader_reserved"].fillna(False).any():
        grid.notes.append("beside real-time threads the reader had 2 ms in each 100 ms for itself (SCHED_DEADLINE)")
    grid.notes.append(f"real-time threads may use {found.facts.get('real_time_limit', MISSING)}")
    return grid


def _joined(values: "pd.Series[str]", separator: str) -> str:
    found: dict[str, None] = {}
    for value in values.dropna():
        found.update(dict.fromkeys(str(value).split(separator)))
    return printable(separator.join(sorted(one for one in found if one)) or MISSING, _LIST_LIMIT)


def _conditions(found: Outcome) -> Grid:
    factors = _factor_names(found.cells)
    rows = [[str(number), *_labels(cell, factors), *_condition(found, number)] for number, cell in found.cells.items()]
    titles = ["cell", *factors, "steal", "steal, most", "other programs", "frequency", "throttled", "tracer, others"]
    grid = Grid("What the machine did besides", titles, rows, 1, frozenset(range(1, len(factors) + 1)))
    grid.notes.append(
        "shares of the time of all CPUs, in the mean of the cell's untraced runs; steal: taken by a hypervisor"
    )
    if found.runs["frequency_mhz"].isna().all():
        grid.notes.append("frequency: no cpufreq driver here, usual in a guest")
    if found.runs["throttled"].isna().all():
        grid.notes.append("throttled: no counters of the CPUs' heat here, usual in a guest")
    return grid


def _condition(found: Outcome, number: int) -> Iterator[str]:
    untraced, traced = (valid(found.runs, kind) for kind in (UNTRACED, TRACED))
    own = untraced[untraced["cell"] == number]
    for values, how in ((own["steal_pct"], "mean"), (own["steal_pct"], "max"), (own["others_pct"], "mean")):
        yield MISSING if values.isna().all() else percent(float(getattr(values, how)()))
    frequency, throttled = own["frequency_mhz"], own["throttled"]
    yield MISSING if frequency.isna().all() else f"{three_digits(float(frequency.mean()))} MHz"
    yield MISSING if throttled.isna().all() else amount(int(throttled.sum()))
    others = traced.loc[traced["cell"] == number, "others_pct"]
    yield MISSING if others.isna().all() else percent(float(others.mean()))

"""A comparison in words and tables, for all forms."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from bitnet_trace.analysis.compare import Comparison, Explanation, Group, setup_differences, to_dict
from bitnet_trace.analysis.metrics import COUNTS, CPU, PER_TOKEN, SPEED, TIME, column_titles
from bitnet_trace.columns import COUNTERS, PARTS, PHASE_SUMS, SUMMARY, Column, by_key
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, amount, cell, duration, percent, three_digits
from bitnet_trace.render.grids import Grid
from bitnet_trace.render.sections import Section

SCHEMA = 1
_NAME_LIMIT = 60
_MAX_ROWS = 40
_COLUMNS = by_key((*PHASE_SUMS, *COUNTERS, *PARTS, *SUMMARY))
_TITLES = column_titles()
_MOST_ASKED = ("decode_tokens_per_s", "prefill_tokens_per_s")
_WORDS = {"cause": "", "remainder": " (computing itself)", "consequence": " (waiting for the program's own threads)"}


def sections(groups: Sequence[Group], comparisons: Sequence[Comparison]) -> list[Section]:
    """The setup, then of each comparison: what differs in words, and its tables."""
    parts = [Section("setup", "What is compared", _setup(groups), list(_warnings(groups)))]
    for number, one in enumerate(comparisons, 1):
        title = f"{_name(one.other)} against {_name(one.base)}"
        tables = [_table(one, SPEED, "Speed"), _table(one, TIME, "Where the time of a token goes"), _counts(one)]
        tables.append(_table(one, CPU, "perf's counters, and TLBs"))
        parts.append(Section(f"comparison-{number}", title, [], list(words(one))))
        parts.append(Section(f"tables-{number}", f"{title}: figures", [table for table in tables if table.rows]))
    return parts


def words(one: Comparison) -> Iterator[str]:
    """What there is to say about speed, then what explains it."""
    rows = one.family(SPEED).set_index("key")
    if not one.repeated:
        yield "One recording on a side: the differences may be chance. Repeat both, at least three times, to tell."
    real = rows.index[rows["real"].fillna(False).to_numpy(dtype=bool)].tolist()
    shown = real or [key for key in _MOST_ASKED if key in rows.index] or rows.index[:1].tolist()
    if one.repeated and not real:
        yield "No real difference in speed."
    for key in shown:
        yield _difference(key, rows.loc[key], one)
    for explanation in one.explanations:
        yield explained(explanation)
    changed = one.family(TIME)
    slower = changed[(changed["key"] == "dur_ns") & changed["real"].fillna(False)]["phase"].tolist()
    for phase in slower:
        if not any(other.phase == phase for other in one.explanations):
            yield f"{phase}: no single part of the time per token explains the difference."
    n_real = int(one.family(COUNTS)["real"].fillna(False).sum())
    if one.repeated:
        yield f"Of {amount(len(one.family(COUNTS)))} other metrics by phase {amount(n_real)} differ really."


def to_json(groups: Sequence[Group], comparisons: Sequence[Comparison]) -> str:
    """The whole comparison as a JSON object, in ASCII."""
    value = {
        "schema": SCHEMA,
        "groups": [
            {"name": group.name, "recordings": [{"path": run.path, "warnings": run.warnings} for run in group.runs]}
            for group in groups
        ],
        "setup_differences": [{"what": what, "values": values} for what, values in setup_differences(groups)],
        "comparisons": [{**to_dict(one), "words": list(words(one))} for one in comparisons],
    }
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _setup(groups: Sequence[Group]) -> list[Grid]:
    names = [_name(group) for group in groups]
    rows = [["recordings", *(str(len(group.runs)) for group in groups)]]
    rows += [[what, *(printable(value, 200) for value in values)] for what, values in setup_differences(groups)]
    left = frozenset(range(len(names) + 1))
    grid = Grid("Groups, and how they were made where that differs", ["", *names], rows, 1, left)
    if len(rows) == 1:
        grid.notes.append("engine, model, command, kernel, CPU and governor are the same in all")
    return [grid]


def _warnings(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        concerned = [run for run in group.runs if run.warnings]
        for warning in dict.fromkeys(warning for run in concerned for warning in run.warnings):
            n = sum(warning in run.warnings for run in concerned)
            yield f"{_name(group)}: {n} of {len(group.runs)} recordings {warning}"


def _difference(key: str, row: "pd.Series[Any]", one: Comparison) -> str:
    column = _COLUMNS[key]
    figures = f"{_value(row['other'], column)} against {_value(row['base'], column)}"
    text = f"{_TITLES[key]}: {figures}, {_percent(row['difference_pct'])}"
    if math.isnan(float(row["low"])) or not row["base"]:
        return f"{text}."
    low, high = (percent(100 * float(row[end]) / float(row["base"]), signed=True) for end in ("low", "high"))
    verdict = "a real difference" if row["real"] else "no real difference"
    return f"{text} (interval {low} to {high}): {verdict}."


def explained(one: Explanation) -> str:
    """A part of a difference, in words."""
    more = "more" if one.difference_ns > 0 else "less"
    how = f"{duration(abs(round(one.difference_ns)))} {more} per token, {one.share_pct:.0f} % of the difference"
    title = "run-queue wait" if one.key == "runq_ns" else one.title
    text = f"{one.phase}: {title}{_WORDS[one.kind]}: {how}."
    if one.ran_instead:
        names = " and ".join(f"{printable(name, 40)} ({duration(abs(ns))} a run)" for name, ns in one.ran_instead)
        text += f" Who ran instead {more}: {names}."
    return text


def _table(one: Comparison, family: str, title: str) -> Grid:
    return _grid(one, title, one.family(family).head(_MAX_ROWS), family != SPEED)


def _counts(one: Comparison) -> Grid:
    """The metrics that differ really, in the order of an inference; without repeats those that differ most."""
    table = one.family(COUNTS)
    if one.repeated:
        chosen = table[table["real"].fillna(False).to_numpy(dtype=bool)]
    else:
        chosen = table.reindex(table["difference_pct"].abs().sort_values(ascending=False).index)
    grid = _grid(one, "By phase, where it differs", chosen.head(_MAX_ROWS), True)
    grid.notes.append(f"{', '.join(PER_TOKEN)}: per token")
    if len(chosen) > _MAX_ROWS:
        grid.notes.append(f"and {amount(len(chosen) - _MAX_ROWS)} more: --format json has them")
    return grid


def _grid(one: Comparison, title: str, table: pd.DataFrame, by_phase: bool) -> Grid:
    names = [_name(one.base), _name(one.other)]
    titles = [*(["phase"] if by_phase else []), "", *names, "difference", "%", "from", "to", "real"]
    rows = []
    for row in table.to_dict("records"):
        key = str(row["key"])
        column = _COLUMNS.get(key) or Column(key, printable(key, _NAME_LIMIT), "count", "")
        numbers = [_value(row[name], column) for name in ("base", "other", "difference")]
        ends = [_value(row[name], column) for name in ("low", "high")]
        real = MISSING if row["real"] is None or pd.isna(row["real"]) else "yes" if row["real"] else "no"
        phase = [str(row["phase"])] if by_phase else []
        rows.append([*phase, _TITLES.get(key, column.title), *numbers, _percent(row["difference_pct"]), *ends, real])
    n_keys = 2 if by_phase else 1
    return Grid(title, titles, rows, n_keys, frozenset(range(n_keys)))


def _value(value: Any, column: Column) -> str:
    number = float(value)
    if math.isnan(number):
        return MISSING
    if column.format == "count":
        return amount(round(number)) if abs(number) >= 1000 or number == round(number) else three_digits(number)
    return cell(number, column)


def _percent(value: Any) -> str:
    return MISSING if math.isnan(float(value)) else percent(float(value), signed=True)


def _name(group: Group) -> str:
    return printable(group.name, _NAME_LIMIT)

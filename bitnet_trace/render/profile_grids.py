"""What the timer samples show, as tables of text."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from bitnet_trace.analysis.profile import COMPLETE_ENOUGH_PCT, SPIN_ROLE, Profile
from bitnet_trace.analysis.report import Report
from bitnet_trace.columns import DURATIONS, FUNCTIONS, SPIN, Column, by_key
from bitnet_trace.engines.names import plain
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, amount, percent
from bitnet_trace.render.grids import Grid, grid_of, rows_of

MAX_FUNCTIONS = 20
MAX_SPINNING = 8
MAX_WAITING = 10
_LEAST_WAITING_NS = 1_000_000
_NAME_LIMIT = 52
_LEAST_PCT = 0.5
_SPIN_NOTE = "spin: in a loop around `pause`, waiting for another thread"


def grids(profile: Profile | None) -> list[Grid]:
    """Roles by phase, the functions with most samples, spinning by thread; nothing without samples."""
    if profile is None:
        return []
    tables = [_roles(profile), _functions(profile)]
    if (profile.functions["offcpu_ns"] >= _LEAST_WAITING_NS).any():
        tables.append(_waiting(profile))
    return [*tables, _spinning(profile)] if len(profile.spin) else tables


def health_line(profile: Profile | None) -> str:
    """How many samples, and how far their stacks go."""
    if profile is None:
        return f"samples: {MISSING}"
    complete = MISSING if profile.complete_pct is None else f"{profile.complete_pct:.1f} %"
    rate = round(1e9 / profile.period_ns) if profile.period_ns else 0
    return f"{amount(profile.n_samples)} samples at {rate} Hz, complete stacks: {complete}"


def _roles(profile: Profile) -> Grid:
    shares = profile.roles["phase_shares"].tolist()
    phases = list(dict.fromkeys(phase for row in shares for phase in row))
    rows = []
    table = profile.roles
    for role, own, mostly, row in zip(table["role"], table["self_pct"], table["mostly"], shares, strict=True):
        if own < _LEAST_PCT:
            continue
        by_phase = (percent(row[phase]) if phase in row else "" for phase in phases)
        rows.append([printable(str(role)), percent(float(own)), _name(mostly), *by_phase])
    notes = [_SPIN_NOTE] if SPIN_ROLE in set(table["role"]) else []
    rest = table["self_pct"][table["self_pct"] < _LEAST_PCT]
    if len(rest):
        notes.append(f"and {amount(len(rest))} more roles with {percent(float(rest.sum()))} of the samples")
    titles = ["role", "all", "mostly", *phases]
    return Grid(
        "CPU time by role and phase (sampled)",
        titles,
        rows,
        3,
        frozenset({0, 2}),
        notes=notes,
        source="profile.roles",
    )


def _calls_note(name: str, row: Mapping[Hashable, Any]) -> Iterator[str]:
    """How the calls were got, and how sure the time of one is."""
    if pd.isna(row["calls_per_token"]):
        return
    how = str(row["how"]).partition("; ")[2]
    if not pd.isna(row["calls_low"]) and row["calls_low"] < row["calls_high"]:
        how += f", {row['calls_low']:,.1f} to {row['calls_high']:,.1f} a token (95 %)"
    if pd.isna(row["mean_low_ns"]):
        unsure = "" if pd.isna(row["mean_ns"]) else f"; how sure its time is takes a second one: {MISSING}"
        yield f"{name}: {how}{unsure}"
        return
    yield f"{name}: {how}; a call takes {row['mean_low_ns']:.1f} to {row['mean_high_ns']:.1f} ns (95 %, from samples)"


def _functions(profile: Profile) -> Grid:
    known = by_key(FUNCTIONS)
    shown = profile.functions[profile.functions["self_pct"] >= _LEAST_PCT].head(MAX_FUNCTIONS)
    keys = ["self_pct", "self_ns", "total_pct", "total_ns", "spin_pct", "offcpu_ns"]
    keys += ["calls_per_token", "mean_ns", "role", "module"]
    optional = {"total_pct", "total_ns", "calls_per_token", "mean_ns"}
    columns: list[Column] = [known[key] for key in keys if key not in optional or shown[key].notna().any()]
    names = [_name(name) for name in shown["name"]]
    rows = [[name, *rest] for name, rest in zip(names, rows_of(shown, columns), strict=True)]
    left = frozenset({0, *(number for number, column in enumerate(columns, 1) if column.format == "text")})
    notes = [f"{name}: {why}" for name, why in zip(names, shown["explain"], strict=True) if isinstance(why, str)]
    for name, row in zip(names, shown.to_dict("records"), strict=True):
        notes += _calls_note(name, row)
    rest = profile.functions.iloc[len(shown) :]
    rest = rest[rest["samples"] > 0]
    if len(rest):
        share = percent(float(rest["self_pct"].sum()))
        notes.insert(0, f"and {amount(len(rest))} more functions with {share} of the samples")
    if known["total_pct"] not in columns:
        limit = f"{COMPLETE_ENOUGH_PCT:.0f} %"
        notes.insert(0, f"no total: what a function's callees took is known where {limit} of the stacks are complete")
    return Grid(
        "Functions (sampled)",
        ["function", *(column.title for column in columns)],
        rows,
        1,
        left,
        notes=notes,
        source="functions",
    )


def bursts(report: Report) -> Grid | None:
    """How long calls took that were timed in bursts; None where no function was asked for."""
    state = (report.recording.meta.get("windows") or {}).get("durations") or {}
    notes = [
        f"{printable(name)}: {MISSING} ({printable(str(one['reason']), 200)})"
        for name, one in state.items()
        if one.get("reason")
    ]
    table, title = report.durations, "How long calls take (timed in bursts)"
    if not len(table):
        return Grid(title, [""], [[note] for note in notes]) if notes else None
    columns = [one for one in DURATIONS if one.key not in ("function", "histogram", "probe_ns")]
    rows = [[_name(name), *row] for name, row in zip(table["function"], rows_of(table, columns), strict=True)]
    taken = ", ".join(f"{probe_ns:,} ns" for probe_ns in sorted(set(table["probe_ns"])))
    notes.insert(0, f"wall time, with what was called and waits; less {taken} for the probes")
    if (table["bursts"] == 1).any():
        notes.append("one burst tells nothing of how sure its mean is")
    return Grid(
        title,
        ["function", *(column.title for column in columns)],
        rows,
        2,
        frozenset({0, 1}),
        notes=notes,
        source="durations",
    )


def _waiting(profile: Profile) -> Grid:
    table = profile.functions[profile.functions["offcpu_ns"] >= _LEAST_WAITING_NS]
    table = table.sort_values("offcpu_ns", ascending=False, kind="stable").head(MAX_WAITING)
    known = by_key(FUNCTIONS)
    columns = [known[key] for key in ("offcpu_ns", "self_ns", "role", "module")]
    rows = [[_name(name), *row] for name, row in zip(table["name"], rows_of(table, columns), strict=True)]
    return Grid(
        "Functions with most time off the CPU (sampled)",
        ["function", *(column.title for column in columns)],
        rows,
        1,
        frozenset({0, 3, 4}),
        notes=["of waits of 0.2 ms and more: in the function or in what it called, as far as their stacks go"],
        source="functions",
    )


def _name(function: object) -> str:
    """Of a function with many parameters the name alone."""
    name = str(function)
    return printable(name if len(name) <= _NAME_LIMIT or name.startswith("[") else plain(name), _NAME_LIMIT)


def _spinning(profile: Profile) -> Grid:
    table = profile.spin.head(MAX_SPINNING)
    return grid_of("Spinning by thread and phase (sampled)", "profile.spin", table, SPIN, 3)

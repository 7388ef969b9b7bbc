"""Findings about barriers: one thread that the others wait for."""

from typing import TYPE_CHECKING

import pandas as pd

from bitnet_trace.analysis.findings.finding import Finding, severity_of
from bitnet_trace.analysis.tables import ENGINE_CALL_NAMES

if TYPE_CHECKING:
    from bitnet_trace.analysis.report import Report

# How much more of a call's time one thread alone was missing than the others were on average: in half of the calls.
STRAGGLER_PCT = 10.0
# Fewer calls than these cannot tell a habit from an accident.
LEAST_CALLS = 3
_MAX_CAUSES = 3
_ADVICE = {
    "preempted": "keep what ran there off its CPU (taskset, cpuset), or leave that a CPU with a smaller -t",
    "run_queue": "its CPU was taken when it was woken: fewer threads, or nothing else on its CPU",
    "asleep": "it sleeps where the others compute: find what makes it wait there in the engine",
    "fault": "bring its memory in before decoding: --mlock, no --no-mmap, huge pages",
    "migrated": "pin the threads: taskset, --cpu-strict 1, OMP_PROC_BIND=true",
    "slower": "it has more work or a slower CPU: look at core types, clocks and what only one thread does",
}


def straggler(report: "Report") -> Finding | None:
    """One thread comes last at the barriers, so much and so often that it costs time."""
    late = report.barriers.late_by_call
    calls = report.phases.drop_duplicates("id").set_index("id").reindex(late.index)
    found: list[tuple[float, int, str]] = []
    for name in ENGINE_CALL_NAMES:
        own = (calls["name"] == name).fillna(False).to_numpy(dtype=bool)
        if own.sum() < LEAST_CALLS or late.shape[1] < 1:
            continue
        shares = 100 * late[own].div(calls.loc[own, "dur_ns"].astype("float64").clip(lower=1), axis=0)
        found += [(excess, tid, name) for tid, excess in _excess(shares).items()]
    if not found or max(found)[0] < STRAGGLER_PCT:
        return None
    pct, tid, name = max(found)
    table = report.barriers.stragglers
    table = table[(table["tid"] == tid) & (table["phase"] == name)]
    causes = table.groupby("cause", dropna=False)["late_ns"].sum().sort_values(ascending=False)
    cause = causes.index[0] if len(causes) and isinstance(causes.index[0], str) else None
    return Finding(
        rule="straggler",
        severity=severity_of(pct),
        title=f"straggler: {report.names.described(tid)} keeps the others waiting for {pct:.0f} % of {name}"
        + (f", {_in_words(cause)}{_mostly(table, cause)}" if cause else ""),
        figure=pct,
        threshold=STRAGGLER_PCT,
        unit="% of a call for which only it was missing, more than the others on average; median of calls",
        phase=name,
        evidence=tuple(_lines(table)),
        advice=_ADVICE.get(cause or "", "record with --detail events to see why"),
        threads=(tid,),
    )


def _excess(shares: pd.DataFrame) -> dict[int, float]:
    """Of each thread, the median over the calls of its share less the mean of the others'."""
    n_others = max(shares.shape[1] - 1, 1)
    others = shares.rsub(shares.sum(axis=1), axis=0) / n_others
    medians = (shares - others).median()
    return dict(zip(medians.index.tolist(), medians.tolist(), strict=True))


def _in_words(cause: str) -> str:
    return {"run_queue": "waiting for a CPU", "fault": "in page faults"}.get(cause, cause)


def _mostly(table: pd.DataFrame, cause: str) -> str:
    """By whom, or in which call: the one that most of the lateness of this cause came of."""
    by = table.loc[(table["cause"] == cause) & table["by"].notna(), ["by", "late_ns"]]
    if not len(by):
        return ""
    word = {"preempted": "by", "asleep": "in"}[cause]
    return f" {word} {by.groupby('by')['late_ns'].sum().idxmax()}"


def _lines(table: pd.DataFrame) -> list[str]:
    shown = table.head(_MAX_CAUSES)
    return [
        f"{_in_words(cause) if isinstance(cause, str) else 'late'}{f' ({by})' if isinstance(by, str) else ''}: "
        f"last at {times:,} barriers, {pct:.1f} % of the calls seen"
        for cause, by, times, pct in zip(shown["cause"], shown["by"], shown["times"], shown["late_pct"], strict=True)
    ]

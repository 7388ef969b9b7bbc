"""Findings about CPUs: more threads than CPUs, and CPUs that others took."""

from typing import TYPE_CHECKING

import pandas as pd

from bitnet_trace.analysis.computing import Computing
from bitnet_trace.analysis.findings.finding import Finding, plural, severity_of

if TYPE_CHECKING:
    from bitnet_trace.analysis.report import Report

# Threads that take turns by themselves hardly wait for a CPU, however many they are.
OVERSUBSCRIBED_WAIT_PCT = 5.0
PREEMPTED_PCT = 5.0
# Less is an accident: the kernel's housekeeping, or the tracer's, once or twice in a short phase.
PREEMPTED_LEAST_NS = 20_000_000
_MAX_NAMED = 3


def oversubscribed(report: "Report") -> Finding | None:
    """More threads compute than there are CPUs that they may use."""
    found = [
        one
        for one in report.computing
        if len(one.tids) > len(_cpus(report, one.tids)) > 0 and one.wait_pct >= OVERSUBSCRIBED_WAIT_PCT
    ]
    if not found:
        return None
    worst = max(found, key=lambda one: one.runq_ns)
    n, cpus = len(worst.tids), _cpus(report, worst.tids)
    return Finding(
        rule="oversubscription",
        severity=severity_of(worst.wait_pct),
        title=f"oversubscribed: {n} threads compute in {worst.name} on {plural(len(cpus), 'CPU')}",
        figure=float(n),
        threshold=float(len(cpus)),
        unit="threads",
        phase=worst.name,
        evidence=tuple(
            f"{one.name}: {len(one.tids)} threads, without a CPU for {one.wait_pct:.0f} % of the time they wanted one"
            for one in found
        ),
        advice=f"run it with -t {len(cpus)}, or give it more CPUs (taskset, cpuset, --cpus)",
        threads=worst.tids,
    )


def preempted(report: "Report") -> Finding | None:
    """Computing threads were put off their CPUs: for other programs, for the kernel, or for each other although there
    are CPUs enough (another program then has one of them)."""
    worst: tuple[float, Computing, pd.DataFrame] | None = None
    away = report.preemptions
    away = away[(away["next"] != 0) & (away["offcpu_ns"] > 0)]
    put_off = set(away["tid"].tolist())
    for one in report.computing:
        if put_off.isdisjoint(one.tids):
            continue
        table = away[(away["name"] == one.name) & away["tid"].isin(one.tids)]
        if len(one.tids) > len(_cpus(report, one.tids)):
            table = table[~table["next"].isin(one.tids)]  # that is oversubscription
        most_ns = float(table.groupby("tid")["offcpu_ns"].sum().max()) if len(table) else 0.0
        pct = 100 * most_ns / max(one.dur_ns, 1)
        if pct >= PREEMPTED_PCT and most_ns >= PREEMPTED_LEAST_NS and (worst is None or pct > worst[0]):
            worst = (pct, one, table)
    if worst is None:
        return None
    pct, one, table = worst
    of_threads = table.groupby("tid")["offcpu_ns"].sum().sort_values(ascending=False)
    sums = table.groupby("next")[["count", "offcpu_ns"]].sum().sort_values("offcpu_ns", ascending=False)
    names = [report.names.described(int(tid)) for tid in sums.index]
    tid = of_threads.index.tolist()[0]
    for_whom = int(table[table["tid"] == tid].groupby("next")["offcpu_ns"].sum().idxmax())
    who, whom = report.names.described(tid), report.names.described(for_whom)
    total_ns = int(of_threads.sum())
    of_all_pct = 100 * total_ns / (max(one.dur_ns, 1) * len(one.tids))
    lines = [
        f"{name}: {plural(int(n), 'time')}, {100 * ns / total_ns:.0f} % of that time"
        for name, n, ns in zip(names, sums["count"], sums["offcpu_ns"], strict=True)
    ]
    return Finding(
        rule="preemption",
        severity=severity_of(pct),
        title=f"preempted while computing: {who} was off its CPU for {pct:.0f} % of {one.name}, mostly for {whom}",
        figure=pct,
        threshold=PREEMPTED_PCT,
        unit="% of the phase, of the thread that was preempted most",
        phase=one.name,
        evidence=(
            f"{len(of_threads)} of {len(one.tids)} computing threads preempted, {of_all_pct:.0f} % of all their time",
            *lines[:_MAX_NAMED],
        ),
        advice="end what ran there, or keep it off these CPUs (taskset, cpuset); else leave it a CPU with a smaller -t",
        threads=tuple(sorted({int(tid) for tid in table["tid"]})),
    )


def _cpus(report: "Report", tids: tuple[int, ...]) -> set[int]:
    """The CPUs that threads may use: their own, where all have ended, else the run's; empty when that is not known."""
    had = report.scheduling.had
    if tids and all(tid in had for tid in tids):
        return {cpu for tid in tids for cpu in had[tid].cpus}
    host = report.run["host"]
    known = [host[key] for key in ("cpus_online", "cpus_allowed") if isinstance(host.get(key), list)]
    return set.intersection(*({cpu for cpu in cpus if isinstance(cpu, int)} for cpus in known)) if known else set()

"""The recordings of an experiment's traced runs: their metrics and findings, read by processes without root."""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from bitnet_trace.analysis.metrics import Metrics, metrics
from bitnet_trace.analysis.report import Report, build_report
from bitnet_trace.capture.identity import Identity
from bitnet_trace.errors import TraceError
from bitnet_trace.experiment.readback import Scheduled, policy_name
from bitnet_trace.recording.reader import open_recording


@dataclass(frozen=True)
class Traced:
    """Of one traced run. `findings`: (rule, title) of what its report says; `scheduled`: how its threads were scheduled
    when they ended, as the kernel said; `perf`: counters of the CPU by name, of the whole run; `metrics` is None where
    the recording cannot be read, `why` tells."""

    metrics: Metrics | None
    findings: tuple[tuple[str, str], ...] = ()
    scheduled: tuple[Scheduled, ...] = ()
    perf: tuple[tuple[str, int], ...] = ()
    why: str | None = None


def read_all(results: Sequence[Mapping[str, Any]], user: Identity | None) -> dict[tuple[int, int], Traced]:
    """By (cell, block), of the results that have recordings; all CPUs at work."""
    jobs = {(one["cell"], one["block"]): one["recording"] for one in results if one.get("recording") and not one["why"]}
    if not jobs:
        return {}
    context = multiprocessing.get_context("fork")
    workers = min(len(os.sched_getaffinity(0)), len(jobs))
    with ProcessPoolExecutor(workers, context, initializer=user.assume if user else None) as pool:
        return dict(zip(jobs, pool.map(_read, jobs.values()), strict=True))


def _read(path: str) -> Traced:
    try:
        report = build_report(open_recording(path))
    except TraceError as error:
        return Traced(None, why=error.message)
    found = tuple((one.rule, one.title) for one in report.findings)
    return Traced(metrics(report), found, _scheduled(report), _perf(report))


def _perf(report: Report) -> tuple[tuple[str, int], ...]:
    """The kinds of cores added up: cpu_core/cycles/ and cpu_atom/cycles/ are cycles."""
    sums: dict[str, int] = {}
    if report.perf is not None:
        rows = report.perf.by_phase[report.perf.by_phase["phase"] == "total"].dropna(subset=["value"])
        for counter, value in zip(rows["counter"], rows["value"], strict=True):
            name = str(counter).rstrip("/").rpartition("/")[2]
            sums[name] = sums.get(name, 0) + int(value)
    return tuple(sums.items())


def _scheduled(report: Report) -> tuple[Scheduled, ...]:
    had = report.scheduling.had
    return tuple(
        Scheduled(tid, "ended", policy_name(one.policy), one.priority, one.nice, tuple(sorted(one.cpus)))
        for tid, one in had.items()
    )

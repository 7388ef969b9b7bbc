"""The recordings of an experiment's traced runs: their metrics and findings, read by processes without root."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from bitnet_trace.analysis.metrics import Metrics, metrics
from bitnet_trace.analysis.report import Report, build_report
from bitnet_trace.capture.identity import Identity
from bitnet_trace.driver import PR_SET_PDEATHSIG
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
    """By (cell, block), of the results that have recordings; all CPUs at work. Raises TraceError."""
    jobs = {(one["cell"], one["block"]): one["recording"] for one in results if one.get("recording") and not one["why"]}
    if not jobs:
        return {}
    context = multiprocessing.get_context("fork")
    workers = min(len(os.sched_getaffinity(0)), len(jobs))
    try:
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(user, os.getpid())) as pool:
            try:
                return dict(zip(jobs, pool.map(_read, jobs.values()), strict=True))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # only those that are being read are waited for
                raise
    except BrokenProcessPool:
        raise TraceError(
            "a process that read recordings was ended", "is there memory for it? all results are kept: --resume"
        ) from None


def _begin(user: Identity | None, parent: int) -> None:
    """In a process of the pool: a waiting one would outlive its parent for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's reaches us all: the pool's owner ends us
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if user is not None:
        user.assume()
    # after the change of user, which clears it
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


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

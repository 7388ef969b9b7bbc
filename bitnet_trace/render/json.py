"""A report as JSON: the stable form that other programs read."""

import json
import math
from typing import Any

import pandas as pd

from bitnet_trace.analysis.barrier_tables import BarrierReport
from bitnet_trace.analysis.fault_places import FaultPlaces
from bitnet_trace.analysis.findings import Finding
from bitnet_trace.analysis.numa import Numa
from bitnet_trace.analysis.operations import OperationReport
from bitnet_trace.analysis.perf_counters import PerfCounters
from bitnet_trace.analysis.profile import Profile
from bitnet_trace.analysis.report import Report
from bitnet_trace.analysis.tlb_reach import TlbReach
from bitnet_trace.columns import (
    BARRIER_PHASES,
    BARRIER_THREADS,
    COLLAPSES,
    COUNTERS,
    DURATIONS,
    FINDINGS,
    FUNCTIONS,
    INSTEAD,
    LOAD_PATH,
    NUMA_PHASES,
    NUMA_REGIONS,
    OPERATION_LAYERS,
    OPERATION_TENSORS,
    OPERATION_THREADS,
    OPERATIONS,
    PAGES,
    PAGES_ADVISED,
    PERF_PHASES,
    PERF_RATES,
    PERF_THREADS,
    PHASE_SUMS,
    PHASE_TIME,
    PHASES,
    PLACES_LAYER,
    PLACES_REGION,
    PLACES_TENSOR,
    ROLES,
    RUN_QUEUE,
    SPIN,
    STRAGGLERS,
    SUMMARY,
    TASKSTATS,
    THREADS,
    TLB_REACH,
    TOKEN_TIME,
    TOKENS,
    WAITS,
    Column,
)

SCHEMA = 1
_MAX_STRAGGLERS = 100


def render(report: Report) -> str:
    """The report as one JSON object, indented, in ASCII.

    Times are whole ns in fields ending `_ns`, sizes whole bytes in `_bytes`; what is missing is null. `start_ns` of
    phases and calls counts from `run.start_ns` (CLOCK_MONOTONIC). New keys may be added; none changes its meaning
    without a new `schema`.
    """
    return json.dumps(to_dict(report), indent=1, allow_nan=False) + "\n"


def to_dict(report: Report) -> dict[str, Any]:
    """What `render` writes, as plain dicts, lists, numbers and text."""
    value = {
        "schema": SCHEMA,
        "run": {**report.run, "timings_reported": {row["what"]: row for row in report.timings}},
        "health": report.health,
        "summary": {column.key: report.summary[column.key] for column in SUMMARY},
        "phases": records(report.phases, PHASES),
        "by_phase": records(report.by_phase, (*PHASE_SUMS, *COUNTERS)),
        "total": records(report.total, COUNTERS)[0],
        "by_thread": records(report.by_thread, (*THREADS, *COUNTERS)),
        "tokens": records(report.tokens, TOKENS),
        "faults": {**report.faults, **_places(report.places)},
        "pages": _pages(report),
        "load": None
        if report.load_path is None
        else {"by_phase": records(report.load_path, LOAD_PATH), "requests": report.load_requests},
        "counters": _counters(report.perf),
        "taskstats": {**report.taskstats_summary, "threads": records(report.taskstats, TASKSTATS)},
        "tlb": report.tlb,
        "numa": _numa(report.numa),
        "tlb_reach": _tlb_reach(report.tlb_reach),
        "io": report.io,
        "functions": None if report.profile is None else records(report.profile.functions, FUNCTIONS),
        "durations": records(report.durations, DURATIONS),
        "profile": _profile(report.profile),
        "waits": records(report.waits, WAITS),
        "ran_instead": records(report.ran_instead, INSTEAD),
        "barriers": _barriers(report.barriers),
        "operations": _operations(report.operations),
        "findings": [_finding(one) for one in report.findings],
        "token_time": records(report.token_time, TOKEN_TIME),
        "phase_time": records(report.phase_time, PHASE_TIME),
        "run_queue": records(report.run_queue, RUN_QUEUE),
        "columns": {column.key: {"help": column.help, "how": column.how} for column in COUNTERS},
    }
    plain = _plain(value)
    assert isinstance(plain, dict)
    return plain


def _places(found: FaultPlaces | None) -> dict[str, Any]:
    """Faults by region, layer and tensor; None where only counters were kept."""
    if found is None:
        return dict.fromkeys(("by_region", "by_layer", "by_tensor"))
    return {
        "by_region": records(found.by_region, PLACES_REGION),
        "by_layer": records(found.by_layer, PLACES_LAYER),
        "by_tensor": records(found.by_tensor, PLACES_TENSOR),
    }


def _pages(report: Report) -> dict[str, Any] | None:
    """What was resident in which page sizes, and what was asked for; None where only counters were kept."""
    if report.places is None:
        return None
    host = report.run["host"]
    return {
        "resident": records(report.places.pages.resident, PAGES),
        "advised": records(report.places.pages.advised, PAGES_ADVISED),
        "asked": report.recording.meta.get("huge_pages_asked"),
        "collapses": records(report.collapses, COLLAPSES),
        "of_machine": report.recording.meta.get("vmstat"),
        **{key: host.get(key) for key in ("thp_enabled", "thp_defrag", "thp_shmem", "huge_pools")},
    }


def _numa(found: Numa | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "nodes": {str(node): sorted(cpus) for node, cpus in found.nodes.items()},
        "regions": records(found.regions, NUMA_REGIONS),
        "phases": records(found.phases, NUMA_PHASES),
    }


def _tlb_reach(found: TlbReach | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "how": "estimated",
        "touched_bytes_per_token": found.touched_bytes,
        "experts": found.experts,
        "levels": records(found.levels, TLB_REACH),
    }


def _counters(found: PerfCounters | None) -> dict[str, Any] | None:
    """perf's counters; None where none were asked for."""
    if found is None:
        return None
    return {
        "names": list(found.names),
        "missing": found.missing,
        "late_pct": found.late_pct,
        "by_phase": records(found.by_phase, PERF_PHASES),
        "by_thread": records(found.by_thread, PERF_THREADS),
        "rates": records(found.rates, PERF_RATES),
    }


def _profile(found: Profile | None) -> dict[str, Any] | None:
    """The samples as a whole, by role, and spinning by thread and phase; None without samples."""
    if found is None:
        return None
    return {
        "how": "sampled",
        "n_samples": found.n_samples,
        "period_ns": found.period_ns,
        "complete_stacks_pct": found.complete_pct,
        "roles": records(found.roles, ROLES),
        "spin": records(found.spin, SPIN),
    }


def _barriers(found: BarrierReport) -> dict[str, Any]:
    return {
        **found.summary,
        "by_phase": records(found.by_phase, BARRIER_PHASES),
        "by_thread": records(found.by_thread, BARRIER_THREADS),
        "stragglers": records(found.stragglers.head(_MAX_STRAGGLERS), STRAGGLERS),
    }


def _operations(found: OperationReport | None) -> dict[str, Any] | None:
    """None where they were not asked for."""
    if found is None:
        return None
    return {
        **found.summary,
        "by_op": records(found.by_op, OPERATIONS),
        "by_layer": records(found.by_layer, OPERATION_LAYERS),
        "by_tensor": records(found.by_tensor, OPERATION_TENSORS),
        "by_thread": records(found.by_thread, OPERATION_THREADS),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {**{column.key: getattr(finding, column.key) for column in FINDINGS}, "threads": list(finding.threads)}


def records(table: pd.DataFrame, columns: tuple[Column, ...]) -> list[dict[str, Any]]:
    """The rows of `table` as dicts of those columns; a missing value is None."""
    keys = [column.key for column in columns]
    lists = [[None if _missing(value) else value for value in table[key].tolist()] for key in keys]
    return [dict(zip(keys, values, strict=True)) for values in zip(*lists, strict=True)]


def _missing(value: Any) -> bool:
    return not isinstance(value, dict) and bool(pd.isna(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

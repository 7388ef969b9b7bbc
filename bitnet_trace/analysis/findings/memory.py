"""Findings about memory: faults and disk reads while decoding, huge pages that were not given, a cold page cache."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from bitnet_trace.analysis.findings.finding import Finding, plural, severity_of
from bitnet_trace.analysis.regions import MODEL
from bitnet_trace.render.format import duration, size

if TYPE_CHECKING:
    from bitnet_trace.analysis.report import Report

# Share of the computing threads' time in page faults: a model brought in before and a used KV cache need next to none.
FAULTS_PCT = 5.0
FAULTS_LEAST_NS = 10_000_000
# Each waits for a disk: a few are code that runs for the first time.
MAJOR_FAULTS = 16
# A region that asked for huge pages and has a smaller share than this in them, once it could have some.
HUGE_PCT = 50.0
HUGE_LEAST_BYTES = 16 << 20
# Of the model's bytes, what came from a disk while it was loaded.
COLD_PCT = 10.0
# Of the wall time, what threads waited for memory to be freed, swapped in or read again.
PRESSURE_PCT = 1.0
_HUGE = 2 << 20
_MAX_NAMED = 3
_DELAYS = {"swapin": "pages from swap", "freepages": "memory to be freed", "thrashing": "pages thrown out before"}


def faults_in_decode(report: "Report") -> Finding | None:
    """Page faults take a share of the computing threads' time in decode."""
    decode = _phase(report, "decode")
    if decode is None or pd.isna(decode["fault_ns"]) or pd.isna(decode["cpu_user_ns"]):
        return None
    cpu_ns = int(decode["cpu_user_ns"]) + int(decode["cpu_system_ns"])
    # threads that wait within faults are not on a CPU
    threads_ns = sum(one.dur_ns * len(one.tids) for one in report.computing if one.name == "decode")
    pct = 100 * int(decode["fault_ns"]) / max(cpu_ns, threads_ns, 1)
    if pct < FAULTS_PCT or decode["fault_ns"] < FAULTS_LEAST_NS:
        return None
    n = int(decode["faults_minor"]) + int(decode["faults_major"])
    return Finding(
        rule="faults_in_decode",
        severity=severity_of(pct),
        title=f"page faults take {pct:.0f} % of the time in decode: {plural(n, 'fault')}",
        figure=pct,
        threshold=FAULTS_PCT,
        unit="% of the computing threads' time in decode",
        phase="decode",
        evidence=tuple(_regions(report, "fault_ns")),
        advice="bring memory in before decoding: --mlock, no --no-mmap; huge pages for the KV cache "
        "(GLIBC_TUNABLES=glibc.malloc.hugetlb=1) take a 500th of the faults",
    )


def major_faults_in_decode(report: "Report") -> Finding | None:
    """Decoding waits for pages from a disk."""
    decode = _phase(report, "decode")
    if decode is None or pd.isna(decode["faults_major"]) or decode["faults_major"] < MAJOR_FAULTS:
        return None
    n = int(decode["faults_major"])
    named = []
    if report.places is not None:
        tensors = report.places.by_tensor
        named = [f"tensor {tensors['tensor'][row]}: {n:,}" for row, n in _in_decode(tensors, "faults_major")]
    return Finding(
        rule="major_faults_in_decode",
        severity="critical",
        title=f"decoding waits for the disk: {n:,} major faults",
        figure=float(n),
        threshold=float(MAJOR_FAULTS),
        unit="major faults in decode",
        phase="decode",
        evidence=(*_regions(report, "faults_major"), *named[:_MAX_NAMED]),
        advice="the model does not stay in memory: --mlock, a smaller model, or more free memory; loading it whole "
        "(no --no-mmap, MAP_POPULATE) moves the waits to the load",
    )


def huge_pages_not_given(report: "Report") -> Finding | None:
    """Huge pages were asked for by madvise, and the memory has small ones."""
    if report.places is None:
        return None
    pages = report.places.pages
    asked = pages.advised[pages.advised["advice"] == "MADV_HUGEPAGE"].groupby("region")["advised_bytes"].sum()
    worst: tuple[int, str, float] | None = None
    for region, held in pages.resident[~pages.resident["file"].astype(bool)].groupby("region"):
        most = held.groupby("ts_ns")["resident_bytes"].sum().idxmax()
        then = held[held["ts_ns"] == most]
        could = min(int(asked.get(region, 0)), int(then["resident_bytes"].sum()))
        given = int(then.loc[then["page_bytes"] >= _HUGE, "resident_bytes"].sum())
        pct = 100 * given / max(could, 1)
        if could >= HUGE_LEAST_BYTES and pct < HUGE_PCT and (worst is None or could - given > worst[0]):
            worst = could - given, str(region), pct
    if worst is None:
        return None
    missing, region, pct = worst
    return Finding(
        rule="huge_pages_not_given",
        severity="warning",
        title=f"huge pages asked for and not given: {region} has {pct:.0f} % of them",
        figure=pct,
        threshold=HUGE_PCT,
        unit="% of the resident bytes that MADV_HUGEPAGE was told of",
        phase=None,
        evidence=(f"{size(missing)} in small pages", *_why_not(report)),
        advice="echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and no prctl against it; where free memory "
        "is in small pieces: echo 1 > /proc/sys/vm/compact_memory",
    )


def cold_cache(report: "Report") -> Finding | None:
    """The model was read from a disk while it was loaded."""
    if report.places is None:
        return None
    models = report.places.by_region[report.places.by_region["region"] == MODEL]
    model_bytes = int(models[["populated_bytes", "read_bytes", "bytes"]].sum().sum())
    from_disk = _from_disk(report)
    if not model_bytes or pd.isna(from_disk):
        return None
    pct = 100 * min(int(from_disk), model_bytes) / model_bytes
    load = _phase(report, "load")
    if pct < COLD_PCT or load is None:
        return None
    return Finding(
        rule="cold_cache",
        severity="note",
        title=f"cold page cache: {size(int(from_disk))} came from a disk, loading took {duration(int(load['dur_ns']))}",
        figure=pct,
        threshold=COLD_PCT,
        unit="% of the model's bytes",
        phase="load",
        evidence=(f"{size(model_bytes)} of the model were brought in",),
        advice="a second run has a warm cache; which way of loading is the fastest: bitnet-trace loadlab MODEL",
    )


def _from_disk(report: "Report") -> Any:
    """Bytes of the model that the page cache lacked while it was loaded; else all that the run read from disks."""
    if report.load_path is not None and len(report.load_path) and report.load_path["missed_bytes"].notna().all():
        return report.load_path["missed_bytes"].sum() + report.load_path["direct_read_bytes"].sum()
    return report.taskstats["read_bytes"].sum(min_count=1) if "read_bytes" in report.taskstats else pd.NA


def memory_pressure(report: "Report") -> Finding | None:
    """Threads waited for the kernel to make room, or for pages that it had thrown out."""
    wall_ns = report.run["wall_ns"]
    table = report.taskstats
    waits = {
        what: int(table[f"{what}_delay_ns"].sum())
        for what in _DELAYS
        if f"{what}_delay_ns" in table and table[f"{what}_delay_ns"].notna().any()
    }
    pct = 100 * sum(waits.values()) / max(wall_ns or 0, 1)
    if not wall_ns or pct < PRESSURE_PCT:
        return None
    return Finding(
        rule="memory_pressure",
        severity=severity_of(pct),
        title=f"memory pressure: threads waited {duration(sum(waits.values()))} for memory",
        figure=pct,
        threshold=PRESSURE_PCT,
        unit="% of the run's time, of all threads together",
        phase=None,
        evidence=tuple(f"for {_DELAYS[what]}: {duration(ns)}" for what, ns in waits.items() if ns),
        advice="free memory, a smaller context or model, or --mlock; is it in a cgroup with a limit (memory.max)?",
    )


def _phase(report: "Report", name: str) -> Any:
    rows = report.by_phase[report.by_phase["phase"] == name]
    return rows.iloc[0] if len(rows) else None


def _in_decode(table: pd.DataFrame, column: str) -> list[tuple[Any, Any]]:
    """(row, value) of what of a column fell in decode, most first."""
    values = [row.get("decode", {}).get(column, 0) for row in table["phases"]]
    found = [(row, value) for row, value in zip(table.index.tolist(), values, strict=True) if value > 0]
    return sorted(found, key=lambda pair: -pair[1])


def _regions(report: "Report", column: str) -> list[str]:
    if report.places is None:
        return []
    table = report.places.by_region
    lines = []
    for row, value in _in_decode(table, column)[:_MAX_NAMED]:
        path = table["path"][row]
        name = f"{table['region'][row]}{'' if pd.isna(path) else ' ' + str(path).rpartition('/')[2]}"
        lines.append(f"{name}: {duration(int(value)) if column.endswith('_ns') else f'{value:,}'}")
    return lines


def _why_not(report: "Report") -> list[str]:
    host = report.run["host"]
    reasons = []
    if host.get("thp_enabled") == "never":
        reasons.append("transparent_hugepage/enabled is never")
    asked = report.recording.meta.get("huge_pages_asked", {})
    if any(isinstance(one, dict) and one.get("thp_enabled") is False for one in asked.values()):
        reasons.append("prctl(PR_SET_THP_DISABLE) forbids them to the process")
    return reasons

"""What of a recording is compared with other recordings: its numbers by phase, and what it was made with."""

import itertools
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import pandas as pd

from bitnet_trace.analysis.report import Report
from bitnet_trace.analysis.sums import MAXIMA
from bitnet_trace.columns import COUNTERS, PARTS, SUMMARY

SPEED, TIME, COUNTS, CPU = "speed", "time", "counts", "cpu"
# Of phases that take longer with more tokens, per token.
PER_TOKEN = ("prefill", "decode", "sample")
_SPEEDS = ("decode_tokens_per_s", "prefill_tokens_per_s", "ttft_ns", "tpot_ns", "load_ns")
_COUNTED = frozenset(column.key for column in COUNTERS if column.format == "count")
_MODEL_OPTIONS = ("-m", "--model")

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Metrics:
    """Of one recording: `values[(family, phase, column key)]`, `setup[what]`, and {name: ns} of who ran instead.

    `units`: of values that are counts, what one event is worth: 1, or per token less.
    """

    path: str
    values: dict[Key, float]
    setup: dict[str, str]
    ran_instead: dict[str, int]
    warnings: list[str]
    units: dict[Key, float] = field(default_factory=dict)


def metrics(report: Report) -> Metrics:
    """The metrics of one report. What is missing in it is missing here."""
    values: dict[Key, float] = {}
    units: dict[Key, float] = {}
    for key in _SPEEDS:
        if report.summary[key] is not None:
            values[SPEED, "", key] = float(report.summary[key])
    for row in report.phase_time.to_dict("records"):
        for key in ("dur_ns", *(part.key for part in PARTS)):
            if not pd.isna(row[key]):
                values[TIME, str(row["name"]), key] = float(row[key])
    n_tokens = {
        "prefill": report.summary["prompt_tokens"],
        "decode": report.summary["decoded_tokens"],
        "sample": report.summary["decoded_tokens"],
    }
    for row in report.by_phase.to_dict("records"):
        phase = str(row["phase"])
        for key in ("dur_ns", *(column.key for column in COUNTERS)):
            if pd.isna(row[key]):
                continue
            whole = key in MAXIMA or phase not in PER_TOKEN
            divisor = None if whole else n_tokens[phase]
            values[COUNTS, phase, key] = float(row[key]) / (divisor or 1)
            if key in _COUNTED:
                units[COUNTS, phase, key] = 1 / (divisor or 1)
    values |= _of_perf(report, n_tokens) | _of_tlbs(report)
    foreign = report.ran_instead[report.ran_instead["own"] == "no"]
    instead: dict[str, int] = {}
    for comm, ns in zip(foreign["comm"], foreign["offcpu_ns"], strict=True):
        if isinstance(comm, str):
            instead[comm] = instead.get(comm, 0) + int(ns)
    return Metrics(str(report.recording.path), values, _setup(report), instead, _warnings(report), units)


def _of_perf(report: Report, n_tokens: dict[str, int | None]) -> dict[Key, float]:
    """perf's counters by phase, per token where phases are, and the rates of them. Keys are perf's names."""
    values: dict[Key, float] = {}
    if report.perf is None:
        return values
    for row in report.perf.by_phase.to_dict("records"):
        phase = str(row["phase"])
        if not pd.isna(row["value"]) and phase != "total":
            values[CPU, phase, _with_unit(row["counter"], row["unit"])] = float(row["value"]) / (
                n_tokens.get(phase) or 1
            )
    for row in report.perf.rates.to_dict("records"):
        of = f" of {row['pmu']}" if isinstance(row["pmu"], str) else ""
        if row["phase"] != "total":
            values[CPU, str(row["phase"]), _with_unit(f"{row['rate']}{of}", row["unit"])] = float(row["value"])
    return values


def _with_unit(name: str, unit: Any) -> str:
    return f"{name}, {unit}" if isinstance(unit, str) and unit else name


def _of_tlbs(report: Report) -> dict[Key, float]:
    """Of each TLB, the share of a token's weights that it reaches over, and of the weights in pages of its size."""
    rows = [] if report.tlb_reach is None else report.tlb_reach.levels.to_dict("records")
    shares = (("reach_pct", "share of a token in its reach, %"), ("resident_pct", "weights in such pages, %"))
    return {
        (CPU, "", f"L{row['level']} TLB, pages of {_power_of_two(int(row['page_bytes']))}: {title}"): float(row[key])
        for row in rows
        for key, title in shares
        if not pd.isna(row[key])
    }


def _power_of_two(size: int) -> str:
    """`4 KiB`, `2 MiB`: page sizes are whole."""
    factor, unit = next((one for one in ((1 << 30, "GiB"), (1 << 20, "MiB")) if size >= one[0]), (1 << 10, "KiB"))
    return f"{size / factor:g} {unit}"


def column_titles() -> dict[str, str]:
    """Column key to what people call it."""
    known = {column.key: column.title for column in (*COUNTERS, *PARTS, *SUMMARY)}
    rates = {"decode_tokens_per_s": "decode speed", "prefill_tokens_per_s": "prefill speed"}
    return {**known, **rates, "dur_ns": "duration"}


def _setup(report: Report) -> dict[str, str]:
    run, host = report.run, report.run["host"]
    facts: dict[str, Any] = {
        "engine": run["engine"],
        "command": " ".join(run["command"]) if run["command"] else None,
        "model": _model(report),
        "kernel": host.get("kernel"),
        "CPU": host.get("cpu_model"),
        "CPUs": len(host["cpus_online"]) if isinstance(host.get("cpus_online"), list) else None,
        "governor": host.get("governors"),
        "transparent huge pages": host.get("thp_enabled"),
        "detail": run["detail"],
        "bitnet-trace": run["version"],
    }
    return {what: _text(value) for what, value in facts.items()}


def _text(value: Any) -> str:
    if value in (None, [], {}):
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(sorted({str(item) for item in value}))
    return str(value)


def _model(report: Report) -> str | None:
    """The model's file name: of the command line, else of the largest file ending in .gguf that was mapped."""
    command = report.run["command"] or []
    # -m is a module to Python
    told = [value for option, value in itertools.pairwise(command) if option in _MODEL_OPTIONS]
    named = [argument for argument in (*told, *command) if argument.endswith(".gguf")]
    if not named and command and not PurePath(command[0]).name.startswith("python"):
        named = told
    if named:
        return PurePath(named[0]).name
    maps = report.recording.maps
    models = maps[maps["path"].fillna("").str.endswith(".gguf")]
    return str(models.sort_values("length")["path"].iloc[-1]) if len(models) else None


def _warnings(report: Report) -> list[str]:
    state = report.health
    warnings = []
    if not state["complete"]:
        warnings.append("cut short or damaged")
    if state["lost"]:
        warnings.append("with lost events")
    return warnings

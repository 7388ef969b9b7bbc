"""What of a recording is compared with other recordings: its numbers by phase, and what it was made with."""

import itertools
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import pandas as pd

from bitnet_trace.analysis.fold import MAXIMA
from bitnet_trace.analysis.report import Report
from bitnet_trace.columns import COUNTERS, PARTS, SUMMARY

SPEED, TIME, COUNTS = "speed", "time", "counts"
# Of phases that take longer with more tokens, per token.
PER_TOKEN = ("prefill", "decode", "sample")
_SPEEDS = ("decode_tokens_per_s", "prefill_tokens_per_s", "ttft_ns", "tpot_ns", "load_ns")
_MODEL_OPTIONS = ("-m", "--model")

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Metrics:
    """Of one recording: `values[(family, phase, column key)]`, `setup[what]`, and {name: ns} of who ran instead."""

    path: str
    values: dict[Key, float]
    setup: dict[str, str]
    ran_instead: dict[str, int]
    warnings: list[str]


def metrics(report: Report) -> Metrics:
    """The metrics of one report. What is missing in it is missing here."""
    values: dict[Key, float] = {}
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
    foreign = report.ran_instead[report.ran_instead["own"] == "no"]
    instead: dict[str, int] = {}
    for comm, ns in zip(foreign["comm"], foreign["offcpu_ns"], strict=True):
        if isinstance(comm, str):
            instead[comm] = instead.get(comm, 0) + int(ns)
    return Metrics(str(report.recording.path), values, _setup(report), instead, _warnings(report))


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
    for option, value in itertools.pairwise(command):
        if option in _MODEL_OPTIONS:
            return PurePath(value).name
    named = [argument for argument in command if argument.endswith(".gguf")]
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

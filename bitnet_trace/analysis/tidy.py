"""A report's tables as plain columns, for files that other programs read."""

import json
from typing import Any

import pandas as pd

from bitnet_trace.analysis.report import Report
from bitnet_trace.columns import (
    COUNTERS,
    DURATIONS,
    FUNCTIONS,
    INSTEAD,
    PHASE_SUMS,
    PHASE_TIME,
    PHASES,
    ROLES,
    RUN_QUEUE,
    SPIN,
    TASKSTATS,
    THREADS,
    TOKEN_TIME,
    TOKENS,
    WAITS,
    Column,
)
from bitnet_trace.printable import printable

_TEXT_LIMIT = 4096


def tidy(report: Report) -> dict[str, pd.DataFrame]:
    """{name: table} with the names and columns of the JSON output; text is printable, nested values are JSON."""
    found = report.profile
    parts: dict[str, tuple[pd.DataFrame, tuple[Column, ...]] | None] = {
        "by_phase": (report.by_phase, (*PHASE_SUMS, *COUNTERS)),
        "by_thread": (report.by_thread, (*THREADS, *COUNTERS)),
        "phases": (report.phases, PHASES),
        "tokens": (report.tokens, TOKENS),
        "token_time": (report.token_time, TOKEN_TIME),
        "phase_time": (report.phase_time, PHASE_TIME),
        "run_queue": (report.run_queue, RUN_QUEUE),
        "waits": (report.waits, WAITS),
        "ran_instead": (report.ran_instead, INSTEAD),
        "taskstats": (report.taskstats, TASKSTATS),
        "durations": (report.durations, DURATIONS),
        "functions": None if found is None else (found.functions, FUNCTIONS),
        "roles": None if found is None else (found.roles, ROLES),
        "spin": None if found is None else (found.spin, SPIN),
    }
    return {name: _plain(*part) for name, part in parts.items() if part is not None}


def _plain(table: pd.DataFrame, columns: tuple[Column, ...]) -> pd.DataFrame:
    return pd.DataFrame({column.key: _column(table[column.key], column) for column in columns})


def _column(values: "pd.Series[Any]", column: Column) -> "pd.Series[Any]":
    values = values.reset_index(drop=True)
    if column.format == "text":
        return pd.Series([_text(value) for value in values], dtype="string")
    is_whole = column.whole and column.format not in ("pct", "rate")
    return values.astype("Int64" if is_whole else "Float64")


def _text(value: Any) -> str | None:
    if isinstance(value, dict):
        return json.dumps(value)
    return None if pd.isna(value) else printable(str(value), _TEXT_LIMIT)

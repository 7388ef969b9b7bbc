"""What the trials of each way come to: means with intervals, in the order of speed."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from bitnet_trace.columns import LOADLAB
from bitnet_trace.loadlab.trials import Trial

_CONFIDENCE = 0.95
_PER_GB = ("faults_minor", "faults_major", "switches", "calls", "submitted")


def table(trials: Iterable[Trial], size_bytes: int) -> pd.DataFrame:
    """columns.LOADLAB: a row per state and way, fastest first; ways that cannot be done here last."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.state, trial.way), []).append(trial)
    rows = [_row(state, way, done, size_bytes) for (state, way), done in groups.items()]
    frame = pd.DataFrame(rows, columns=[column.key for column in LOADLAB])
    frame["like_first"] = frame["like_first"].astype(object)
    frame = frame.sort_values(["state", "seconds_mean"], na_position="last", kind="stable").reset_index(drop=True)
    for state in frame["state"].unique():
        measured = frame[(frame["state"] == state) & frame["seconds_mean"].notna()]
        frame.loc[measured.index, "rank"] = range(1, len(measured) + 1)
        if len(measured):
            best = measured.iloc[0]
            same = (measured["seconds_low"] <= best["seconds_high"]).fillna(True)
            frame.loc[measured.index, "like_first"] = ["yes" if one else "no" for one in same]
    return frame


def mean_interval(values: list[float]) -> tuple[float, float | None, float | None]:
    """Mean and its 95 % interval by Student's t; no interval of fewer than two."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None, None
    from scipy import stats  # 0.5 s to import

    variance = sum((one - mean) ** 2 for one in values) / (len(values) - 1)
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)) * math.sqrt(variance / len(values))
    return mean, max(mean - half, 0.0), mean + half


def _row(state: str, way: str, trials: list[Trial], size_bytes: int) -> dict[str, Any]:
    seconds = [trial.seconds_ns / 1e9 for trial in trials if trial.seconds_ns is not None]
    reasons = [trial.reason for trial in trials if trial.reason is not None]
    row: dict[str, Any] = {"state": state, "way": way, "n": len(seconds), "reason": reasons[0] if reasons else None}
    if not seconds:
        return row
    mean, low, high = mean_interval(seconds)
    gigabytes = size_bytes / 1e9
    row.update(seconds_mean=mean, seconds_low=low, seconds_high=high, gb_per_s=gigabytes / mean)
    row["cpu_s"] = _mean(trial.cpu_ns for trial in trials) / 1e9
    for name in _PER_GB:
        row[f"{name}_per_gb"] = _mean(getattr(trial, name) for trial in trials) / gigabytes
    cached = [trial.cached_pct for trial in trials if trial.cached_pct is not None]
    row["cached_pct"] = sum(cached) / len(cached) if cached else None
    row["checksum"] = next((trial.checksum for trial in trials if trial.checksum is not None), None)
    return row


def _mean(values: Iterable[int | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present)

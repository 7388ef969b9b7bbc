"""How long calls of functions take, as bursts timed them."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis import intervals
from bitnet_trace.analysis.phases import names_of
from bitnet_trace.columns import DURATIONS
from bitnet_trace.recording.reader import Recording

_EXACT, _PER_DOUBLING_LOG2 = 8, 3  # bpf/kernel.bpf.c: duration_bucket()
_MOST_BUCKETS = 62 << _PER_DOUBLING_LOG2  # of 64 bits


def durations(recording: Recording, phases: pd.DataFrame) -> pd.DataFrame:
    """A row per function and phase name, columns.DURATIONS, most time first; `phases` has names.

    What a probe takes is taken off each call: the trap that begins the time and the one that ends it are one hit of the
    entry's class together. The mean's 95 % interval is that of bursts as they came (calls within one are alike), `-`
    with a single burst.
    """
    rows = recording.durations
    rows = rows[(rows["calls"] > 0) & (rows["bucket"] < _MOST_BUCKETS)]
    probes = recording.meta.get("probes", [])
    hit_ns = recording.meta.get("cost", {}).get("around_ns", {})
    named = rows.assign(name=names_of(rows["phase"].to_numpy(dtype=np.int64), phases))
    found = []
    for (number, name), group in named.groupby(["probe", "name"], sort=False):
        row = int(str(number))
        probe = probes[row] if row < len(probes) else {}
        if isinstance(probe.get("symbol"), str):
            probe_ns = int(hit_ns.get(probe.get("cost_class"), 0))
            found.append({"function": probe["symbol"], "phase": name, **_figures(group, probe_ns)})
    table = pd.DataFrame(found, columns=[column.key for column in DURATIONS])
    order = (table["mean_ns"] * table["calls"]).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _figures(group: pd.DataFrame, probe_ns: int) -> dict[str, Any]:
    calls, total_ns = group["calls"].to_numpy(dtype=float), group["total_ns"].to_numpy(dtype=float)
    n = calls.sum()
    mean_ns = total_ns.sum() / n
    half = _half_width(pd.Series(total_ns - mean_ns * calls).groupby(group["begin_ns"].to_numpy()).sum(), n)
    by_bucket = group.groupby("bucket")["calls"].sum()
    buckets = by_bucket.index.to_numpy(dtype=np.int64)
    edges = np.maximum(np.array([_edges(int(bucket)) for bucket in buckets]) - probe_ns, 0)
    counts = by_bucket.to_numpy(dtype=np.int64)
    quantiles = {f"p{q}_ns": round(_quantile(edges, counts, q / 100)) for q in (50, 90, 99)}
    return {
        "bursts": group["begin_ns"].nunique(),
        "calls": int(n),
        "mean_ns": round(max(mean_ns - probe_ns, 0)),
        "mean_low_ns": pd.NA if half is None else round(max(mean_ns - probe_ns - half, 0)),
        "mean_high_ns": pd.NA if half is None else round(max(mean_ns - probe_ns + half, 0)),
        **quantiles,
        "probe_ns": probe_ns,
        "histogram": {str(round(low)): int(count) for (low, _), count in zip(edges, counts, strict=True)},
    }


def _half_width(residuals: "pd.Series[float]", n: float) -> float | None:
    """Of the 95 % interval of a mean of n calls in bursts, by Student's t; None for a single burst.

    `residuals`: by burst, what its calls took together beyond the mean (a ratio estimate of clusters: Cochran, Sampling
    Techniques, ch. 9A).
    """
    k = len(residuals)
    if k < 2:
        return None
    error = math.sqrt(float((residuals**2).sum()) * k / (k - 1)) / n
    return intervals.t_quantile(k - 1, 0.95) * error


def _edges(bucket: int) -> tuple[int, int]:
    """From how many ns to how many (that excluded) the calls of a bucket took."""
    if bucket < _EXACT:
        return bucket, bucket + 1
    shift = (bucket >> _PER_DOUBLING_LOG2) - 1
    low = _EXACT + (bucket & (_EXACT - 1))
    return low << shift, (low + 1) << shift


def _quantile(edges: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], share: float) -> float:
    """Of calls that lie evenly within their buckets."""
    behind = np.cumsum(counts)
    at = int(np.searchsorted(behind, share * behind[-1]))
    low, high = edges[at]
    return float(low + (high - low) * (share * behind[-1] - (behind[at] - counts[at])) / counts[at])

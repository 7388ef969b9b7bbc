"""What a report says of barriers: tables by phase and by thread, who was late and why, and spinning from samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.analysis.barriers import WITH_BARRIERS, Barriers, windows_read
from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.lateness import CAUSES
from bitnet_trace.analysis.names import ThreadNames
from bitnet_trace.analysis.profile import Profile
from bitnet_trace.analysis.waits import reason_name
from bitnet_trace.columns import BARRIER_PHASES, BARRIER_THREADS, STRAGGLERS, Column
from bitnet_trace.recording.meta import count
from bitnet_trace.recording.reader import Recording

# The phases in which threads meet at barriers; of other names there are no calls.
_NAMES = ("warmup", "prefill", "decode")
_MAX_LATE_THREADS = 256
_NO_WINDOW = "no window was opened in this recording"
_NOTHING_SEEN = "no whole decode call with a barrier fell in a window"


@dataclass(frozen=True)
class BarrierReport:
    """Tables have the columns of columns/: `by_phase` BARRIER_PHASES, `by_thread` BARRIER_THREADS (most waiting
    first), `stragglers` STRAGGLERS (most lateness first). `late_by_call`: a row per call seen, index the phase's id, a
    column per tid (of the latest ones): ns for which only that thread was missing. `summary`: the rest of JSON's
    `barriers`.
    """

    summary: dict[str, Any]
    by_phase: pd.DataFrame
    by_thread: pd.DataFrame
    stragglers: pd.DataFrame
    late_by_call: pd.DataFrame


def barrier_report(
    recording: Recording, phases: pd.DataFrame, barriers: Barriers, profile: Profile | None, names: ThreadNames
) -> BarrierReport:
    """`phases` is named and has dur_ns (tables.with_durations)."""
    counting = recording.meta.get("options", {}).get("detail") == "counts"
    name_of = phases.drop_duplicates("id").set_index("id")["name"].astype(object)
    instances = barriers.instances.assign(name=name_of.reindex(barriers.instances["phase"]).to_numpy())
    arrivals = barriers.arrivals.assign(name=name_of.reindex(barriers.arrivals["phase"]).to_numpy())
    calls = phases[phases["id"].isin(barriers.calls["id"])]
    spinning = _Spinning(recording, profile, name_of)
    parts = barriers.parts.assign(
        name=name_of.reindex(barriers.parts["id"]).to_numpy(),
        dur_ns=(barriers.parts["end_ns"] - barriers.parts["begin_ns"]).astype(np.int64),
    )
    seen = pd.concat([calls[["id", "name", "dur_ns"]], parts[["id", "name", "dur_ns"]]]) if len(parts) else calls
    by_phase = _by_phase(phases, calls, parts, instances, arrivals, spinning)
    late = instances[instances["late_ns"] > 0]
    # a column for each that may be the straggler: a damaged recording may have any number of threads
    latest = late.groupby("last_tid")["late_ns"].sum().nlargest(_MAX_LATE_THREADS).index
    late_by_call = (
        late[late["last_tid"].isin(latest)]
        .pivot_table(index="phase", columns="last_tid", values="late_ns", aggfunc="sum", fill_value=0)
        .reindex(calls["id"].astype(np.int64), fill_value=0)
    )
    return BarrierReport(
        summary=_summary(recording, by_phase, barriers, spinning),
        by_phase=by_phase,
        by_thread=_by_thread(seen, late, arrivals, spinning, names, counting),
        stragglers=_stragglers(seen, late, names, counting),
        late_by_call=late_by_call,
    )


def _summary(recording: Recording, by_phase: pd.DataFrame, barriers: Barriers, spinning: "_Spinning") -> dict[str, Any]:
    meta = recording.meta.get("windows")
    meta = meta if isinstance(meta, dict) else {}
    windows = recording.windows[recording.windows["what"].isin(WITH_BARRIERS)]
    skews = Distribution()
    skews.add(barriers.instances["skew_ns"].to_numpy(dtype=np.int64))
    decode = by_phase[by_phase["phase"] == "decode"]
    seen = len(barriers.calls) + len(barriers.parts)
    reason = meta.get("reason")
    if not len(windows):
        reason = reason if isinstance(reason, str) else _NO_WINDOW
    else:
        reason = None if seen else _NOTHING_SEEN
    one = decode.iloc[0] if len(decode) else None
    return {
        "reason": reason,
        "count": len(barriers.instances) if seen else None,
        "entries": len(barriers.arrivals) if seen else None,
        "calls_seen": len(barriers.calls),
        "parts_seen": len(barriers.parts),
        "calls_uneven": barriers.n_uneven,
        "calls_disordered": barriers.n_disordered,
        "parts_unplaced": barriers.n_unplaced,
        "tokens_seen": 0 if one is None else int(one["calls_seen"]),
        "per_token": None if one is None or pd.isna(one["per_call"]) else float(one["per_call"]),
        "count_estimate": _sum_or_none(by_phase["count_estimate"]),
        "skew_ns": skews.quantiles(),
        "spin_pct": spinning.share(None, None),
        "windows": {
            "n": len(windows),
            "read": len(windows_read(windows)),
            "hits": int(windows["hits"].sum()) if len(windows) else 0,
            "cost_ns": int(windows["cost_ns"].sum()) if len(windows) else 0,
            "budget_pct": meta.get("budget_pct"),
            "spent_ns": count(meta.get("spent_ns")),
        },
        "how": {
            "count": "counted",
            "per_token": "counted",
            "count_estimate": "estimated",
            "waits": "derived",
            "lateness": "derived",
            "spin_pct": "sampled",
        },
    }


def _by_phase(
    phases: pd.DataFrame,
    calls: pd.DataFrame,
    parts: pd.DataFrame,
    instances: pd.DataFrame,
    arrivals: pd.DataFrame,
    spinning: "_Spinning",
) -> pd.DataFrame:
    rows = []
    for name in _NAMES:
        n_calls = int((phases["name"] == name).sum())
        if not n_calls:
            continue
        seen, own = calls[calls["name"] == name], instances[instances["name"] == name]
        of_parts = parts[parts["name"] == name]
        any_seen, whole = len(seen) + len(of_parts) > 0, int(own["phase"].isin(seen["id"]).sum())
        dur_ns = int(seen["dur_ns"].sum()) + int(of_parts["dur_ns"].sum())
        wait_ns = int(arrivals.loc[arrivals["name"] == name, "wait_ns"].sum())
        n_threads = int(arrivals.loc[arrivals["name"] == name, "tid"].nunique())
        skews = Distribution()
        skews.add(own["skew_ns"].to_numpy(dtype=np.int64))
        quantiles = skews.quantiles() or {}
        rows.append(
            {
                "phase": name,
                "calls": n_calls,
                "calls_seen": len(seen),
                "parts_seen": len(of_parts),
                "count": len(own) if any_seen else pd.NA,
                "per_call": whole / len(seen) if len(seen) else pd.NA,
                "count_estimate": round(whole / len(seen) * n_calls) if len(seen) else pd.NA,
                "threads": n_threads if any_seen else pd.NA,
                "wait_ns": wait_ns if any_seen else pd.NA,
                "wait_pct": 100 * wait_ns / (dur_ns * n_threads) if dur_ns and n_threads else pd.NA,
                **{f"skew_{key}_ns": quantiles.get(key, pd.NA) for key in ("p50", "p90", "max")},
                "spin_pct": spinning.share(None, name),
            }
        )
    return _typed(rows, BARRIER_PHASES)


def _by_thread(
    calls: pd.DataFrame,
    late: pd.DataFrame,
    arrivals: pd.DataFrame,
    spinning: "_Spinning",
    names: ThreadNames,
    counting: bool,
) -> pd.DataFrame:
    dur_ns = int(calls["dur_ns"].sum())
    waits = arrivals.groupby("tid")["wait_ns"].agg(["size", "sum"])
    lateness = late.groupby("last_tid")[["late_ns", *CAUSES]].sum()
    last = late.groupby("last_tid").size()
    rows = []
    for tid, n, wait_ns in zip(waits.index.tolist(), waits["size"].tolist(), waits["sum"].tolist(), strict=True):
        own = lateness.loc[tid] if tid in lateness.index else None
        causes = {} if own is None else {cause: int(own[cause]) for cause in CAUSES if own[cause]}
        rows.append(
            {
                "tid": tid,
                "comm": names.of(tid),
                "instances": n,
                "wait_ns": wait_ns,
                "wait_pct": 100 * wait_ns / dur_ns if dur_ns else pd.NA,
                "last_arrivals": int(last.get(tid, 0)),
                "late_ns": 0 if own is None else int(own["late_ns"]),
                "causes": None if counting else causes,
                "spin_pct": spinning.share(tid, None),
            }
        )
    rows.sort(key=lambda row: -int(row["wait_ns"]))
    return _typed(rows, BARRIER_THREADS)


def _stragglers(calls: pd.DataFrame, late: pd.DataFrame, names: ThreadNames, counting: bool) -> pd.DataFrame:
    dur_ns = {str(name): int(ns) for name, ns in calls.groupby("name")["dur_ns"].sum().items()}
    if counting:
        late = late.assign(cause=None)
    keys = ["name", "last_tid", "cause", "by_tid", "by_reason"]
    sums = late.groupby(keys, dropna=False)["late_ns"].agg(["size", "sum"]).reset_index()
    rows = []
    for name, tid, cause, by_tid, by_reason, times, late_ns in sums.itertuples(index=False):
        whole_ns = dur_ns.get(str(name), 0)
        rows.append(
            {
                "phase": name,
                "tid": tid,
                "comm": names.of(tid),
                "cause": cause if isinstance(cause, str) else None,
                "by": _by(cause, int(by_tid), int(by_reason), names),
                "times": times,
                "late_ns": late_ns,
                "late_pct": 100 * late_ns / whole_ns if whole_ns else pd.NA,
            }
        )
    rows.sort(key=lambda row: -int(row["late_ns"]))
    return _typed(rows, STRAGGLERS)


def _by(cause: object, tid: int, reason: int, names: ThreadNames) -> str | None:
    if cause == "preempted" and tid >= 0:
        return names.described(tid)
    return reason_name(reason) if cause == "asleep" and reason >= 0 else None


class _Spinning:
    """Shares of timer samples that spin, in the phases in which threads meet at barriers."""

    def __init__(self, recording: Recording, profile: Profile | None, name_of: "pd.Series[str]") -> None:
        self._samples = pd.DataFrame({"tid": [], "phase": [], "n": [], "spinning": []})
        if profile is None:
            return
        samples = recording.samples[recording.samples["reason"] == 0]
        phase = name_of.reindex(samples["phase"].to_numpy(dtype=np.int64)).to_numpy()
        each = pd.DataFrame({"tid": samples["tid"].to_numpy(dtype=np.int64), "phase": phase})
        n = each[each["phase"].isin(_NAMES)].groupby(["tid", "phase"]).size().rename("n").reset_index()
        spun = profile.spin.assign(spinning=profile.spin["samples"] * profile.spin["spin_pct"] / 100)
        self._samples = n.merge(spun[["tid", "phase", "spinning"]], on=["tid", "phase"], how="left").fillna(0)

    def share(self, tid: int | None, phase: str | None) -> float | None:
        """Percent of the samples of a thread (None: all) in a phase (None: all of them); None without samples."""
        table = self._samples
        if tid is not None:
            table = table[table["tid"] == tid]
        if phase is not None:
            table = table[table["phase"] == phase]
        n = float(table["n"].sum())
        return 100 * float(table["spinning"].sum()) / n if n else None


def _typed(rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> pd.DataFrame:
    # names of other programs may hold bytes that are no text, which only Python's own strings take
    table = pd.DataFrame(rows, columns=[column.key for column in columns], dtype=object)
    for column in columns:
        if column.key == "tid" or column.format in ("ns", "count"):
            table[column.key] = table[column.key].astype("Int64")
        elif column.format in ("number", "pct"):
            table[column.key] = table[column.key].astype("Float64")
    return table


def _sum_or_none(values: "pd.Series[Any]") -> int | None:
    return int(values.sum()) if values.notna().any() else None

"""Operations of the engine's graph, of decode calls that lie wholly in a window: what each thread spent on each node.

A thread begins its part of a node, works, and waits at the barrier behind it (in matrix products also at one within)
until all have come. Its part lasts until it came to the last of those, less what it waited at the ones before; where it
came to none, until it began the next node.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.analysis.barriers import Barriers, among, calls_in_windows
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.names import ThreadNames
from bitnet_trace.analysis.split import as_time
from bitnet_trace.columns import OPERATION_SUMS
from bitnet_trace.recording.layout import EVENT_DTYPE, Kind
from bitnet_trace.recording.meta import count
from bitnet_trace.recording.reader import Recording

WHAT = "operations"
_NO_WINDOW = "no window was opened in this recording"
_NOTHING_SEEN = "no whole decode call fell in a window"
_MAX_TENSORS = 4096
# llama.cpp's names: of weights ("blk.3.ffn_up.weight"), of nodes ("ffn_out-3", "Qcur-3 (reshaped)", "cache_k_l3")
_LAYERS = (re.compile(r"^blk\.(\d{1,5})\."), re.compile(r"-(\d{1,5})(?: \(|$)"), re.compile(r"_l(\d{1,5})(?: \(|$)"))


@dataclass(frozen=True)
class OperationReport:
    """Times of operations by what: tables with the keys `phase` and `op`, `layer`, `tensor`, or `tid`, `comm` and `op`,
    and columns.OPERATION_SUMS; most time first. `summary`: the rest of JSON's `operations`."""

    summary: dict[str, Any]
    by_op: pd.DataFrame
    by_layer: pd.DataFrame
    by_tensor: pd.DataFrame
    by_thread: pd.DataFrame


class OperationEvents:
    """The operations of calls that lie wholly in a window, gathered batch by batch."""

    def __init__(self, windows: pd.DataFrame, phases: pd.DataFrame) -> None:
        """As BarrierEvents."""
        self.calls = calls_in_windows(windows[windows["what"] == WHAT], phases)
        self._ids = np.sort(self.calls["id"].to_numpy(dtype=np.int64))
        self._events = [np.empty(0, EVENT_DTYPE)]

    def add(self, events: ByKind) -> None:
        if len(self._ids):
            rows = events.of(Kind.OPERATION)
            self._events.append(rows[among(rows["phase"].astype(np.int64), self._ids)])

    def parts(self, barriers: Barriers) -> pd.DataFrame:
        """A row per thread and node of a call: phase, pid, tid, ts_ns, op (its number), tensor and source (addresses),
        time_ns, wait_ns (NA where the call's barriers are not known: the time is with waits then)."""
        events = np.concatenate(self._events)
        table = pd.DataFrame(
            {
                "phase": events["phase"].astype(np.int64),
                "tid": events["tid"].astype(np.int64),
                "ts_ns": as_time(events["ts_ns"]),
                "op": events["arg0"].astype(np.int64),
                "tensor": events["arg1"],
                "source": events["arg2"],
            }
        ).sort_values(["phase", "tid", "ts_ns"], kind="stable", ignore_index=True)
        keys = ["phase", "tid"]
        again = (table[[*keys, "tensor"]] == table[[*keys, "tensor"]].shift()).all(axis=1)
        table = table[~again].reset_index(drop=True)
        calls = self.calls.drop_duplicates("id").set_index("id")
        table["pid"] = calls["pid"].reindex(table["phase"]).to_numpy(dtype=np.int64)
        arrivals = barriers.arrivals[barriers.arrivals["phase"].isin(self._ids)]
        following = table.groupby(keys)["ts_ns"].shift(-1).astype("Int64")
        call_end = pd.Series(calls["end_ns"].astype("Int64").reindex(table["phase"]).to_numpy(), index=table.index)
        met = _met(table, arrivals)
        end_ns = met["end_ns"].fillna(following).fillna(call_end.astype("Int64"))
        table["wait_ns"] = met["wait_ns"].where(table["phase"].isin(arrivals["phase"]))
        table["time_ns"] = (end_ns - table["ts_ns"] - met["inner_ns"]).clip(lower=0).astype(np.int64)
        return table


def _met(table: pd.DataFrame, arrivals: pd.DataFrame) -> pd.DataFrame:
    """For each part: end_ns, its last arrival at a barrier (NA: it came to none), wait_ns there and at those before,
    and inner_ns, at those before alone."""
    result = pd.DataFrame({"end_ns": pd.NA, "wait_ns": 0, "inner_ns": 0}, index=table.index).astype("Int64")
    if not len(arrivals) or not len(table):
        return result
    parts = table.reset_index().sort_values("ts_ns")[["ts_ns", "phase", "tid", "index"]]
    met = arrivals.sort_values("arrival_ns")[["arrival_ns", "phase", "tid", "wait_ns"]]
    found = pd.merge_asof(met, parts, left_on="arrival_ns", right_on="ts_ns", by=["phase", "tid"]).dropna(
        subset="index"
    )
    groups = found.groupby(found["index"].astype(np.int64))
    last = groups.last()
    result.loc[last.index, "end_ns"] = last["arrival_ns"].astype("Int64")
    result.loc[last.index, "wait_ns"] = groups["wait_ns"].sum().astype("Int64")
    result["inner_ns"] = result["wait_ns"]
    result.loc[last.index, "inner_ns"] -= last["wait_ns"].astype("Int64")
    return result


# ---- what they are called, and tables -------------------------------------------------------------------------------


def operation_report(
    recording: Recording, phases: pd.DataFrame, events: OperationEvents, barriers: Barriers, names: ThreadNames
) -> OperationReport | None:
    """`phases` is named. None where operations were not asked for."""
    if recording.meta.get("options", {}).get("detail") != "ops":
        return None
    parts = _named(events.parts(barriers), recording)
    name_of = phases.drop_duplicates("id").set_index("id")["name"].astype(object)
    parts["name"] = name_of.reindex(parts["phase"]).to_numpy()
    parts = parts[parts["name"].notna()]
    calls = parts.groupby("name")["phase"].nunique()
    tables = {key: _sums(parts, [key], calls) for key in ("op", "layer", "tensor_name")}
    by_thread = _sums(parts, ["tid", "op"], calls)
    by_thread.insert(2, "comm", [names.of(int(tid)) for tid in by_thread["tid"]])
    return OperationReport(
        summary=_summary(recording, parts, calls),
        by_op=tables["op"],
        by_layer=tables["layer"],
        by_tensor=tables["tensor_name"].rename(columns={"tensor_name": "tensor"}).head(_MAX_TENSORS),
        by_thread=by_thread,
    )


def _summary(recording: Recording, parts: pd.DataFrame, calls: "pd.Series[Any]") -> dict[str, Any]:
    windows = recording.windows[recording.windows["what"] == WHAT]
    meta = _meta(recording)
    reason, layout = meta.get("reason"), meta.get("layout")
    if len(windows):
        reason = None if len(parts) else _NOTHING_SEEN
    elif not isinstance(reason, str):
        reason = _NO_WINDOW
    return {
        "reason": reason,
        "calls_seen": {str(name): int(n) for name, n in calls.items()},
        "unnamed": int(parts["tensor_name"].isna().sum()),
        "waits_known": bool(parts["wait_ns"].notna().all()) if len(parts) else None,
        "layout": layout if isinstance(layout, str) else None,
        "windows": {"n": len(windows), "spent_ns": count(meta.get("spent_ns"))},
        "how": {"time_ns": "derived", "nodes": "counted"},
    }


def _meta(recording: Recording) -> dict[str, Any]:
    found = recording.meta.get("windows", {}).get("operations")
    return found if isinstance(found, dict) else {}


def _named(parts: pd.DataFrame, recording: Recording) -> pd.DataFrame:
    """Adds op as text, tensor_name (of the weights that are multiplied by, else the node's own) and layer."""
    known = _meta(recording).get("names")
    by_pid = known if isinstance(known, dict) else {}
    texts = {
        (pid, op): _operation(by_pid.get(str(pid)), op)
        for pid, op in set(zip(parts["pid"].tolist(), parts["op"].tolist(), strict=True))
    }
    ops = [texts[pair] for pair in zip(parts["pid"].tolist(), parts["op"].tolist(), strict=True)]
    own, source = (_tensor_names(parts, key, recording.graph_tensors) for key in ("tensor", "source"))
    weights = source.where(source.str.endswith(".weight").fillna(False))
    # a view or a norm of weights is no use of the matrix
    multiplied = pd.Series(ops, index=parts.index).str.startswith(("MUL_MAT", "GET_ROWS", "OUT_PROD"))
    name = weights.where(multiplied).fillna(own)
    layers = {text: _layer(text) for text in pd.concat([weights, own]).dropna().unique()}
    layer = weights.map(layers).astype("Int64").fillna(own.map(layers).astype("Int64"))
    return parts.assign(op=ops, tensor_name=name, layer=layer)


def _operation(names: Any, number: int) -> str:
    name = names[number] if isinstance(names, list) and number < len(names) else None
    return name if isinstance(name, str) else f"operation {number}"


def _layer(name: str) -> int | None:
    found = next((match for pattern in _LAYERS if (match := pattern.search(name))), None)
    return int(found[1]) if found else None


def _tensor_names(parts: pd.DataFrame, key: str, told: pd.DataFrame) -> "pd.Series[Any]":
    """What the tensors at addresses were called when the parts began; NA where nothing was told."""
    if not len(parts) or not len(told):
        return pd.Series(pd.NA, index=parts.index, dtype="string")
    left = parts.reset_index()[["index", "ts_ns", "pid", key]].rename(columns={key: "address"}).sort_values("ts_ns")
    right = told.astype({"pid": np.int64, "ts_ns": np.int64, "address": np.uint64}).sort_values("ts_ns")
    found = pd.merge_asof(left, right, on="ts_ns", by=["pid", "address"])
    return found.set_index("index")["name"].astype("string").reindex(parts.index)


def _sums(parts: pd.DataFrame, keys: list[str], calls: "pd.Series[Any]") -> pd.DataFrame:
    """Sums by phase name and keys, those of rows where all keys are known; with the columns of OPERATION_SUMS."""
    known = parts.dropna(subset=keys)
    groups = known.groupby(["name", *keys], sort=False)
    table = groups.agg(
        time_ns=("time_ns", "sum"),
        wait_ns=("wait_ns", lambda waits: waits.sum(min_count=1)),
        threads=("tid", "nunique"),
    )
    nodes = known.drop_duplicates(["phase", "tensor", "op", *keys]).groupby(["name", *keys], sort=False).size()
    table = table.assign(nodes=nodes).reset_index()
    n_calls = table["name"].map(calls).astype(float)
    whole_ns = table["name"].map(parts.groupby("name")["time_ns"].sum()).astype(float)
    table["nodes_a_call"] = table["nodes"] / n_calls
    table["call_ns"] = table["time_ns"] / n_calls
    table["time_pct"] = 100 * table["time_ns"] / whole_ns.where(whole_ns > 0)
    table = table.rename(columns={"name": "phase"}).sort_values("time_ns", ascending=False, ignore_index=True)
    for column in OPERATION_SUMS:
        values = table[column.key].astype("Float64")
        table[column.key] = values if column.format in ("pct", "number") else values.round().astype("Int64")
    return table[["phase", *keys, *(column.key for column in OPERATION_SUMS)]]

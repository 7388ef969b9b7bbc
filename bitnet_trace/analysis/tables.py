"""Tables of a report: counters summed by phase name, by thread and by engine call.

Inputs are the counters of analysis/fold.py (index (phase, tid), int64 columns; or Sums, what such tables are made
of) and named phases (`name_phases`). Outputs have the columns of columns/; numbers are pandas Int64, a missing one is
pd.NA.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.analysis.phases import PHASE_NAMES, UNKNOWN
from bitnet_trace.analysis.sums import MAXIMA, Sums, to_int
from bitnet_trace.columns import COUNTERS, TOKENS, Column
from bitnet_trace.recording.layout import COUNTER_FIELDS
from bitnet_trace.recording.phase_log import CALL_ROLES

# A thread computes when it was on the CPU for this share of the time of prefill and decode.
COMPUTE_MIN_SHARE = 0.01

# names that the kernel gives to io_uring's workers and polling threads
IO_URING_COMMS = ("iou-wrk-", "iou-sqp-")
ENGINE_CALL_NAMES = ("prefill", "decode")
_CALL_FIELDS = [
    *("cpu_ns", "faults_user_minor", "faults_user_major", "faults_kernel_minor", "faults_kernel_major"),
    *("switches_voluntary", "switches_involuntary", "runq_wait_ns", "futex_wait_ns"),
]


def with_durations(phases: pd.DataFrame, start_ns: int, end_ns: int) -> pd.DataFrame:
    """Named phases with `start_ns` since the recording's `start_ns`, `dur_ns`, and `complete`.

    A phase that is open still (its `complete` is False) lasts until `end_ns`.
    """
    begin = phases["begin_ns"].astype("Int64")
    until = phases["end_ns"].astype("Int64").fillna(end_ns)
    return phases.assign(
        start_ns=begin - start_ns, dur_ns=(until - begin).clip(lower=0), complete=phases["end_ns"].notna()
    )


def condensed(sums: Sums, phases: pd.DataFrame) -> pd.DataFrame:
    """Counters with those of all phases of one name and process added up in one of them.

    Sums by name, process and thread are the same of it as of all counters, of which there may be millions.
    """
    known = phases.drop_duplicates("id", keep="last")
    first = known.groupby(["name", "pid"], sort=False)["id"].transform("first").to_numpy(dtype=np.int64)
    return sums.called(known["id"].to_numpy(dtype=np.int64), first).table()


def engine_pids(phases: pd.DataFrame) -> set[int]:
    """Processes that called the engine; all of them when none did."""
    callers = phases.loc[phases["role"].isin(CALL_ROLES), "pid"]
    return {int(pid) for pid in (callers if len(callers) else phases["pid"])}


def by_phase(counters: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """One row per phase name: phase, n, dur_ns and columns.COUNTERS, in the order of an inference.

    `n` and `dur_ns` are of the processes that called the engine; counters are of all, so they add up to `total`.
    `phases` needs `dur_ns` (with_durations).
    """
    located = _located(counters, phases)
    public = public_counters(_sums_by(counters, located[["name"]]))
    public.index = public.index.astype("string")
    of_engine = phases[phases["pid"].isin(engine_pids(phases))]
    spans = of_engine.groupby("name")["dur_ns"].agg(["size", "sum"])
    order = [name for name in (*PHASE_NAMES, UNKNOWN) if name in spans.index or name in public.index]
    table = public.reindex(order)
    summed = [column.key for column in COUNTERS if column.measured and column.key not in MAXIMA]
    table[summed] = table[summed].fillna(0)
    table.insert(0, "phase", pd.Series(order, index=order, dtype="string"))
    table.insert(1, "n", spans["size"].reindex(order).fillna(0).astype("Int64"))
    table.insert(2, "dur_ns", spans["sum"].reindex(order).fillna(0).astype("Int64"))
    return table.reset_index(drop=True)


def total(counters: pd.DataFrame) -> pd.DataFrame:
    """One row: columns.COUNTERS over everything that was recorded."""
    together = pd.DataFrame({"all": np.zeros(len(counters), np.int64)})
    return public_counters(_sums_by(counters, together).reindex([0], fill_value=0)).reset_index(drop=True)


def by_thread(counters: pd.DataFrame, phases: pd.DataFrame, threads: pd.DataFrame) -> pd.DataFrame:
    """One row per thread: pid, tid, comm, role and columns.COUNTERS, busiest first.

    Peak memory is a process's, so it is missing here. `role` is "main" (made decode calls), "compute" (ran at least
    COMPUTE_MIN_SHARE of the time of its process's prefill and decode), "io_uring" (a kernel thread that makes or polls
    for its requests) or "other".
    """
    located = _located(counters, phases)
    sums = _sums_by(counters, located[["pid", "tid"]])
    public = public_counters(sums)
    public["rss_peak_bytes"] = pd.array([pd.NA] * len(public), dtype="Int64")
    keys = _pairs(sums.index.get_level_values("pid"), sums.index.get_level_values("tid"))
    comms: dict[tuple[int, int], Any] = dict(zip(_pairs(threads["pid"], threads["tid"]), threads["comm"], strict=True))
    who = {
        "pid": pd.array([pid for pid, _ in keys], dtype="Int64"),
        "tid": pd.array([tid for _, tid in keys], dtype="Int64"),
        "comm": pd.array([comms.get(key) for key in keys], dtype="string"),
        "role": pd.array(
            _roles(located.assign(cpu_ns=counters["cpu_ns"].to_numpy()), phases, keys, comms), dtype="string"
        ),
    }
    table = pd.concat([pd.DataFrame(who, index=public.index), public], axis=1)
    return table.sort_values("cpu_ns", ascending=False, kind="stable").reset_index(drop=True)


def thread_sums(counters: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """layout.COUNTER_FIELDS summed by thread: index (pid, tid)."""
    return _sums_by(counters, _located(counters, phases)[["pid", "tid"]])


def tokens(counters: Sums, phases: pd.DataFrame) -> pd.DataFrame:
    """One row per prefill or decode call, in order of begin: columns.TOKENS."""
    calls = phases[phases["name"].isin(ENGINE_CALL_NAMES)].reset_index(drop=True)
    sums = counters.of_phases(calls["id"].to_numpy(dtype=np.int64), _CALL_FIELDS).astype("Int64")
    fault_columns = ["faults_user_minor", "faults_user_major", "faults_kernel_minor", "faults_kernel_major"]
    table = pd.DataFrame(
        {
            "phase_id": calls["id"],
            "name": calls["name"],
            "token": calls["token"],
            "n_tokens": calls["n_tokens"],
            "n_sampled": calls["n_sampled"],
            "start_ns": calls["start_ns"],
            "dur_ns": calls["dur_ns"],
            "cpu_ns": sums["cpu_ns"],
            "faults": sums[fault_columns].sum(axis=1),
            "switches": sums["switches_voluntary"] + sums["switches_involuntary"],
            "runq_wait_ns": sums["runq_wait_ns"],
            "futex_wait_ns": sums["futex_wait_ns"],
        }
    )
    return table[[column.key for column in TOKENS]]


def public_counters(sums: pd.DataFrame) -> pd.DataFrame:
    """Sums of layout.COUNTER_FIELDS as columns.COUNTERS, same index. What nothing measures is missing."""
    sums = sums.astype("Int64")
    derived = {
        "cpu_user_ns": (sums["cpu_ns"] - sums["cpu_system_ns"]).clip(lower=0),
        "faults_minor": sums["faults_user_minor"] + sums["faults_kernel_minor"],
        "faults_major": sums["faults_user_major"] + sums["faults_kernel_major"],
        "faults_kernel": sums["faults_kernel_minor"] + sums["faults_kernel_major"],
        "faults_populate": sums["faults_populate_minor"] + sums["faults_populate_major"],
        # No process that runs has none: it was not looked at in this phase.
        "rss_peak_bytes": sums["rss_peak_bytes"].mask(sums["rss_peak_bytes"] == 0, pd.NA),
    }
    missing = pd.Series(pd.NA, index=sums.index, dtype="Int64")
    table = {}
    for column in COUNTERS:
        if not column.measured:
            table[column.key] = missing
        else:
            table[column.key] = derived[column.key] if column.key in derived else sums[column.key]
    return pd.DataFrame(table, index=sums.index)


def without_unattached(table: pd.DataFrame, columns: Iterable[Column], unattached: set[str]) -> pd.DataFrame:
    """`table` with those columns missing that a probe feeds which could not be attached."""
    blind = [one.key for one in columns if unattached.intersection(one.needs) and one.key in table.columns]
    return table.assign(**{key: pd.array([pd.NA] * len(table), dtype="Int64") for key in blind})


def _located(counters: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """Of each row of counters its `tid`, and the `name` and `pid` of its phase (UNKNOWN and -1 without one)."""
    known = phases.drop_duplicates("id", keep="last")
    ids = pd.Index(counters.index.get_level_values("phase"))
    place = pd.Index(known["id"].to_numpy(dtype=np.int64)).get_indexer(ids)
    # what is not found has place -1: the last
    named = pd.Categorical(known["name"], categories=[*PHASE_NAMES, UNKNOWN])
    codes = np.append(named.codes, len(PHASE_NAMES))
    pids = np.append(known["pid"].to_numpy(dtype=np.int64), -1)
    names = pd.Categorical.from_codes(codes[place], dtype=named.dtype)
    tids = counters.index.get_level_values("tid").to_numpy(dtype=np.int64)
    return pd.DataFrame({"name": names, "pid": pids[place], "tid": tids})


def _sums_by(counters: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """Sums and maxima of all counters by `keys`, which has a row for each of theirs; sums are below 2^53, as those of
    the fold. The columns of `keys` are the index."""
    groups = keys.groupby(list(keys.columns), observed=True)
    index = groups.size().index
    group = groups.ngroup().to_numpy()
    columns = {}
    for name in COUNTER_FIELDS:
        values = counters[name].to_numpy(dtype=np.int64)
        sums = np.zeros(len(index), dtype=np.int64)
        if name in MAXIMA:
            np.maximum.at(sums, group, values)
        elif values.any():
            sums = to_int(np.bincount(group, weights=values, minlength=len(index)))
        columns[name] = sums
    return pd.DataFrame(columns, index=index)


def _roles(
    located: pd.DataFrame, phases: pd.DataFrame, keys: list[tuple[int, int]], comms: Mapping[tuple[int, int], Any]
) -> list[str]:
    decodes = phases[phases["role"] == "decode"]
    callers = set(_pairs(decodes["pid"], decodes["tid"]))
    calls = phases[phases["name"].isin(ENGINE_CALL_NAMES)].groupby("pid")["dur_ns"].sum()
    call_ns = dict(zip(calls.index.astype("int64"), calls, strict=True))
    ran = located[located["name"].isin(ENGINE_CALL_NAMES)].groupby(["pid", "tid"])["cpu_ns"].sum()
    ran_ns = dict(zip(_pairs(ran.index.get_level_values("pid"), ran.index.get_level_values("tid")), ran, strict=True))
    roles = []
    for pid, tid in keys:
        if (pid, tid) in callers:
            roles.append("main")
        elif str(comms.get((pid, tid))).startswith(IO_URING_COMMS):
            roles.append("io_uring")
        elif ran_ns.get((pid, tid), 0) > COMPUTE_MIN_SHARE * call_ns.get(pid, 0):
            roles.append("compute")
        else:
            roles.append("other")
    return roles


def _pairs(pids: Iterable[Any], tids: Iterable[Any]) -> list[tuple[int, int]]:
    return [(int(pid), int(tid)) for pid, tid in zip(pids, tids, strict=True)]

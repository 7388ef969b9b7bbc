"""What was counted beside the kernel's own accounting of each thread (taskstats), and the differences.

The two are of the same span when from the kernel's is taken what the first thread did before counting began ("before"),
and from ours what a thread did after the kernel closed its account ("after": it still gives back its memory).
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from bitnet_trace.analysis.tables import thread_sums
from bitnet_trace.columns import TASKSTATS, TASKSTATS_COMPARED, TASKSTATS_KERNEL
from bitnet_trace.recording.meta import count

# Counts that have to be the same; times are read at other moments by other clocks.
EXACT = ("switches_voluntary", "switches_involuntary", "all_faults_minor", "all_faults_major")
# Of a run-queue delay: the kernel's clock is read before its tracepoints, some µs each time that a thread runs; longer
# in a guest whose host takes the CPU away between the two.
RUNQ_TOLERANCE_PCT, RUNQ_TOLERANCE_NS_PER_RUN, RUNQ_TOLERANCE_NS = 5.0, 20_000, 100_000
# Of the time on a CPU: the kernel's stands still between two ticks (up to 10 ms) when a thread ends, and excludes what
# a hypervisor took away where the guest is told of that.
CPU_TOLERANCE_PCT, CPU_TOLERANCE_NS = 5.0, 20_000_000

_KEYS = ["pid", "tid"]
_LARGEST = 1 << 53
# schema.TASKSTATS_SCHEMA by the names of columns.TASKSTATS_COMPARED
_KERNEL_NAMES = {
    "switches_voluntary": "nvcsw",
    "switches_involuntary": "nivcsw",
    "runq_wait_ns": "cpu_delay_ns",
    "all_faults_minor": "min_flt",
    "all_faults_major": "maj_flt",
    "cpu_ns": "cpu_run_virtual_ns",
}
_MAXIMA = ("cpu_delay_max_ns", "hiwater_rss_bytes", "hiwater_vm_bytes")


def compare(
    stats: pd.DataFrame, counters: pd.DataFrame, phases: pd.DataFrame, threads: pd.DataFrame, blind: Iterable[str]
) -> pd.DataFrame:
    """One row per thread that taskstats told of, with columns.TASKSTATS: busiest first.

    `stats`: Recording.taskstats; `counters`, `phases`, `threads`: as tables.by_thread takes them; `blind`: probes that
    are not attached. `agrees` is missing for a thread that had not ended: its two readings are of different moments.
    """
    unseen = set(blind)
    stats = stats.astype({"pid": "Int64", "tid": "Int64"})
    lives = stats[stats["at"].isin(["exit", "running"])]
    compared = list(_KERNEL_NAMES.values())
    kernel = _by_thread(lives, [*compared, *(one.key for one in TASKSTATS_KERNEL if one.key not in compared)])
    before, after = (
        _by_thread(stats[stats["at"] == at], compared).reindex(kernel.index).fillna(0) for at in ("before", "after")
    )
    traced = _traced(counters, phases, threads).reindex(kernel.index)
    table = pd.DataFrame(index=kernel.index)
    comms = dict(zip(zip(threads["pid"], threads["tid"], strict=True), threads["comm"], strict=True))
    table["comm"] = pd.array([comms.get(key) for key in table.index], dtype="string")
    running = set(lives.loc[lives["at"] == "running", "tid"])
    is_running = pd.Series([tid in running for _, tid in table.index], index=table.index, dtype="boolean")
    table["at"] = is_running.map({True: "running", False: "exit"}).astype("string")
    for column in TASKSTATS_COMPARED:
        key, name = column.key, _KERNEL_NAMES[column.key]
        ours = traced[key].fillna(0) - after[name]
        table[key] = ours.mask(pd.Series(bool(unseen.intersection(column.needs)), index=table.index), pd.NA)
        table[f"kernel_{key}"] = kernel[name] - before[name]
        table[f"difference_{key}"] = table[key] - table[f"kernel_{key}"]
    for column in TASKSTATS_KERNEL:
        table[column.key] = kernel[column.key]
    table["agrees"] = _agrees(table).mask(is_running, pd.NA)
    table = table.reset_index().sort_values("kernel_cpu_ns", ascending=False, kind="stable", na_position="last")
    return table[[column.key for column in TASKSTATS]].reset_index(drop=True)


def summary(table: pd.DataFrame, meta: dict[str, Any]) -> dict[str, Any]:
    """What `compare` found as a whole, and what a recording's meta says of how taskstats was had.

    `agrees`: no thread differs beyond rounding; None when no thread was compared. `*_difference_pct`: of the sums over
    threads that have ended.
    """
    told = meta.get("taskstats")
    told = told if isinstance(told, dict) else {}
    ended = table[table["at"] == "exit"]
    verdicts = ended["agrees"].dropna()
    result: dict[str, Any] = {
        "version": count(told.get("version")),
        "reason": _text(told.get("reason")),
        "delay_reason": _text(told.get("delay_reason")),
        "dropped_messages": count(told.get("dropped_messages")),
        "n_threads": len(table),
        "n_differing": int((~verdicts.astype(bool)).sum()),
        "agrees": bool(verdicts.all()) if len(verdicts) else None,
    }
    for key in ("runq_wait_ns", "cpu_ns"):
        result[f"{key.removesuffix('_ns')}_difference_pct"] = _difference_pct(ended, key)
    return result


def _by_thread(rows: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    """Sums by (pid, tid): a number may have been used by two threads of a process one after the other."""
    # a damaged recording may hold anything: kept in the range of int64
    values = rows[numbers].clip(upper=_LARGEST).astype("Int64").assign(pid=rows["pid"], tid=rows["tid"])
    groups = values.groupby(_KEYS)
    table = groups.sum(min_count=1)
    for name in set(_MAXIMA).intersection(numbers):
        table[name] = groups[name].max()
    return table


def _traced(counters: pd.DataFrame, phases: pd.DataFrame, threads: pd.DataFrame) -> pd.DataFrame:
    sums = thread_sums(counters, phases).astype("Int64").reset_index().astype({"pid": "Int64", "tid": "Int64"})
    # a thread that makes an execve goes on under its leader's number, and the kernel's account goes with it
    went_on = threads[threads["end_ns"].notna() & threads["exit_code"].isna()]
    renamed = set(zip(went_on["pid"], went_on["tid"], strict=True))
    if renamed:
        sums["tid"] = pd.array(
            [pid if (pid, tid) in renamed else tid for pid, tid in zip(sums["pid"], sums["tid"], strict=True)], "Int64"
        )
    table = sums.groupby(_KEYS).sum()
    for size in ("minor", "major"):
        table[f"all_faults_{size}"] = table[
            [f"faults_{source}_{size}" for source in ("user", "kernel", "populate")]
        ].sum(axis=1)
    return table


def _agrees(table: pd.DataFrame) -> "pd.Series[Any]":
    same = pd.Series(True, index=table.index, dtype="boolean")
    for key in EXACT:
        same &= (table[f"difference_{key}"] == 0).astype("boolean").fillna(True)
    runs = table["cpu_count"].fillna(0)
    for key, pct, slack in (
        ("runq_wait_ns", RUNQ_TOLERANCE_PCT, runs * RUNQ_TOLERANCE_NS_PER_RUN + RUNQ_TOLERANCE_NS),
        ("cpu_ns", CPU_TOLERANCE_PCT, runs * 0 + CPU_TOLERANCE_NS),
    ):
        allowed = table[f"kernel_{key}"] * pct / 100 + slack
        same &= (table[f"difference_{key}"].abs() <= allowed).astype("boolean").fillna(True)
    return same


def _difference_pct(table: pd.DataFrame, key: str) -> float | None:
    both = table[[key, f"kernel_{key}"]].dropna()
    of_kernel = int(both[f"kernel_{key}"].sum())
    return round(100 * (int(both[key].sum()) - of_kernel) / of_kernel, 3) if of_kernel else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None

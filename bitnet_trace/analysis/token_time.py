"""Where the time of prefill and decode calls goes: computing, spinning, waiting for a CPU, faults, futexes, I/O."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.profile import SPIN_ROLE, Profile
from bitnet_trace.analysis.sums import Sums
from bitnet_trace.analysis.tables import ENGINE_CALL_NAMES
from bitnet_trace.columns import PARTS, PHASE_TIME, TOKEN_TIME

_COUNTERS = ["cpu_ns", "offcpu_ns", "runq_wait_ns", "futex_wait_ns", "read_ns", "fault_ns"]
_WORKING_ROLES = ("main", "compute")


def token_time(counters: Sums, phases: pd.DataFrame, by_thread: pd.DataFrame, found: Profile | None) -> pd.DataFrame:
    """A row per prefill or decode call that ended, columns.TOKEN_TIME; the parts add up to `dur_ns`.

    Each part is the mean over the threads of the process that compute (`by_thread` has their role). `spin_ns` is the
    share of the phase's samples that spun, of the time on a CPU: missing without samples of that phase, and then
    `compute_ns` has it in it. Inputs as in analysis/tables.py.
    """
    calls = phases[phases["name"].isin(ENGINE_CALL_NAMES) & phases["complete"]].reset_index(drop=True)
    working = by_thread[by_thread["role"].isin(_WORKING_ROLES)]
    n_threads = calls["pid"].map(working.groupby("pid")["tid"].nunique()).fillna(1).to_numpy(dtype=np.float64)
    sums = counters.of_phases(calls["id"].to_numpy(dtype=np.int64), _COUNTERS, working["tid"])
    mean = {name: sums[name].to_numpy(dtype=np.float64) / n_threads for name in _COUNTERS}
    dur_ns = calls["dur_ns"].to_numpy(dtype=np.float64)
    cpu_ns = np.minimum(mean["cpu_ns"], dur_ns)
    asleep_ns = np.minimum(mean["offcpu_ns"] - mean["runq_wait_ns"], dur_ns - cpu_ns).clip(min=0)
    runq_ns = np.minimum(mean["runq_wait_ns"], dur_ns - cpu_ns - asleep_ns)
    # a futex call has time on the run queue in it, and a fault or a read that slept is not on the CPU
    futex_ns = np.minimum(mean["futex_wait_ns"], asleep_ns)
    io_ns = np.minimum(mean["read_ns"], asleep_ns - futex_ns)
    fault_ns = np.minimum(mean["fault_ns"], cpu_ns)
    share = _spin_shares(calls["name"], found)
    spin_ns = share * (cpu_ns - fault_ns)
    parts = {
        "spin_ns": spin_ns,
        "runq_ns": runq_ns,
        "fault_ns": fault_ns,
        "futex_ns": futex_ns,
        "io_ns": io_ns,
        "rest_ns": dur_ns - cpu_ns - runq_ns - futex_ns - io_ns,
    }
    whole = {name: pd.array(np.round(values), dtype="Int64") for name, values in parts.items()}
    whole["spin_ns"][np.isnan(share)] = pd.NA
    table = calls[["name", "token", "n_tokens", "start_ns", "dur_ns"]].assign(phase_id=calls["id"], **whole)
    # what the rounding left over is the largest part's
    table["compute_ns"] = table["dur_ns"] - table[list(parts)].fillna(0).sum(axis=1)
    return table[[column.key for column in TOKEN_TIME]]


def phase_time(table: pd.DataFrame, by_thread: pd.DataFrame) -> pd.DataFrame:
    """A row for prefill and one for decode, columns.PHASE_TIME: means per token of the rows of `token_time`."""
    n_threads = int(by_thread["role"].isin(_WORKING_ROLES).sum())
    keys = ["dur_ns", *(column.key for column in PARTS)]
    rows = []
    for name in ENGINE_CALL_NAMES:
        calls = table[table["name"] == name]
        n_tokens = int(calls["n_tokens"].fillna(1).sum())
        if n_tokens:
            means = {key: pd.NA if calls[key].isna().any() else round(int(calls[key].sum()) / n_tokens) for key in keys}
            rows.append({"name": name, "n_tokens": n_tokens, "n_threads": n_threads, **means})
    numbers = {column.key: "Int64" for column in PHASE_TIME if column.key != "name"}
    return pd.DataFrame(rows, columns=[column.key for column in PHASE_TIME]).astype({"name": "string", **numbers})


def _spin_shares(names: "pd.Series[str]", found: Profile | None) -> npt.NDArray[np.float64]:
    """Of each call the share of its phase's samples that spun; NaN where the phase has no samples."""
    if found is None:
        return np.full(len(names), np.nan)
    sampled = {phase for shares in found.roles["phase_shares"] for phase in shares}
    spinning = found.roles.loc[found.roles["role"] == SPIN_ROLE, "phase_shares"]
    shares = dict(spinning.iloc[0]) if len(spinning) else {}
    by_name = {name: shares.get(name, 0.0) / 100 if name in sampled else np.nan for name in ENGINE_CALL_NAMES}
    return names.map(by_name).to_numpy(dtype=np.float64)

"""Where CPU time goes, from timer samples: by function, by role, and how much of it is waiting by spinning."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.analysis.calls import one_token_calls, with_calls
from bitnet_trace.analysis.phases import names_of
from bitnet_trace.analysis.wait_stacks import WaitStacks
from bitnet_trace.engines.roles import role_of
from bitnet_trace.recording.reader import Recording
from bitnet_trace.recording.schema import KERNEL_SPACE

# Outermost functions that every thread's stack ends in when it was followed to its end.
_STARTS = frozenset({"_start", "__libc_start_main", "__libc_start_call_main", "start_thread", "clone", "clone3"})
_C_LIBRARY = ("libc.so", "libc-", "libpthread", "ld-linux", "ld-musl", "libc.musl")
# Below this share of complete stacks the time in a function with all that it calls is not known.
COMPLETE_ENOUGH_PCT = 90.0
_LONGEST_PERIOD_NS = 1_000_000_000  # once a second; more is damage
SPIN_ROLE = "spin"
_WAITING = frozenset({SPIN_ROLE, "barrier", "OpenMP runtime", "futex"})
_TOKENS = ["prefill", "decode"]
# of the frames around what was inlined: less telling than that
_FRAMES = frozenset({None, "graph", "matmul", "op", "engine", "unnamed"})


@dataclass(frozen=True)
class Profile:
    """What the samples say; all shares in percent of samples.

    `functions`: a row per function that was sampled or waited in, columns.FUNCTIONS; total_pct and total_ns are NA
    unless enough stacks are complete (functions that only called others have a row then); phase_shares is {phase name:
    percent of that phase's samples}. `roles`: a row per role, columns.ROLES, work before waiting; spinning is one,
    wherever it happens. `spin`: a row per thread and phase name in which there was any, columns.SPIN.
    """

    n_samples: int
    period_ns: int
    complete_pct: float | None
    functions: pd.DataFrame
    roles: pd.DataFrame
    spin: pd.DataFrame


def profile(
    recording: Recording, phases: pd.DataFrame, frames: pd.DataFrame | None = None, waits: WaitStacks | None = None
) -> Profile | None:
    """The profile of a recording; `phases` has names. None without samples.

    `frames` and `waits` where they are known already.
    """
    samples = recording.samples
    samples = samples[samples["reason"] == 0]
    if not len(samples):
        return None
    frames = frames_of(recording) if frames is None else frames
    waits = WaitStacks(recording, frames) if waits is None else waits
    leaves = frames[frames["level"] == 0].drop_duplicates("stack").set_index("stack")
    of_phase = samples["phase"].to_numpy(dtype=np.int64)
    table = pd.DataFrame(
        {
            "stack": samples["stack"].to_numpy(dtype=np.int64),
            "tid": samples["tid"].to_numpy(dtype=np.int64),
            "phase": names_of(of_phase, phases),
        }
    )
    table = table.join(leaves[["module", "function", "role", "explain", "spins"]], on="stack")
    table["in_token"] = np.isin(of_phase, one_token_calls(recording, phases)["id"].to_numpy(dtype=np.int64))
    table["spins"] = table["spins"].eq(True)  # a damaged recording may lack the stack
    for column in ("module", "function"):
        table[column] = table[column].astype(object).where(table[column].notna(), "[unknown]")
    complete = _complete(frames)
    complete_pct = 100 * float(table["stack"].isin(complete).mean())
    totals = _totals(table, frames) if complete_pct >= COMPLETE_ENOUGH_PCT else None
    period_ns = min(int(samples["period_ns"].max()), _LONGEST_PERIOD_NS)
    return Profile(
        n_samples=len(table),
        period_ns=period_ns,
        complete_pct=round(complete_pct, 1),
        functions=with_calls(
            _functions(table, totals, period_ns, frames, waits.by_function()), recording, phases, period_ns
        ),
        roles=_roles(table.assign(role=_role_column(table))),
        spin=_spin(table, recording.threads),
    )


def frames_of(recording: Recording) -> pd.DataFrame:
    """Every frame of every stack with what its address means: stack, level, module, function, role, explain, spins."""
    stacks, symbols = recording.stacks, recording.symbols
    frames = pd.DataFrame({name: stacks[name].to_numpy(dtype=np.uint64) for name in stacks.columns})
    known = pd.DataFrame({name: symbols[name].to_numpy(dtype=np.uint64) for name in ("pid", "address")})
    known["spins"] = symbols["spins"].fillna(False).to_numpy(dtype=bool)
    # lists, and not columns: those make a number of what is missing
    modules = [_base(module) for module in _texts(symbols["module"])]
    functions = [
        name if name is not None else None if module is None else f"[{module.strip('[]')}]"
        for name, module in zip(_texts(symbols["function"]), modules, strict=True)
    ]
    known["module"], known["function"] = modules, functions
    inner = _texts(symbols["inlined"])
    # what was inlined says more where the function is only the frame for it
    places = list(zip(inner, functions, modules, strict=True))
    roles = {name: _role(*name) for inner_name, *own in places for name in ((inner_name, None), tuple(own))}
    chosen = [
        roles[one, None] if roles[one, None][0] and roles[own, module][0] in _FRAMES else roles[own, module]
        for one, own, module in places
    ]
    known["role"], known["explain"] = [one[0] for one in chosen], [one[1] for one in chosen]
    merged = frames.merge(known, on=["pid", "address"], how="left")
    merged["stack"] = merged["stack"].astype(np.int64)
    merged["spins"] = merged["spins"].eq(True)
    return merged


def _role(function: str | None, module: str | None) -> tuple[str | None, str | None]:
    role = role_of(function, module) if function else None
    return (role.role, role.explain) if role else (None, None)


def _role_column(table: pd.DataFrame) -> Any:
    """Spinning is a role of its own, whatever function it was inlined into."""
    role = table["role"].astype(object).where(table["role"].notna(), "other")
    return role.where(~table["spins"], SPIN_ROLE)


def _complete(frames: pd.DataFrame) -> set[int]:
    """Stacks that reach a thread's first function: more than the leaf is known, up to the C library that called it."""
    user = frames[frames["address"] < np.uint64(KERNEL_SPACE)]
    outermost = user.sort_values("level", kind="stable").drop_duplicates("stack", keep="last")
    depth = user.groupby("stack").size()
    starts = outermost["function"].isin(_STARTS)
    in_c = outermost["module"].astype(str).str.startswith(_C_LIBRARY)
    deep = outermost["stack"].map(depth) > 1
    return set(outermost["stack"][starts | (in_c & deep)])


def _totals(table: pd.DataFrame, frames: pd.DataFrame) -> "pd.Series[int]":
    """Samples with a function anywhere in the stack, once per stack however often it recurs."""
    counts = table["stack"].value_counts()
    each = frames[["stack", "module", "function"]].dropna().drop_duplicates()
    weights = each["stack"].map(counts).fillna(0).astype(np.int64)
    totals: pd.Series[int] = weights.groupby([each["module"], each["function"]]).sum()
    return totals


def _functions(
    table: pd.DataFrame,
    totals: "pd.Series[int] | None",
    period_ns: int,
    frames: pd.DataFrame,
    waited_ns: "pd.Series[int]",
) -> pd.DataFrame:
    keys = ["module", "function"]
    result = _grouped(table, keys).set_index(keys)
    by_function = table.groupby(keys, sort=False)
    for name in ("role", "explain"):
        result[name] = by_function[name].agg(_commonest)
    result["token_samples"] = by_function["in_token"].sum()
    result["spin_pct"] = 100 * by_function["spins"].mean()
    # what only called others, or waited, has a row too
    others = (waited_ns.index if totals is None else waited_ns.index.union(totals.index)).difference(result.index)
    known = frames.drop_duplicates(keys).set_index(keys)
    rows = known[["role", "explain"]].assign(samples=0, token_samples=0, self_pct=0.0)
    rows = rows.loc[rows.index.isin(others)]
    rows["phase_shares"] = pd.Series([{} for _ in range(len(rows))], index=rows.index, dtype=object)
    result = pd.concat([result, rows]) if len(rows) else result
    result["self_ns"] = result["samples"] * period_ns
    result["total_ns"] = result["total_pct"] = pd.NA
    if totals is not None:
        with_callees = totals.reindex(result.index).fillna(0)
        result["total_ns"] = (with_callees * period_ns).astype(np.int64)
        result["total_pct"] = 100 * with_callees / len(table)
    result["offcpu_ns"] = waited_ns.reindex(result.index).fillna(0).astype(np.int64)
    return result.reset_index().rename(columns={"function": "name"})


def _roles(table: pd.DataFrame) -> pd.DataFrame:
    result = _grouped(table, ["role"])
    result["mostly"] = table.groupby("role", sort=False)["function"].agg(_commonest).reindex(result["role"]).to_numpy()
    order = np.argsort(result["role"].isin(_WAITING).to_numpy(), kind="stable")
    return result.iloc[order].reset_index(drop=True)


def _commonest(values: "pd.Series[str]") -> str | None:
    counted = values.dropna().value_counts()
    return str(counted.index[0]) if len(counted) else None


def _grouped(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """samples, self_pct and phase_shares by the keys, most samples first; of as many, those of prefill and decode."""
    counts = table.groupby([*keys, "phase"], sort=False).size().unstack("phase", fill_value=0)
    samples = counts.sum(axis=1)
    shares = 100 * counts / counts.sum(axis=0)
    result = samples.rename("samples").to_frame()
    result["self_pct"] = 100 * samples / len(table)
    result["of_tokens"] = counts.reindex(columns=_TOKENS, fill_value=0).sum(axis=1)
    nonzero = [
        {str(phase): round(float(share), 2) for phase, share in row.items() if share}
        for row in shares.to_dict("records")
    ]
    result["phase_shares"] = pd.Series(nonzero, index=result.index, dtype=object)
    ordered = result.reset_index().sort_values(["samples", "of_tokens"], ascending=False, kind="stable")
    return ordered.drop(columns="of_tokens").reset_index(drop=True)


def _spin(table: pd.DataFrame, threads: pd.DataFrame) -> pd.DataFrame:
    groups = table.groupby(["tid", "phase"], sort=False)["spins"]
    result = pd.DataFrame({"samples": groups.size(), "spin_pct": 100 * groups.mean()}).reset_index()
    comms = threads.dropna(subset=["comm"]).drop_duplicates("tid", keep="last").set_index("tid")["comm"]
    result["comm"] = result["tid"].map(comms)
    return (
        result[result["spin_pct"] > 0].sort_values(["samples"], ascending=False, kind="stable").reset_index(drop=True)
    )


def _texts(column: "pd.Series[str]") -> list[str | None]:
    return [None if pd.isna(value) else str(value) for value in column]


def _base(path: str | None) -> str | None:
    return None if path is None else path.rpartition("/")[2] or path

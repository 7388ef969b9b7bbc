"""How often hot functions are called in a token, and how long a call takes."""

import fnmatch
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis import intervals
from bitnet_trace.engines.kernels import known_kernels
from bitnet_trace.engines.names import plain
from bitnet_trace.engines.probes import Kernel
from bitnet_trace.recording.reader import Recording

# llama.cpp's names of the matrices that each token is multiplied with once
_ONCE_A_TOKEN = re.compile(r"blk\.\d+\.(attn_(q|k|v|qkv|output|gate)|ffn_(gate|up|down))\.weight|output\.weight")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_CONFIDENCE = 0.95
_FUNCTION = "function:"


class Counted(NamedTuple):
    """Calls in a decode call of one token, the mean of `n_tokens` that lay wholly in windows.

    `half_width`: of its 95 % interval; None where one token alone was counted.
    """

    per_token: float
    n_tokens: int
    half_width: float | None


def one_token_calls(recording: Recording, phases: pd.DataFrame) -> pd.DataFrame:
    """Decode calls of one token, without those that windows of functions have slowed; `phases` has names."""
    calls = phases[(phases["name"] == "decode") & phases["n_tokens"].eq(1).fillna(False) & phases["end_ns"].notna()]
    windows = recording.windows
    slow = windows[windows["what"].astype(str).str.startswith((_FUNCTION, "durations:"))]
    for begin_ns, end_ns in zip(slow["begin_ns"].tolist(), slow["end_ns"].tolist(), strict=True):
        calls = calls[(calls["end_ns"] < begin_ns) | (calls["begin_ns"] > end_ns + _LIVE_LONGER_NS)]
    return calls


_LIVE_LONGER_NS = 50_000_000  # a window's probes are gone by then


def derived(tensors: pd.DataFrame, kernel: Kernel) -> int | None:
    """Calls of a kernel in a decode call of one token, from the shapes of the model's matrices; None: not known.

    ggml calls a dot product once per row of the weights and column of the activations, in whatever pieces and threads
    (ggml_compute_forward_mul_mat_one_chunk). A model without an output matrix uses its embedding's for that.
    """
    if not len(tensors) or tensors["name"].duplicated().any():
        return None
    names = set(tensors["name"])
    own = tensors[tensors["type_name"].isin(kernel.types)]
    total = 0
    for name, rows in zip(own["name"], own["rows"], strict=True):
        if _ONCE_A_TOKEN.fullmatch(name):
            total += int(rows)
        elif name == _EMBEDDING:
            total += int(rows) if _OUTPUT not in names else 0
        else:
            return None  # a mixture of experts, or an architecture of another kind
    return total // kernel.rows_a_call if total else None


def counted(recording: Recording, phases: pd.DataFrame) -> dict[str, Counted]:
    """By function: what windows counted of its calls in decode calls of one token.

    Of each window only the first such call that begins in it counts: a window holds short ones whole more often than
    long ones, but what comes after the moment at which it opens is a fair draw.
    """
    probes = recording.meta.get("probes", [])
    calls, windows = recording.calls, recording.windows
    decoded = phases[(phases["name"] == "decode") & phases["end_ns"].notna()].sort_values("begin_ns")
    found: dict[str, Counted] = {}
    for _, opened in windows.groupby(windows["what"].where(windows["what"].astype(str).str.startswith(_FUNCTION))):
        firsts = _first_calls(opened, decoded)
        rows = calls[calls["begin_ns"].isin(opened["begin_ns"])]
        for number in rows["probe"].unique().tolist():
            symbol = probes[number].get("symbol") if number < len(probes) else None
            by_phase = rows[rows["probe"] == number].groupby("phase")["calls"].sum()
            if isinstance(symbol, str) and firsts:
                found[symbol] = _mean_of(by_phase.reindex(firsts).fillna(0).to_numpy(dtype=float))
    return found


def _first_calls(windows: pd.DataFrame, decoded: pd.DataFrame) -> list[int]:
    """Of each window the first decode call that began in it, where that is of one token and ended in it too."""
    starts = decoded["begin_ns"].to_numpy(dtype=np.int64)
    chosen = []
    for begin_ns, end_ns in zip(windows["begin_ns"].tolist(), windows["end_ns"].tolist(), strict=True):
        at = int(np.searchsorted(starts, begin_ns))
        if at < len(decoded):
            call = decoded.iloc[at]
            if call["n_tokens"] == 1 and call["end_ns"] <= end_ns:
                chosen.append(int(call["id"]))
    return chosen


def _mean_of(calls: npt.NDArray[np.float64]) -> Counted:
    n = len(calls)
    if n < 2:
        return Counted(float(calls.mean()), n, None)
    error = float(calls.std(ddof=1)) / math.sqrt(n)
    return Counted(float(calls.mean()), n, intervals.t_quantile(n - 1, _CONFIDENCE) * error)


def with_calls(functions: pd.DataFrame, recording: Recording, phases: pd.DataFrame, period_ns: int) -> pd.DataFrame:
    """Profile.functions with calls_per_token, calls, mean_ns and its interval, and how they were got.

    `functions` has `token_samples`: in the calls of `one_token_calls`, of which `calls` are.
    """
    n_tokens = len(one_token_calls(recording, phases))
    by_window = counted(recording, phases)
    kernels = known_kernels()
    rows = [
        _figures(str(name), int(samples), n_tokens, by_window, kernels, recording.tensors, period_ns)
        for name, samples in zip(functions["name"], functions["token_samples"], strict=True)
    ]
    figures = pd.DataFrame(rows, index=functions.index, columns=list(_NOTHING))
    return functions.drop(columns="token_samples").assign(**{key: figures[key] for key in _NOTHING})


_NOTHING: dict[str, Any] = {
    "calls_per_token": pd.NA,
    "calls_low": pd.NA,
    "calls_high": pd.NA,
    "calls": pd.NA,
    "mean_ns": pd.NA,
    "mean_low_ns": pd.NA,
    "mean_high_ns": pd.NA,
    "how": "sampled",
}


def _figures(
    name: str,
    samples: int,
    n_tokens: int,
    by_window: dict[str, Counted],
    kernels: Iterable[Kernel],
    tensors: pd.DataFrame,
    period_ns: int,
) -> dict[str, Any]:
    kernel = next((one for one in kernels if any(fnmatch.fnmatchcase(plain(name), text) for text in one.names)), None)
    from_shapes = derived(tensors, kernel) if kernel else None
    half: float | None = 0.0
    if name in by_window:
        per_token, n_counted, half = by_window[name]
        how = f"sampled; calls counted in {n_counted} token{'s' * (n_counted != 1)}"
        if half is None and per_token == from_shapes:
            half = 0.0  # each token has as many
    elif from_shapes is None or not samples:
        return _NOTHING
    else:
        per_token, how = float(from_shapes), "sampled; calls derived"
    calls = per_token * n_tokens
    result = {**_NOTHING, "calls_per_token": round(per_token), "calls": round(calls), "how": how}
    if half is not None:
        result.update(calls_low=round(max(per_token - half, 0), 1), calls_high=round(per_token + half, 1))
    if samples and calls:
        each_ns = period_ns / calls
        result["mean_ns"] = round(samples * each_ns, 1)
        if half is not None:
            low, high = _interval(samples, half / per_token)
            result.update(mean_low_ns=round(low * each_ns, 1), mean_high_ns=round(high * each_ns, 1))
    return result


def _interval(samples: int, calls_error: float) -> tuple[float, float]:
    """95 % interval of a number of samples (Poisson's, exactly), wider by the relative error of the calls that they
    are divided by."""
    least, most = intervals.poisson(samples, _CONFIDENCE)
    low, high = math.hypot(1 - least / samples, calls_error), math.hypot(most / samples - 1, calls_error)
    return max(samples * (1 - low), 0.0), samples * (1 + high)

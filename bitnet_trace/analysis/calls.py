"""How often hot functions are called in a token, and how long a call takes."""

import fnmatch
import math
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from bitnet_trace.engines.kernels import known_kernels
from bitnet_trace.engines.names import plain
from bitnet_trace.engines.probes import Kernel
from bitnet_trace.recording.reader import Recording

# llama.cpp's names of the matrices that each token is multiplied with once
_ONCE_A_TOKEN = re.compile(r"blk\.\d+\.(attn_(q|k|v|qkv|output|gate)|ffn_(gate|up|down))\.weight|output\.weight")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_CONFIDENCE = 1.96


def one_token_calls(recording: Recording, phases: pd.DataFrame) -> pd.DataFrame:
    """Decode calls of one token, without those that windows of functions have slowed; `phases` has names."""
    calls = phases[(phases["name"] == "decode") & phases["n_tokens"].eq(1).fillna(False) & phases["end_ns"].notna()]
    windows = recording.windows
    slow = windows[windows["what"].astype(str).str.startswith("function:")]
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


def counted(recording: Recording, phases: pd.DataFrame) -> dict[str, tuple[float, int]]:
    """By function: calls in a decode call of one token, and how many of those, wholly in windows, were counted."""
    counts = recording.calls
    if not len(counts):
        return {}
    whole = counts.merge(phases[["id", "name", "n_tokens", "begin_ns", "end_ns"]], left_on="phase", right_on="id")
    inside = (whole["begin_ns_x"] <= whole["begin_ns_y"]) & (whole["end_ns_y"] <= whole["end_ns_x"])
    whole = whole[inside.fillna(False) & (whole["name"] == "decode") & whole["n_tokens"].eq(1).fillna(False)]
    probes = recording.meta.get("probes", [])
    found: dict[str, tuple[float, int]] = {}
    for number in whole["probe"].unique().tolist():
        calls = whole["calls"][whole["probe"] == number].astype(float)
        symbol = probes[number].get("symbol") if number < len(probes) else None
        if isinstance(symbol, str):
            found[symbol] = float(calls.mean()), len(calls)
    return found


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
    by_window: dict[str, tuple[float, int]],
    kernels: Iterable[Kernel],
    tensors: pd.DataFrame,
    period_ns: int,
) -> dict[str, Any]:
    kernel = next((one for one in kernels if any(fnmatch.fnmatchcase(plain(name), text) for text in one.names)), None)
    if name in by_window:
        per_token, n_counted = by_window[name]
        how = f"sampled; calls counted in {n_counted} tokens"
    else:
        found = derived(tensors, kernel) if kernel else None
        if found is None or not samples:
            return _NOTHING
        per_token, how = float(found), "sampled; calls derived"
    calls = per_token * n_tokens
    result = {**_NOTHING, "calls_per_token": round(per_token), "calls": round(calls), "how": how}
    if samples and calls:
        error = _CONFIDENCE * math.sqrt(samples)
        result["mean_ns"] = round(samples * period_ns / calls, 1)
        result["mean_low_ns"] = round(max(samples - error, 0) * period_ns / calls, 1)
        result["mean_high_ns"] = round((samples + error) * period_ns / calls, 1)
    return result

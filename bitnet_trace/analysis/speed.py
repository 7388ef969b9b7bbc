"""The numbers that users ask for first, from named phases, and beside them what the engine itself printed."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from bitnet_trace.analysis.health import finite
from bitnet_trace.analysis.tables import engine_pids
from bitnet_trace.recording.meta import count

_COMPARED = ("load", "prefill", "decode", "sample", "total")


def summary(phases: pd.DataFrame) -> dict[str, Any]:
    """The keys of columns.SUMMARY, of phases that have `name` and `dur_ns` (with_durations). Unknown is None.

    Open calls are left out of speeds: neither their tokens nor their time are whole. A decode call whose token count
    is unknown counts as one token, which is what a call of one sequence decodes.
    """
    ended = phases[phases["pid"].isin(engine_pids(phases)) & phases["complete"]]
    prefill, decode = ended[ended["name"] == "prefill"], ended[ended["name"] == "decode"]
    prefill_ns, decode_ns = _sum(prefill["dur_ns"]), _sum(decode["dur_ns"])
    sample_ns = _sum(ended.loc[ended["name"] == "sample", "dur_ns"])
    prompt = None if prefill["n_tokens"].isna().any() or not len(prefill) else _sum(prefill["n_tokens"])
    decoded = _sum(decode["n_tokens"].fillna(1))
    load = ended[ended["name"] == "load"]
    return {
        "load_ns": _sum(load["dur_ns"]) if len(load) else None,
        "ttft_ns": _ttft_ns(phases, prefill),
        "tpot_ns": round((decode_ns + sample_ns) / decoded) if decoded else None,
        "prefill_tokens_per_s": _rate(prompt, prefill_ns),
        "decode_tokens_per_s": _rate(decoded, decode_ns),
        "prompt_tokens": prompt,
        "decoded_tokens": decoded if len(prefill) or len(decode) else None,
    }


def compare_timings(reported: list[dict[str, Any]], phases: pd.DataFrame) -> list[dict[str, Any]]:
    """The engine's own figures (engines.timings.Timing as dicts) with the traced time of the same.

    One row per kind: `what`, `reported_ns`, `reported_count`, `reported_tokens_per_s`, `traced_ns`, `difference_pct`
    (traced against reported). Of several lines of a kind those of a server's slots are summed, else the last counts.
    A server's decode time reaches from token to token, with sampling and what else lies between. Slots that worked side
    by side are not compared: their times overlap. The load time of the engines reaches from the load to the end of the
    first decode calls that were waited for (llama.cpp, t_load_us in llama_synchronize): the warm-up, or all batches of
    the prompt up to the first logits. Of sampling and the total nothing is traced that would be the same; nor of
    llama-bench, which prints the average of its repeats and samples nothing.
    """
    rows = []
    for what, lines, row in reported_timings(reported):
        side_by_side = len({str(line.get("slot")) for line in lines}) > 1
        by_server = lines[0].get("slot") is not None
        averaged = lines[0].get("source") == "llama-bench"  # of repeats, which are not told apart in the trace
        traced_ns = None if side_by_side or averaged else _traced_ns(what, phases, by_server)
        difference = None
        if traced_ns is not None and row["reported_ns"]:
            difference = round(100 * (traced_ns - row["reported_ns"]) / row["reported_ns"], 2)
        rows.append({**row, "traced_ns": traced_ns, "difference_pct": difference})
    return rows


def reported_timings(reported: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """(kind, the lines that count, their figures: `what`, `reported_ns`, `reported_count`, `reported_tokens_per_s`)."""
    for what in _COMPARED:
        lines = [line for line in reported if line.get("what") == what]
        lines = [line for line in lines if line.get("slot") is not None] or lines[-1:]
        if not lines:
            continue
        milliseconds = [finite(line.get("ms")) for line in lines]
        known = [ms for ms in milliseconds if ms is not None and 0 <= ms < 1e12]
        reported_ns = round(sum(known) * 1e6) if len(known) == len(lines) else None
        counts = [count(line.get("count")) for line in lines]
        n = sum(one for one in counts if one is not None) if None not in counts else None
        rate = finite(lines[0].get("tokens_per_second")) if len(lines) == 1 else _rate(n, reported_ns)
        row = {"what": what, "reported_ns": reported_ns, "reported_count": n, "reported_tokens_per_s": rate}
        yield what, lines, row


def _traced_ns(what: str, phases: pd.DataFrame, by_server: bool) -> int | None:
    of_engine = phases[phases["pid"].isin(engine_pids(phases)) & phases["complete"]]
    if what == "decode" and by_server:
        return _generation_ns(of_engine)
    if what in ("prefill", "decode"):
        calls = of_engine[of_engine["name"] == what]
        return _sum(calls["dur_ns"]) if len(calls) else None
    return _engines_load_ns(of_engine) if what == "load" else None


def _engines_load_ns(of_engine: pd.DataFrame) -> int | None:
    """From the load to the end of the first decode call that was waited for.

    Loads of a model that was freed again before (a trial of what fits into memory) are not the one that is printed.
    """
    has_marks = of_engine["n_sampled"] + of_engine["n_logits"] > 0
    waited_for = of_engine[(of_engine["role"] == "decode") & ((of_engine["name"] == "warmup") | has_marks)]
    if not len(waited_for):
        return None
    first = waited_for.iloc[0]
    before = of_engine[of_engine["start_ns"] < first["start_ns"]]
    loads_ns = before.loc[before["name"] == "load", "start_ns"]
    freed_ns = before.loc[before["role"] == "teardown", "start_ns"].max()
    kept_ns = loads_ns if pd.isna(freed_ns) else loads_ns[loads_ns > freed_ns]
    return int(first["start_ns"] + first["dur_ns"] - kept_ns.iloc[0]) if len(kept_ns) else None


def _generation_ns(of_engine: pd.DataFrame) -> int | None:
    """A server's time of generation: from token to token, with what lies between two decode calls."""
    calls = of_engine[of_engine["name"].isin(["prefill", "decode"])]
    end_ns = calls["start_ns"] + calls["dur_ns"]
    before_ns = end_ns.groupby(calls["pid"]).shift().fillna(calls["start_ns"])
    decode = calls["name"] == "decode"
    return _sum((end_ns - before_ns)[decode]) if decode.any() else None


def _ttft_ns(phases: pd.DataFrame, prefill: pd.DataFrame) -> int | None:
    """From the first phase of the process to the end of its first prefill call that has a mark after it."""
    marked = prefill[(prefill["n_sampled"] + prefill["n_logits"]) > 0]
    if not len(marked):
        return None
    first = marked.iloc[0]
    own = phases[phases["pid"] == first["pid"]]
    if (own["role"] == "attached").any():
        return None  # it ran before the tracer came
    begin_ns = int(own["start_ns"].min())
    return int(first["start_ns"]) + int(first["dur_ns"]) - begin_ns


def _sum(series: "pd.Series[Any]") -> int:
    return int(series.sum())


def _rate(n: int | None, ns: int | None) -> float | None:
    return round(n * 1e9 / ns, 3) if n and ns else None

"""The charts of the HTML report, as plotly figures (plain dicts: no need for plotly to build them)."""

import math
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.analysis.activity import activity, phase_spans
from bitnet_trace.analysis.phases import PHASE_NAMES, UNKNOWN
from bitnet_trace.analysis.report import Report
from bitnet_trace.analysis.tables import engine_pids
from bitnet_trace.columns import PARTS, PLACE_SUMS, by_key
from bitnet_trace.printable import printable
from bitnet_trace.render.format import amount, duration

_N_SPANS = 1000
_MAX_THREADS = 16
_MAX_BARS = 600
# Okabe and Ito's palette: told apart by the colour-blind too, on white and on black.
_PART_COLORS = {
    "compute_ns": "#009e73",
    "spin_ns": "#e69f00",
    "runq_ns": "#d55e00",
    "fault_ns": "#cc79a7",
    "futex_ns": "#56b4e9",
    "io_ns": "#0072b2",
    "rest_ns": "#999999",
}
_WAYS_IN = {"bytes": "#d55e00", "populated_bytes": "#56b4e9", "read_bytes": "#009e73"}
_PHASE_COLORS = dict(
    zip(
        (*PHASE_NAMES, UNKNOWN),
        ("#999999", "#0072b2", "#56b4e9", "#f0e442", "#e69f00", "#009e73", "#cc79a7", "#cccccc", "#777777", "#d55e00"),
        strict=True,
    )
)


@dataclass(frozen=True)
class Chart:
    """A plotly figure with what it says in words, for those who do not see it."""

    name: str
    title: str
    caption: str
    figure: dict[str, Any]
    height: int


def timeline(report: Report) -> Chart | None:
    """Phases above, page faults, and a track for each of the busiest threads; None without phases."""
    pids = engine_pids(report.phases)
    phases = report.phases[report.phases["pid"].isin(pids)]
    if not len(phases):
        return None
    origin_ns = int(report.run["start_ns"])
    start_ns = origin_ns + int(phases["start_ns"].min())
    end_ns = origin_ns + int((phases["start_ns"] + phases["dur_ns"]).max())
    busiest = report.by_thread[report.by_thread["pid"].isin(pids)].head(_MAX_THREADS)
    busiest = busiest.drop_duplicates("tid")
    tids = [int(tid) for tid in busiest["tid"]]
    seen = activity(report.recording, tids, start_ns, end_ns, _N_SPANS)
    labels = [f"{escape(_comm(comm))} {tid}" for comm, tid in zip(busiest["comm"], tids, strict=True)]
    middle_s = ((np.arange(_N_SPANS) + 0.5) * seen.span_ns / 1e9).round(6).tolist()
    decodes = phases[phases["role"] == "decode"]
    pid = int((decodes if len(decodes) else phases)["pid"].mode().iloc[0])
    spans = phase_spans(phases[phases["pid"] == pid], start_ns, end_ns, _N_SPANS)
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": ["phase"] * len(own),
            "base": _seconds(own["begin_ns"]),
            "x": _seconds(own["dur_ns"]),
            "marker": {"color": _PHASE_COLORS[str(name)], "line": {"width": 0}},
            "hovertemplate": f"{name}<br>from %{{base:.4f}} s for %{{x:.4f}} s<extra></extra>",
            "yaxis": "y3",
        }
        for name, own in spans.groupby("name", sort=False)
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "page faults",
            "x": middle_s,
            "y": seen.faults.tolist(),
            "line": {"width": 1, "shape": "hvh", "color": "#cc79a7"},
            "fill": "tozeroy",
            "showlegend": False,
            "hovertemplate": "%{y} page faults<extra></extra>",
            "yaxis": "y2",
        }
    )
    if tids:
        traces.append(
            {
                "type": "heatmap",
                "x": middle_s,
                "y": labels,
                "z": np.round(100 * seen.on_cpu, 1).tolist(),
                "customdata": np.round(100 * seen.run_queue, 1).tolist(),
                "zmin": 0,
                "zmax": 100,
                "colorscale": "Viridis",
                "colorbar": {"title": {"text": "on CPU, %"}, "len": 0.6, "y": 0.3, "thickness": 12},
                "hovertemplate": "%{y}<br>%{x:.4f} s<br>on CPU %{z} %, waiting for one %{customdata} %<extra></extra>",
            }
        )
    threads_share = 0.62
    layout = {
        "barmode": "overlay",
        "xaxis": {
            "title": {"text": "seconds since the program began"},
            "range": [0, (end_ns - start_ns) / 1e9],
        },
        "yaxis": {"domain": [0, threads_share], "autorange": "reversed", "automargin": True, "type": "category"},
        "yaxis2": {"domain": [threads_share + 0.04, 0.82], "title": {"text": "faults"}, "rangemode": "tozero"},
        "yaxis3": {"domain": [0.86, 1], "showticklabels": False, "fixedrange": True},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    each = duration(round(seen.span_ns))
    caption = (
        f"Phases of process {pid}, page faults of all threads, and for how much of each {each} the {len(tids)} busiest "
        "threads were on a CPU."
    )
    return Chart("chart-timeline", "Timeline", caption, {"data": traces, "layout": layout}, 260 + 24 * len(tids))


def token_time(report: Report) -> Chart | None:
    """The duration of each decode call, split by where its time went; None without decode calls."""
    table = report.token_time[report.token_time["name"] == "decode"]
    if not len(table):
        return None
    per_bar = math.ceil(len(table) / _MAX_BARS)
    bars = table.groupby(np.arange(len(table)) // per_bar)
    first, last = bars["token"].first(), bars["token"].last()
    names = [str(one) if one == other else f"{one} to {other}" for one, other in zip(first, last, strict=True)]
    traces = [
        {
            "type": "bar",
            "name": part.title,
            "x": list(range(1, len(table) + 1, per_bar)),
            "y": [round(float(value) / 1e6, 4) for value in bars[part.key].mean()],
            "customdata": names,
            "marker": {"color": _PART_COLORS[part.key], "line": {"width": 0}},
            "hovertemplate": f"token %{{customdata}}<br>{part.title} %{{y:.3f}} ms<extra></extra>",
        }
        for part in PARTS
        if (table[part.key].fillna(0) != 0).any()
    ]
    layout = {
        "barmode": "stack",
        "bargap": 0.1 if len(first) < 100 else 0,
        "xaxis": {"title": {"text": "decode call"}},
        "yaxis": {"title": {"text": "ms"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    together = "" if per_bar == 1 else f" Each bar is the mean of {per_bar} calls."
    caption = (
        f"Duration of {amount(len(table))} decode calls and where it went, mean of the threads that compute.{together}"
    )
    return Chart("chart-tokens", "Decode calls", caption, {"data": traces, "layout": layout}, 380)


def run_queue(report: Report) -> Chart | None:
    """How often threads waited for a CPU how long, by phase; None without such waits."""
    histogram = report.run_queue_histogram
    if not histogram:
        return None
    present = sorted({from_ns for counts in histogram.values() for from_ns, _ in counts})
    edges = [1 << n for n in range(present[0].bit_length() - 1, present[-1].bit_length())]
    traces = [
        {
            "type": "bar",
            "name": phase,
            "x": [duration(edge) for edge in edges],
            "y": [dict(counts).get(edge, 0) for edge in edges],
            "marker": {"color": _PHASE_COLORS[phase], "line": {"width": 0}},
            "hovertemplate": f"{phase}: %{{y}} waits of %{{x}} to twice that<extra></extra>",
        }
        for phase, counts in histogram.items()
    ]
    layout = {
        "barmode": "stack",
        "bargap": 0.05,
        "xaxis": {"title": {"text": "from … up to twice that"}, "type": "category"},
        "yaxis": {"title": {"text": "waits"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    caption = "How often a thread that was ready waited how long for a CPU, by the phase in which the wait ended."
    return Chart("chart-run-queue", "Run-queue latency", caption, {"data": traces, "layout": layout}, 340)


def lateness(report: Report) -> Chart | None:
    """For how long each thread alone was missing at barriers, of each call that was seen; None without such calls."""
    table = report.barriers.late_by_call.tail(_MAX_BARS)
    table = table.loc[:, (table > 0).any()]
    if not table.size:
        return None
    comms = report.by_thread.drop_duplicates("tid").set_index("tid")["comm"]
    tokens = report.phases.drop_duplicates("id").set_index("id").reindex(table.index)
    names = [
        str(name) if pd.isna(token) else f"{name} {token}"
        for name, token in zip(tokens["name"], tokens["token"], strict=True)
    ]
    traces = [
        {
            "type": "bar",
            "name": f"{escape(_comm(comms.get(int(tid))))} {tid}",
            "x": list(range(1, len(table) + 1)),
            "y": [round(float(ns) / 1e6, 5) for ns in table[tid]],
            "customdata": names,
            "hovertemplate": "%{customdata}<br>%{y:.4f} ms<extra>%{fullData.name}</extra>",
        }
        for tid in table.columns
    ]
    layout = {
        "barmode": "stack",
        "showlegend": True,
        "colorway": list(_PART_COLORS.values()),
        "xaxis": {"title": {"text": "calls that were seen"}},
        "yaxis": {"title": {"text": "ms"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    caption = "Who was late: time for which only that thread was missing at barriers, in each call that was seen whole."
    return Chart("chart-barriers", "Lateness at barriers", caption, {"data": traces, "layout": layout}, 340)


def fault_map(report: Report) -> Chart | None:
    """How much of each layer of the model came in by faults, ahead of use, and by reading; None where nothing did."""
    if report.places is None:
        return None
    table = report.places.by_layer.dropna(subset=["layer"])
    layers = table.groupby("layer")[list(_WAYS_IN)].sum().sort_index()
    if not layers.to_numpy(dtype=np.int64).any():
        return None
    known = by_key(PLACE_SUMS)
    traces = [
        {
            "type": "bar",
            "name": known[key].title,
            "x": [int(layer) for layer in layers.index],
            "y": [round(int(n) / (1 << 20), 3) for n in layers[key]],
            "marker": {"color": color},
            "hovertemplate": f"layer %{{x}}: %{{y}} MiB {known[key].title}<extra></extra>",
        }
        for key, color in _WAYS_IN.items()
        if layers[key].any()
    ]
    layout = {
        "barmode": "stack",
        "showlegend": True,
        "xaxis": {"title": {"text": "layer"}, "dtick": max(1, len(layers) // 20)},
        "yaxis": {"title": {"text": "MiB"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    caption = "How each layer of the model came into memory: by page faults, populated ahead of use, read by calls."
    return Chart("chart-layers", "The model by layer", caption, {"data": traces, "layout": layout}, 320)


def _seconds(values_ns: "pd.Series[Any]") -> list[float]:
    return [round(float(ns) / 1e9, 7) for ns in values_ns]


def _comm(comm: Any) -> str:
    return "-" if pd.isna(comm) else printable(str(comm), 40)

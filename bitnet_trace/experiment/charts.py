"""The charts of an experiment's page, as plotly figures."""

from html import escape
from typing import Any

from bitnet_trace.experiment.figures import FIGURES, chart_unit
from bitnet_trace.experiment.outcome import Outcome
from bitnet_trace.experiment.plan import TRACED, UNTRACED
from bitnet_trace.printable import printable
from bitnet_trace.render.charts import Chart

# Okabe and Ito's palette, as in the charts of reports
_RUN_COLORS = {UNTRACED: "#0072b2", TRACED: "#e69f00"}
_MEAN_COLOR = "#d55e00"
_LABEL_LIMIT = 80
_MOST_TIMES = 100.0


def of_cells(found: Outcome) -> Chart | None:
    """Every run of each cell, with the mean of the untraced ones and its interval; None where no run has the figure."""
    key = found.spec.headline
    if key not in found.runs or found.runs[key].isna().all():
        return None
    unit, divisor = chart_unit(key)
    labels = {number: escape(printable(cell.name, _LABEL_LIMIT)) for number, cell in found.cells.items()}
    traces: list[dict[str, Any]] = []
    for kind, color in _RUN_COLORS.items():
        own = found.runs[(found.runs["kind"] == kind) & found.runs["why"].isna() & found.runs[key].notna()]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": kind, "x": (own[key].astype(float) / divisor).tolist(),
                "y": [labels[int(number)] for number in own["cell"]],
                "marker": {"color": color, "size": 7, "opacity": 0.6, "symbol": "circle" if kind == UNTRACED else "x"},
            }
        )  # fmt: skip
    means = {number: row for number, row in found.by_cell(key).items() if row["mean"] is not None}
    above, below = (
        [abs(row[end] - row["mean"]) / divisor if row[end] is not None else 0.0 for row in means.values()]
        for end in ("high", "low")
    )
    traces.append(
        {
            "type": "scatter", "mode": "markers", "name": "mean, 95 %", "y": [labels[number] for number in means],
            "x": [row["mean"] / divisor for row in means.values()],
            "error_x": {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": _MEAN_COLOR},
            "marker": {"color": _MEAN_COLOR, "size": 11, "symbol": "line-ns-open"},
        }
    )  # fmt: skip
    layout = {
        "showlegend": True,
        "xaxis": {"title": {"text": f"{FIGURES[key].title}, {unit}"}, "rangemode": "tozero"},
        "yaxis": {"categoryorder": "array", "categoryarray": list(labels.values())[::-1], "automargin": True},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    title = f"{FIGURES[key].title} by cell"
    caption = (
        f"{FIGURES[key].title} of every run that counts, by cell, with the mean of the untraced ones and its interval."
    )
    return Chart("chart-cells", title, caption, {"data": traces, "layout": layout}, 160 + 28 * len(labels))


def of_factors(found: Outcome) -> Chart | None:
    """The effect of each level with its interval; None where there are none."""
    known = [one for one in found.of_factors if one.pct is not None and one.low_pct is not None]
    if not known:
        return None
    labels = [escape(printable(f"{one.factor} {one.level} against {one.base}", _LABEL_LIMIT)) for one in known]
    ratios = [[_ratio(value) for value in (one.pct, one.low_pct, one.high_pct)] for one in known]
    trace = {
        "type": "scatter", "mode": "markers", "name": "effect", "y": labels, "x": [mean for mean, _, _ in ratios],
        "error_x": {
            "type": "data", "symmetric": False, "array": [high - mean for mean, _, high in ratios],
            "arrayminus": [mean - low for mean, low, _ in ratios],
        },
        "marker": {"color": ["#d55e00" if one.real else "#999999" for one in known], "size": 10},
    }  # fmt: skip
    layout = {
        "showlegend": False,
        "xaxis": {
            "title": {"text": f"{FIGURES[found.spec.headline].title}, times that of the baseline"},
            "type": "log",
        },
        "yaxis": {"autorange": "reversed", "automargin": True},
        "shapes": [{"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot"}}],
    }
    caption = "What each level does, with its interval; in colour those that are real."
    return Chart("chart-factors", "What mattered", caption, {"data": [trace], "layout": layout}, 120 + 32 * len(labels))


def _ratio(pct: float | None) -> float:
    """Within what an axis can show."""
    return min(max(1 + (pct or 0.0) / 100, 1 / _MOST_TIMES), _MOST_TIMES)

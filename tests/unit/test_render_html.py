"""The HTML report: one file, nothing loaded, harmless, and drawn by a real browser."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import plotly.graph_objects
import pytest
from busy import write_busy
from everything import write_everything
from traces import write_inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.render import charts
from bitnet_trace.render.html import render

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: make browser")
DATA = re.compile(r'<script type="application/json" id="([\w-]+)-data">(.*?)</script>', re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return render(build_report(open_recording(write_busy(tmp_path_factory.mktemp("html") / "a.btrace"))))


class Reader(HTMLParser):
    """Elements that are open, ids, links, and what would be loaded."""

    VOID = frozenset({"meta", "input", "link", "img", "br", "hr"})

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.links, self.loaded, self.tags = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.loaded += [attributes[name] for name in ("src", "srcset", "data", "action") if name in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_it_is_well_formed_and_loads_nothing(page):
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.loaded == []
    assert all(link.startswith("#") and link[1:] in reader.ids for link in reader.links)
    assert "link" not in reader.tags
    assert "@import" not in page.split("</style>")[0]


def test_size(page):
    assert len(page.encode()) < 6_000_000


def test_charts_are_figures_that_plotly_accepts(page):
    figures = dict(DATA.findall(page))
    assert list(figures) == ["chart-timeline", "chart-tokens", "chart-run-queue"]
    for text in figures.values():
        plotly.graph_objects.Figure(json.loads(text))


def test_the_bars_of_a_call_add_up_to_its_duration(page):
    figure = json.loads(dict(DATA.findall(page))["chart-tokens"])
    heights = [sum(trace["y"][call] for trace in figure["data"]) for call in range(5)]
    assert heights == pytest.approx([10.0] * 5, rel=0.05)


def test_the_timeline_covers_what_threads_ran(page):
    figure = json.loads(dict(DATA.findall(page))["chart-timeline"])
    heat = next(trace for trace in figure["data"] if trace["type"] == "heatmap")
    main = heat["z"][heat["y"].index("llama-worker 100")]
    assert len(main) == len(heat["x"]) == 1000
    # of 249 ms it was on a CPU for all but a fiftieth
    assert sum(main) / len(main) == pytest.approx(98, abs=0.5)
    phases = {trace["name"]: sum(trace["x"]) for trace in figure["data"] if trace["type"] == "bar"}
    low, high = figure["layout"]["xaxis"]["range"]
    drawn = [edge for trace in figure["data"] if trace["type"] == "bar" for edge in trace["base"]]
    assert low == min(drawn) == 0
    assert high == pytest.approx(0.249, rel=0.02)
    assert low < min(heat["x"]) < max(heat["x"]) < high
    assert phases["load"] == pytest.approx(0.1, rel=0.01)
    assert phases["decode"] == pytest.approx(0.05, rel=0.05)


def test_a_recording_of_counters_alone(tmp_path):
    path = write_inference(tmp_path / "a.btrace")
    for name in ("events", "samples", "stacks"):
        (path / f"{name}.arrows").unlink(missing_ok=True)
    page = render(build_report(open_recording(path)))
    Reader(page)
    assert "cut short" not in page
    assert "Time by phase" in page


def browse(page, tmp_path, script="", *options):
    """The page's DOM after Chromium has run it and then `script`, and what it wrote to its console."""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"))
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/chromium"),
            *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--window-size=1280,900"),
            *("--proxy-server=127.0.0.1:9", *options, "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


TRY = """
const result = {}, report = text => document.body.dataset.result = JSON.stringify(text);
addEventListener("load", () => setTimeout(() => {
  result.charts = [...document.querySelectorAll(".chart")].map(one => one.querySelectorAll(".main-svg").length > 0);
  result.wide = document.documentElement.scrollWidth > innerWidth;
  const graph = document.querySelector(".flame"), frames = [...graph.children];
  const search = document.querySelector(".flames input"), found = document.querySelector(".flames output");
  search.value = "barrier"; search.dispatchEvent(new Event("input"));
  result.found = found.value;
  result.marked = frames.filter(one => one.classList.contains("match")).map(one => one.textContent);
  const target = frames.find(one => one.textContent === "decode");
  target.click();
  result.zoomed = target.style.width;
  result.shown = frames.filter(one => !one.hidden).length;
  const all = frames[0];
  all.focus();
  all.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  result.unzoomed = frames.filter(one => !one.hidden).length === frames.length;
  all.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
  result.focused = document.activeElement.textContent;
  report(result);
}, 1500));
"""


@needs_chromium
def test_in_a_browser(page, tmp_path):
    dom, console = browse(page, tmp_path, TRY)
    assert console == []
    result = json.loads(re.search(r'data-result="([^"]*)"', dom)[1].replace("&quot;", '"'))
    assert result["charts"] == [True] * 3
    assert not result["wide"]
    assert result["found"].endswith("32.4 %")
    assert set(result["marked"]) == {"ggml_barrier"}
    assert result["zoomed"] == "100%"
    assert 2 < result["shown"] < 9
    assert result["unzoomed"]
    # the widest below the root is the load
    assert result["focused"] == "prefill"


@needs_chromium
def test_long_names_do_not_widen_the_page_on_a_phone(tmp_path):
    page = render(build_report(open_recording(write_everything(tmp_path / "a.btrace", name="x" * 4096))))
    script = "addEventListener('load', () => { document.body.dataset.wide = document.documentElement.scrollWidth; });"
    dom, _ = browse(page, tmp_path, script, "--window-size=500,900")
    assert int(re.search(r'data-wide="(\d+)"', dom)[1]) <= 500


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(open_recording(write_busy(tmp_path_factory.mktemp("charts") / "a.btrace")))


def test_lateness_at_barriers(report):
    assert charts.lateness(report) is None
    decodes = report.phases.loc[report.phases["name"] == "decode", "id"].astype("int64").to_numpy()
    late = pd.DataFrame({100: [0, 2_000_000, 0], 101: [500_000, 0, 0], 102: 0}, index=decodes[:3])
    drawn = charts.lateness(replace(report, barriers=replace(report.barriers, late_by_call=late)))
    bars = {trace["name"]: trace["y"] for trace in drawn.figure["data"]}
    assert bars == {"llama-worker 100": [0, 2, 0], "llama-worker 101": [0.5, 0, 0]}
    assert drawn.figure["data"][0]["customdata"] == ["decode 1", "decode 2", "decode 3"]
    plotly.graph_objects.Figure(drawn.figure)


def test_how_layers_came_into_memory(report):
    assert charts.fault_map(report) is None
    ways = {"bytes": [1 << 20, 0, 4096], "populated_bytes": [0, 3 << 20, 0], "read_bytes": 0}
    layers = pd.DataFrame({"layer": pd.array([1, 0, None], "Int64"), "path": "/m.gguf", **ways})
    drawn = charts.fault_map(replace(report, places=replace(report.places, by_layer=layers)))
    assert {trace["name"]: (trace["x"], trace["y"]) for trace in drawn.figure["data"]} == {
        "faulted": ([0, 1], [0, 1]),
        "populated": ([0, 1], [3, 0]),
    }
    plotly.graph_objects.Figure(drawn.figure)

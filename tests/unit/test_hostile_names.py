"""Names that a traced program chose, in every form of output: they come out harmless."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from click.testing import CliRunner
from everything import write_everything
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

import bitnet_trace
from bitnet_trace.analysis import stacks
from bitnet_trace.analysis.compare import Group, compare
from bitnet_trace.analysis.metrics import metrics
from bitnet_trace.analysis.report import build_report
from bitnet_trace.analysis.tidy import tidy
from bitnet_trace.analysis.trace import trace
from bitnet_trace.commands.export import export
from bitnet_trace.commands.report import report
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.render import chrome, comparison, flame, folded, html, markdown, parquet, perfetto, speedscope, text
from bitnet_trace.render import csv as csv_form
from bitnet_trace.render import json as json_form

NAMES = {
    "script": "</script><script>alert(1)</script>",
    "image": "\"'><img src=x onerror=alert(1)>&lt;",
    "escape": "\x1b]0;owned\x07\x1b[2J\x9b31m",
    "formula": "=cmd()|' /C calc'!A0",
    "lines": "a\r\nb\u2028c\x85d\x00e",
    "long": "x" * 4096,
    "direction": "\u202egnp.exe",
    "markdown": "[a](javascript:alert(1)) | `x` **b** <b> $x$",
    "template": "{{ 7 * 7 }} {% raw %} ${x}",
}
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202e]")


def forms_of(path):
    """Every form of output that is text or bytes, of one report."""
    built = build_report(open_recording(path))
    seen = trace(built)
    weighed = stacks.on_cpu(built.recording, built.phases, built.profile)
    return {
        "report": built,
        "text": text.render(built),
        "markdown": markdown.render(built),
        "html": html.render(built),
        "json": json_form.render(built),
        "perfetto": b"".join(perfetto.chunks(seen)),
        "chrome": b"".join(chrome.chunks(seen)).decode(),
        "speedscope": speedscope.render(weighed, path.name),
        "folded": folded.render(weighed),
        "flamegraph": flame.render(weighed, path.name, built.run["engine"]),
        "csv": csv_form.render(tidy(built)["by_thread"]),
    }


@pytest.fixture(scope="module", params=NAMES)
def forms(request, tmp_path_factory):
    path = write_everything(tmp_path_factory.mktemp("hostile") / "a.btrace", name=NAMES[request.param])
    return {"name": NAMES[request.param], **forms_of(path)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return forms_of(write_everything(tmp_path_factory.mktemp("harmless") / "a.btrace"))


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.scripts, self.tags, self.handlers = 0, set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name in ("src", "action")]


def test_html(forms, plain):
    page, harmless = forms["html"], Tags(plain["html"])
    found = Tags(page)
    assert (found.scripts, found.tags, found.handlers) == (harmless.scripts, harmless.tags, [])
    # plotly's own text has some in its strings
    assert not CONTROLS.search(page.split("Plotly, Inc.")[0])
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL):
        # plotly understands some tags in labels: these are escaped once more
        labels = [trace["y"] for trace in json.loads(data)["data"] if trace["type"] == "heatmap"]
        assert not any("<" in label for own in labels for label in own)


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_text_and_markdown(forms, form):
    assert not CONTROLS.search(forms[form])
    assert "\r" not in forms[form]
    assert form == "text" or not re.search(r"(?<!\\)(<(script|img|b)|\]\(javascript)", forms[form])


def test_json_has_the_names_as_they_are(forms):
    assert forms["json"].isascii()
    assert json.loads(forms["json"])["run"]["command"] == [forms["name"], "-m", forms["name"]]


def test_compare(forms, plain):
    groups = [Group(one["report"].run["engine"], [metrics(one["report"])]) for one in (forms, plain)]
    compared = [compare(*groups)]
    parts = comparison.sections(groups, compared)
    json.loads(comparison.to_json(groups, compared))
    for rendered in (text.render_sections("x", parts), markdown.render_sections("x", parts)):
        assert not CONTROLS.search(rendered)
    page = html.render_sections("x", parts)
    assert not CONTROLS.search(page)
    assert Tags(page).scripts == 0
    assert "img" not in Tags(page).tags


def test_perfetto_chrome_speedscope(forms):
    packets = proto.Trace.FromString(forms["perfetto"]).packet
    names = [packet.track_descriptor.thread.thread_name for packet in packets]
    names += [one.name for packet in packets for one in packet.interned_data.event_names]
    assert forms["chrome"].isascii()
    assert forms["speedscope"].isascii()
    names += [one["args"]["name"] for one in json.loads(forms["chrome"])["traceEvents"] if one["ph"] == "M"]
    names += [one["name"] for one in json.loads(forms["speedscope"])["shared"]["frames"]]
    assert len(names) > 50
    assert not any(CONTROLS.search(name) or len(name) > 250 for name in names)


def test_folded_and_flame_graph(forms):
    assert not CONTROLS.search(forms["folded"])
    assert all(re.fullmatch(r"[^\n]+ \d+", line) for line in forms["folded"].splitlines())
    found = Tags(forms["flamegraph"])
    assert (found.scripts, found.handlers) == (1, [])
    assert "img" not in found.tags


def test_csv(forms):
    assert not CONTROLS.search(forms["csv"])
    rows = list(csv.DictReader(io.StringIO(forms["csv"], newline="")))
    assert len(rows) == 4
    assert not any(row["comm"].startswith(("=", "+", "-", "@")) for row in rows)


def test_parquet(forms, tmp_path):
    parquet.write(forms["report"], tmp_path / "fleet", force=False)
    for name in ("by_thread", "functions", "ran_instead"):
        for value in pd.read_parquet(tmp_path / "fleet" / name).select_dtypes(["string", "object"]).stack():
            assert not CONTROLS.search(str(value))


def output(command, *arguments):
    result = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout_bytes


def test_bytes_that_are_no_text(tmp_path):
    """File names may be any bytes: Python has such as lone surrogates."""
    path = write_everything(tmp_path / "a.btrace")
    meta = json.loads((path / "meta.json").read_text())
    meta["command"] = ["llama-\udcff\udc80cli"]
    meta["engine"] = "x\ud800"
    meta["neighbours"] = {"999": "h\udcffog"}
    (path / "meta.json").write_text(json.dumps(meta))
    assert bitnet_trace.open(path).run["command"] == meta["command"]
    for form in ("text", "markdown", "html", "json"):
        assert output(report, path, "--format", form).decode()
    for form in ("perfetto", "chrome", "speedscope", "folded", "flamegraph", "csv"):
        assert output(export, path, "--to", form)
    output(export, path, "--to", "parquet", "-o", tmp_path / "fleet")

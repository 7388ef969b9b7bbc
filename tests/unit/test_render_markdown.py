"""The report as Markdown."""

import re

import pytest
from traces import PID, inference, inference_events, write_inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render.markdown import render


def tables(text):
    """Title to the cells of its table, the rule below the head left out."""
    found = {}
    for title, body in re.findall(r"^## (.*)\n\n((?:\|.*\n)+)", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines()]
        found[title] = [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]
    return found


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return render(build_report(open_recording(write_inference(tmp_path_factory.mktemp("md") / "a.btrace"))))


def test_tables_are_whole(output):
    found = tables(output)
    assert found["Time by phase"][0] == ["phase", "n", "duration", "on CPU", "CPU user"]
    assert found["Time by phase"][-1][:3] == ["**total**", "**19**", "**249 ms**"]
    assert ["prefill", "1", "60.0 ms", "30.0 ms", "30.0 ms"] in found["Time by phase"]
    assert ["TTFT", "192 ms"] in found["Speed"]
    assert ["decode", "49.5 ms", "101", "50.0 ms", "+1.0 %"] in found["The engine's own figures"]
    for rows in found.values():
        assert {len(row) for row in rows} == {len(rows[0])}


def test_heading_and_health(output):
    assert output.startswith("# bitnet-trace report: a.btrace\n")
    assert "* **command**: llama-cli -m model.gguf -p hello" in output
    assert "> ⚠ attached, never hit: teardown" in output
    assert "coverage 99.60 %" in output


def test_text_of_the_target_is_escaped(tmp_path):
    script = inference()
    evil = "<script>|`*x*_[a](b)\n# y"
    writer = Writer(tmp_path / "a.btrace", {"command": [evil]})
    writer.phases(script.rows())
    writer.events(inference_events(script))
    writer.threads([{"tid": PID, "pid": PID, "comm": evil, "start_ns": 0}])
    writer.close(0)
    output = render(build_report(open_recording(tmp_path / "a.btrace")))
    escaped = r"\<script\>\|\`\*x\*\_\[a\](b)\\x0a\# y"
    assert f"* **command**: {escaped}" in output
    assert [row for row in tables(output)["Threads"] if row[1] == escaped]

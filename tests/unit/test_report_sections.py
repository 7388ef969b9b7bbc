"""Every table that a person sees is one that JSON has; every rendering shows the same tables."""

import html as html_module
import json
import re

import pandas as pd
import pytest
from busy import write_busy
from everything import write_everything
from traces import write_inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.columns import COUNTERS, PARTS, PHASE_SUMS, by_key
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.render import html, markdown, text
from bitnet_trace.render import json as json_form
from bitnet_trace.render.format import cell
from bitnet_trace.render.sections import sections


@pytest.fixture(scope="module", params=[write_busy, write_everything, write_inference])
def report(tmp_path_factory, request):
    return build_report(open_recording(request.param(tmp_path_factory.mktemp("sections") / "a.btrace")))


@pytest.fixture(scope="module")
def grids(report):
    return [grid for section in sections(report) for grid in section.tables]


def rows_of_json(value, source):
    for key in source.split("."):
        value = value[key]
    return value


def test_each_cell_is_that_of_json(report, grids):
    value = json.loads(json_form.render(report))
    checked = 0
    for grid in grids:
        if not grid.columns:
            continue
        rows = rows_of_json(value, grid.source)
        if grid.source == "io.by_opcode":
            rows = [{**row, **row["latency_ns"]} for row in rows]
        shown = {tuple(cell(row[column.key], column) for column in grid.columns) for row in rows}
        own = grid.rows[:-1] if grid.has_total else grid.rows
        assert {tuple(row) for row in own} <= shown, grid.title
        checked += len(own)
    assert checked > 20


def test_totals_are_those_of_json(report, grids):
    value = json.loads(json_form.render(report))["total"]
    known = by_key(COUNTERS)
    for grid in grids:
        if grid.has_total:
            named = {column.key: text for column, text in zip(grid.columns, grid.rows[-1], strict=True)}
            assert named.pop("phase") == "total"
            for key, text in named.items():
                assert key in by_key(PHASE_SUMS) or text == cell(value[key], known[key])


def test_all_forms_show_all_tables(report, grids):
    shown = {
        "html": html_module.unescape(html.render(report)),
        "markdown": markdown.render(report).replace("\\", ""),
        "text": text.render(report, 250),
    }
    for grid in grids:
        for form, output in shown.items():
            assert grid.title in output, form
            for row in grid.rows:
                for one in row:
                    assert one in output, (form, grid.title, one)


def test_the_html_has_no_other_numbers_than_the_tables(report, grids):
    page = html.render(report)
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", page)
    assert len(cells) == sum(len(grid.titles) + sum(len(row) for row in grid.rows) for grid in grids)


def test_the_parts_of_a_call_add_up(report):
    table = report.token_time
    if report.recording.n_events > 200:
        assert len(table) == 6
    parts = table[[column.key for column in PARTS]]
    assert (parts.fillna(0) >= 0).all(axis=None)
    pd.testing.assert_series_equal(parts.fillna(0).sum(axis=1), table["dur_ns"], check_names=False, check_dtype=False)


def test_a_waiting_thread_shows_in_its_part(tmp_path):
    quiet = build_report(open_recording(write_busy(tmp_path / "a.btrace"))).phase_time.set_index("name").loc["decode"]
    path = write_busy(tmp_path / "b.btrace", hog=0.4)
    waiting = build_report(open_recording(path)).phase_time.set_index("name").loc["decode"]
    assert quiet["runq_ns"] / quiet["dur_ns"] == pytest.approx(3 / 4 * 0.02, rel=0.05)
    # one thread of four waits for two fifths of each call, two others for a fiftieth
    assert waiting["runq_ns"] / waiting["dur_ns"] == pytest.approx((0.4 + 2 * 0.02) / 4, rel=0.15)
    assert waiting["n_threads"] == 4

"""NUMA nodes, from made-up machines: the one that tests run on may have one node."""

import numpy as np
import pandas as pd
import pytest
from traces import META, MS, PID, event, events, phase_row

from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture.numa import node_rows, nodes
from bitnet_trace.capture.page_sizes import ResidencyLog
from bitnet_trace.recording.layout import Kind, MemoryDetail
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as json_report
from bitnet_trace.render import text

BASE = 0x7F0000000000
ANONYMOUS = MemoryDetail.READ | MemoryDetail.WRITE | MemoryDetail.ANONYMOUS
# as proc(5) has them
NUMA_MAPS = """\
55d0c0000000 default file=/usr/bin/cat mapped=7 mapmax=2 N0=5 N1=2 kernelpagesize_kB=4
7f0000000000 bind:0-1 anon=512 dirty=512 N0=128 N1=384 kernelpagesize_kB=4
7f0040000000 default file=/anon_hugepage\\040(deleted) huge dirty=3 N1=3 kernelpagesize_kB=2048
7ffc00000000 default stack
"""


def test_nodes_and_pages_of_a_machine(tmp_path):
    for name, value in (("online", "0-1"), ("node0/cpulist", "0-3,8-11"), ("node1/cpulist", "4-7")):
        path = tmp_path / "sys/devices/system/node" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    assert nodes(tmp_path) == {0: [0, 1, 2, 3, 8, 9, 10, 11], 1: [4, 5, 6, 7]}
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/numa_maps").write_text(NUMA_MAPS)
    rows = node_rows(7, "decode", tmp_path)
    assert [(row["begin"], row["end"] - row["begin"], row["node"]) for row in rows] == [
        (0x55D0C0000000, 5 * 4096, 0),
        (0x55D0C0000000 + 5 * 4096, 2 * 4096, 1),
        (BASE, 128 * 4096, 0),
        (BASE + 128 * 4096, 384 * 4096, 1),
        (BASE + (1 << 30), 3 << 21, 1),
    ]
    assert node_rows(8, "decode", tmp_path) == []
    assert nodes(tmp_path / "none") == {}


def test_looked_at_where_there_are_several():
    log = ResidencyLog(False, lambda *_: [], lambda pid, moment: [{"pid": pid, "moment": moment}])
    log.ended([(7, "load"), (7, "decode")])
    assert log.take_nodes() == [{"pid": 7, "moment": "decode"}]
    assert log.take_nodes() == []


@pytest.fixture
def report(tmp_path):
    def made(numa):
        writer = Writer(tmp_path / "x.btrace", {**META, "numa": numa})
        writer.phases([phase_row(1, 0, 10 * MS, "startup"), phase_row(2, 10 * MS, 90 * MS, n_tokens=1, n_sampled=1)])
        rows = [
            event(Kind.MMAP, 2 * MS, 1, PID, 512, BASE | ANONYMOUS, 100),
            event(Kind.MIGRATE, 20 * MS, 2, PID, 3, 0, 0),  # to CPU 3 from CPU 0: another node
            event(Kind.MIGRATE, 21 * MS, 2, PID, 2, 3, 0),  # the same
        ]
        writer.events(events(*rows))
        seen = {"pid": PID, "moment": "decode"}
        half = BASE + 128 * 4096
        writer.numa(
            [
                {**seen, "ts_ns": 5 * MS, "begin": BASE, "end": half, "node": 0},  # an earlier look
                {**seen, "ts_ns": 30 * MS, "begin": BASE, "end": half, "node": 0},
                {**seen, "ts_ns": 30 * MS, "begin": half, "end": BASE + 512 * 4096, "node": 1},
            ]
        )
        samples = np.zeros(8, SAMPLE_ROW_DTYPE)
        samples["ts_ns"], samples["tid"], samples["pid"], samples["phase"] = 30 * MS, PID, PID, 2
        samples["cpu"] = [0, 1, 1, 0, 2, 3, 0, 1]
        stacks = np.zeros(1, STACK_ROW_DTYPE)
        stacks["pid"], stacks["address"] = PID, 4096
        writer.samples(samples, stacks)
        writer.close(0)
        return build_report(open_recording(tmp_path / "x.btrace"))

    return made


def test_shares_of_two_nodes(report):
    found = report({"0": [0, 1], "1": [2, 3]})
    table = found.numa.regions.set_index("node")
    assert table["resident_bytes"].to_dict() == {0: 128 * 4096, 1: 384 * 4096}
    # a quarter of the pages is where three quarters of the time were
    assert table["local_pct"].tolist() == pytest.approx([100 * (0.25 * 0.75 + 0.75 * 0.25)] * 2)
    phases = found.numa.phases
    of_call = phases[phases["cpu_pct"].notna() & (phases["phase"] != "total")].set_index("node")
    assert of_call["cpu_pct"].to_dict() == {0: 75.0, 1: 25.0}
    assert set(of_call["node_moves"]) == {1}
    as_json = json_report.to_dict(found)["numa"]
    assert as_json["nodes"] == {"0": [0, 1], "1": [2, 3]}
    shown = text.render(found, 100)
    assert "Memory by NUMA node" in shown
    assert "37.5 %" in shown


def test_one_node_is_a_line(report):
    found = report({"0": [0, 1, 2, 3]})
    assert "one NUMA node: all memory is local" in text.render(found, 100)
    assert json_report.to_dict(found)["numa"] == {"nodes": {"0": [0, 1, 2, 3]}, "regions": [], "phases": []}


@pytest.mark.parametrize("numa", [{}, {"x": [1]}, {"0": "1"}, {"0": [-1]}, {"99999": [1]}])
def test_nodes_that_are_not_known(report, numa):
    found = report(numa)
    assert found.numa is None
    assert isinstance(found.places.nodes, pd.DataFrame)

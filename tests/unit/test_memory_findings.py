"""Findings about memory: planted ones are found, a healthy run has none."""

import pytest
from traces import META, MS, PID, event, events, inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.layout import FaultFlag, Kind, MemoryDetail, SwitchFlag
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer

BASE = 0x7F0000000000
HUGE = 2 << 20
ANONYMOUS = MemoryDetail.READ | MemoryDetail.WRITE | MemoryDetail.ANONYMOUS


@pytest.fixture
def rules(tmp_path):
    """`rules(rows, ...)`: {rule: finding} of an inference with those events besides; streams by name."""

    def find(rows=(), meta=None, **streams):
        script = inference()
        writer = Writer(tmp_path / "x.btrace", {**META, **(meta or {})})
        writer.phases(script.rows())
        ran = [
            event(
                Kind.SWITCH_OUT,
                row["end_ns"] - 1,
                row["id"],
                PID,
                SwitchFlag.VOLUNTARY,
                row["end_ns"] - row["begin_ns"] - 2,
            )
            for row in script.rows()
        ]
        everything = events(*sorted([*rows, *ran]))
        writer.events(everything)
        writer.threads([{"tid": PID, "pid": PID, "comm": "x", "parent_tid": None, "start_ns": 1, "end_ns": None}])
        for name, table in streams.items():
            getattr(writer, name)(table)
        writer.close(0)
        report = build_report(open_recording(tmp_path / "x.btrace"))
        return {one.rule: one for one in report.findings}

    return find


def decode_calls():
    return [row for row in inference().rows() if row["role"] == "decode" and row["n_tokens"] == 1]


def faults(n, flags=0, latency_ns=2_500_000):
    return [
        event(
            Kind.FAULT, call["begin_ns"] + (1 + number) * 1000, call["id"], PID, flags, BASE + number * 4096, latency_ns
        )
        for call in decode_calls()
        for number in range(n)
    ]


def test_a_healthy_run(rules):
    assert not rules(faults(1, latency_ns=1000))


def test_faults_in_decode(rules):
    """Five calls of 10 ms, each with 2.5 ms in a fault."""
    start = event(Kind.MMAP, 1000 * MS, 1, PID, 9, BASE | ANONYMOUS, 1)
    found = rules([start, *faults(1)])["faults_in_decode"]
    assert found.figure == pytest.approx(25, abs=1)
    assert found.severity == "critical"
    assert found.evidence == ("anonymous, mapped in startup: 12.5 ms",)


def test_major_faults_in_decode(rules):
    found = rules(faults(4, FaultFlag.MAJOR, 1000))["major_faults_in_decode"]
    assert (found.figure, found.phase) == (20, "decode")


@pytest.mark.parametrize(("page_bytes", "found"), [(4096, True), (HUGE, False)])
def test_huge_pages_not_given(rules, page_bytes, found):
    size = 16 * HUGE
    calls = [
        event(Kind.MMAP, 1000 * MS + 1, 1, PID, size >> 12, BASE | ANONYMOUS, 1),
        event(Kind.MADVISE, 1000 * MS + 9, 1, PID, size >> 12, BASE | 14, 1),
    ]
    row = {"pid": PID, "ts_ns": 1100 * MS, "moment": "decode", "begin": BASE, "end": BASE + size, "file": False}
    asked = {"huge_pages_asked": {str(PID): {"thp_enabled": False, "glibc_tunables": None}}}
    rule = rules(calls, asked, residency=[{**row, "page_bytes": page_bytes}]).get("huge_pages_not_given")
    assert (rule is not None) is found
    if rule:
        assert rule.evidence == ("32.0 MiB in small pages", "prctl(PR_SET_THP_DISABLE) forbids them to the process")


@pytest.mark.parametrize(("from_disk", "found"), [(1 << 20, True), (1 << 10, False)])
def test_cold_cache(rules, from_disk, found):
    load = next(row for row in inference().rows() if row["role"] == "load")
    moment = load["begin_ns"] + 10
    calls = [
        event(Kind.POPULATE, moment, load["id"], PID, 9, 3, 2 << 20),
        event(Kind.MMAP, moment, load["id"], PID, 512, BASE | MemoryDetail.READ, 5),
    ]
    mapped = {"pid": PID, "ts_ns": moment - 5, "address": 0, "length": 2 << 20, "offset": 0, "device": 1, "inode": 2}
    account = {"at": "exit", "tid": PID, "pid": PID, "read_bytes": from_disk}
    rule = rules(calls, maps=[{**mapped, "path": "/m.gguf"}], taskstats=[account]).get("cold_cache")
    assert (rule is not None) is found
    assert rule is None or rule.figure == 50


@pytest.mark.parametrize(("delay_ns", "found"), [(30 * MS, True), (1 * MS, False)])
def test_memory_pressure(rules, delay_ns, found):
    account = {"at": "exit", "tid": PID, "pid": PID, "freepages_delay_ns": delay_ns, "swapin_delay_ns": 0}
    assert ("memory_pressure" in rules(taskstats=[account])) is found

"""io_uring's requests and TLB flushes: folded to counters, by opcode and size, and in a report."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from traces import META, PID, event, events, inference, phase_row, phase_table, write_inference

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.fold import fold_events
from bitnet_trace.analysis.io_uring import IoRequests
from bitnet_trace.analysis.phases import name_phases
from bitnet_trace.analysis.report import build_report
from bitnet_trace.analysis.tables import by_thread, with_durations
from bitnet_trace.analysis.tlb import TlbFlushes
from bitnet_trace.recording.layout import (
    COUNTER_FIELDS,
    IO_UNKNOWN_OPCODE,
    IoFlag,
    Kind,
    SwitchFlag,
    TlbEvent,
)
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as json_form
from bitnet_trace.render import markdown, text

TWO_PHASES = phase_table(phase_row(1, 0, 100, "load"), phase_row(2, 100, None, "gap"))
NAMES = ["NOP", "READV", "", "FSYNC"]
ALL = (1 << 64) - 1
TID = PID + 1


def u64(value):
    return value & ALL


def submit(ts_ns, opcode, phase=1, flags=0):
    return event(Kind.IO_SUBMIT, ts_ns, phase, arg0=opcode | flags, arg1=77)


def complete(ts_ns, opcode, result, latency_ns, phase=1, flags=0):
    return event(Kind.IO_COMPLETE, ts_ns, phase, arg0=opcode | flags, arg1=u64(result), arg2=latency_ns)


def tlb(what, pages=1, phase=1, tid=PID):
    return event(Kind.TLB, 50, phase, tid, what, u64(pages))


REQUESTS = (
    submit(10, 1, flags=IoFlag.BYTES),
    submit(11, 1, flags=IoFlag.BYTES | IoFlag.POLLED),
    submit(12, 3),
    complete(20, 1, 4096, 10, flags=IoFlag.BYTES),
    complete(30, 3, 0, 18, flags=IoFlag.WORKER),
    complete(140, 1, -5, 129, phase=2, flags=IoFlag.BYTES),
    complete(141, IO_UNKNOWN_OPCODE, -22, 0, phase=2, flags=IoFlag.NO_LATENCY),
    complete(142, IO_UNKNOWN_OPCODE, 7, 0, phase=2, flags=IoFlag.NO_LATENCY | IoFlag.MORE),
)


def fold(*rows):
    table = fold_events(events(*rows), TWO_PHASES)
    return {key: {name: int(row[name]) for name in COUNTER_FIELDS if row[name]} for key, row in table.iterrows()}


def test_requests_bill_where_they_begin_and_where_they_end_and_are_not_split():
    assert fold(*REQUESTS) == {
        (1, PID): {"io_uring_submitted": 3, "io_uring_completed": 2, "io_uring_bytes": 4096, "io_uring_ns": 28},
        (2, PID): {"io_uring_completed": 2, "io_uring_ns": 129},
    }


def test_flushes_are_counted_by_who_did_what_and_full_ones_have_no_pages():
    rows = (
        tlb(TlbEvent.BEGUN, 3),
        tlb(TlbEvent.BEGUN, -1),
        tlb(TlbEvent.BEGUN, 5, phase=2),
        tlb(TlbEvent.IPI_SENT, -1),
        tlb(TlbEvent.RECEIVED, 3, tid=TID),
    )
    assert fold(*rows) == {
        (1, PID): {"tlb_flushes": 2, "tlb_full_flushes": 1, "tlb_flush_pages": 3, "tlb_ipis_sent": 1},
        (1, TID): {"tlb_shootdowns_received": 1},
        (2, PID): {"tlb_flushes": 1, "tlb_flush_pages": 5},
    }
    flushes = TlbFlushes()
    flushes.add(ByKind(events(*rows)))
    assert flushes.pages() == {"p50": 3, "p90": 5, "p99": 5, "max": 5}


def test_all_time_of_a_kernel_thread_is_system_time_and_split_like_it():
    flags = SwitchFlag.VOLUNTARY | SwitchFlag.IN_KERNEL
    assert fold(event(Kind.SWITCH_OUT, 130, 2, arg0=flags, arg1=50)) == {
        (1, PID): {"cpu_ns": 20, "cpu_system_ns": 20},
        (2, PID): {"cpu_ns": 30, "cpu_system_ns": 30, "switches_voluntary": 1},
    }


def test_requests_by_opcode():
    requests = IoRequests()
    for begin in range(0, len(REQUESTS), 3):
        requests.add(ByKind(events(*REQUESTS[begin : begin + 3])))
    assert requests.more == 1
    read, sync, refused = requests.by_opcode(NAMES)
    assert read == {
        "opcode": "READV",
        "submitted": 2,
        "completed": 2,
        "bytes": 4096,
        "errors": 1,
        "by_worker": 0,
        "by_polling_thread": 1,
        "latency_ns": {"p50": 10, "p90": 129, "p99": 129, "max": 129},
    }
    assert (sync["opcode"], sync["completed"], sync["bytes"], sync["by_worker"]) == ("FSYNC", 1, 0, 1)
    assert (refused["opcode"], refused["submitted"], refused["completed"], refused["errors"]) == (None, 0, 1, 1)
    assert refused["latency_ns"] is None


def test_an_opcode_without_a_name_is_its_number():
    requests = IoRequests()
    requests.add(ByKind(events(submit(1, 2), submit(2, 62))))
    assert [row["opcode"] for row in requests.by_opcode(NAMES)] == ["2", "62"]


@given(st.lists(st.lists(st.integers(0, 50)), min_size=1))
def test_quantiles_are_those_of_all_values(batches):
    gathered, everything = Distribution(), sorted(value for batch in batches for value in batch)
    for batch in batches:
        gathered.add(np.array(batch, dtype=np.int64))
    if not everything:
        assert gathered.quantiles() is None
        return
    rank = {name: everything[-(-len(everything) * n // 100) - 1] for name, n in (("p50", 50), ("p90", 90), ("p99", 99))}
    assert gathered.quantiles() == {**rank, "max": everything[-1]}


def recorded(path, detail="events", **meta):
    """A recording with REQUESTS and two flushes in the first phase of `inference`."""
    script = inference()
    writer = Writer(path, {**META, "probes": [], "options": {"detail": detail}, "io_uring_opcodes": NAMES, **meta})
    writer.phases(script.rows())
    writer.events(events(*REQUESTS, tlb(TlbEvent.BEGUN, 3), tlb(TlbEvent.BEGUN, -1)))
    writer.close(0)
    return build_report(open_recording(path))


def test_the_report(tmp_path):
    report = recorded(tmp_path / "a.btrace", io_uring_overflows=2)
    value = json.loads(json_form.render(report))
    assert value["tlb"] == {
        "flushes": 2,
        "full_flushes": 1,
        "flush_pages": 3,
        "ipis_sent": 0,
        "shootdowns_received": 0,
        "pages": {"p50": 3, "p90": 3, "p99": 3, "max": 3},
    }
    by_opcode = value["io"].pop("by_opcode")
    assert [row["opcode"] for row in by_opcode] == ["READV", "FSYNC", None]
    assert value["io"] == {
        "submitted": 3,
        "completed": 4,
        "bytes": 4096,
        "ns": 157,
        "more_completions": 1,
        "cq_overflows": 2,
    }
    for output in (text.render(report, 120), markdown.render(report)):
        table = " ".join(output.split("io_uring requests")[1].split()).replace(" | ", " ")
        assert "READV 2 2 4.00 KiB 1 0 10 ns 129 ns 129 ns 129 ns" in table.replace("| ", "")
        assert "(refused)" in table


def test_where_only_counters_are_kept_there_are_sums_alone(tmp_path):
    report = recorded(tmp_path / "a.btrace", detail="counts")
    assert (report.io["submitted"], report.io["by_opcode"], report.io["cq_overflows"]) == (3, None, None)
    assert "io_uring requests" not in text.render(report)


def test_what_was_not_attached_is_null(tmp_path):
    report = build_report(open_recording(write_inference(tmp_path / "a.btrace")))
    assert (report.io, report.tlb) == (None, None)
    assert json.loads(json_form.render(report))["io"] is None


def test_names_of_opcodes_that_are_none_are_left_out(tmp_path):
    report = recorded(tmp_path / "a.btrace", io_uring_opcodes=[1, 2])
    assert [row["opcode"] for row in report.io["by_opcode"]] == ["1", "3", None]


def test_the_role_of_a_kernel_thread(tmp_path):
    report = build_report(open_recording(write_inference(tmp_path / "a.btrace")))
    threads = report.recording.threads.replace({"comm": {"worker": "iou-wrk-100"}})
    table = by_thread(report.counters, with_durations(name_phases(report.recording.phases), 0, 0), threads)
    assert dict(zip(table["comm"], table["role"], strict=True)) == {"llama-cli": "main", "iou-wrk-100": "io_uring"}

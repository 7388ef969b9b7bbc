"""Where faults fell, while it goes on: what the report says, however late the tensors of the model are known."""

import pytest

from bitnet_trace.analysis.report import build_report
from bitnet_trace.live.fold import Fold
from bitnet_trace.recording.layout import FaultFlag, Kind, MemoryDetail
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer
from tests.unit.test_fault_places import BASE, DEVICE, INODE, MODEL, PAGE, fault, mapped_model, mmap, tensor
from tests.unit.test_live_fold import report_places
from tests.unit.traces import META, MS, PID, event, events, phase_row

CHILD = 200
OF_FILE = MemoryDetail.READ
HEAP = BASE + 1000 * PAGE


def run():
    """A model that is mapped and read, a child that has its parent's memory until it begins anew, and a heap."""
    yield mmap(10, BASE, 100, OF_FILE)
    yield fault(20, BASE + PAGE)
    yield fault(30, BASE + 12 * PAGE, FaultFlag.MAJOR)
    yield mmap(40, BASE + 200 * PAGE, 8)
    yield event(Kind.POPULATE, 50, 1, PID, 0, 8, 8 * PAGE)
    yield mmap(50, BASE + 300 * PAGE, 8)
    yield event(Kind.FILE_READ, 60, 1, PID, DEVICE, 2 * PAGE, INODE)
    yield event(Kind.READ, 60, 1, PID, 0, 4 * PAGE, 5)
    yield event(Kind.BRK, 70, 1, PID, 0, HEAP, 1)
    yield event(Kind.BRK, 75, 1, PID, 0, HEAP + 3 * PAGE, 1)
    yield fault(80, HEAP + PAGE)
    yield fault(MS, BASE, phase=9, tid=CHILD)  # as its parent had it
    yield fault(3 * MS, BASE, phase=9, tid=CHILD)  # a new program
    for number in range(50):
        yield fault((10 + 10 * number) * MS, BASE + (number % 20) * PAGE, phase=2)
    yield event(Kind.MUNMAP, 600 * MS, 2, PID, 100, BASE, 10)
    yield fault(601 * MS, BASE, phase=2)


STREAMS = {
    "phases": [
        phase_row(1, 0, 5 * MS, "load"),
        phase_row(2, 5 * MS, None),
        {**phase_row(9, 100, None, "startup"), "pid": CHILD, "tid": CHILD},
    ],
    "threads": [
        {"tid": PID, "pid": PID, "comm": "x", "parent_tid": 1, "start_ns": 1, "end_ns": None, "exit_code": None},
        {"tid": CHILD, "pid": CHILD, "comm": "y", "parent_tid": PID, "start_ns": 90, "end_ns": None, "exit_code": None},
    ],
    "maps": mapped_model(10),
    "areas": [
        {
            **dict.fromkeys(("begin", "end", "offset", "device", "inode", "protection"), 0),
            "pid": CHILD,
            "ts_ns": 2 * MS,
            "moment": "exec",
            "path": "/bin/true",
        }
    ],
}
TENSORS = [tensor("blk.0.ffn_down.weight", 0, 8 * PAGE), tensor("blk.1.ffn_down.weight", 8 * PAGE, 50 * PAGE)]


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("known_after", [0, 3, None])
def test_the_same_as_in_the_report(tmp_path, size, known_after):
    writer = Writer(tmp_path / "x.btrace", META)
    for name, rows in {**STREAMS, "tensors": TENSORS}.items():
        writer.append(name, rows)
    rows = list(run())
    writer.events(events(*rows))
    writer.close(0)
    wanted = report_places(build_report(open_recording(writer.path)))
    assert wanted["blk.0.ffn_down.weight", MODEL]["faults_minor"] > 10
    assert wanted["blk.1.ffn_down.weight", MODEL]["faults_major"] == 1

    fold = Fold()
    for name in ("threads", "maps", "areas", "phases"):
        fold.take(name, STREAMS[name])
    for number, batch in enumerate(cut(rows, size)):
        if number == known_after:
            fold.take("tensors", TENSORS)
        fold.take("events", events(*batch))
        fold.settle()
    if known_after is None or known_after > number:
        fold.take("tensors", TENSORS)
    fold.take("threads", [{**row, "end_ns": 700 * MS} for row in STREAMS["threads"]])
    fold.finish()
    assert {(name, path): sums for name, path, _, sums in fold.places.rows()} == wanted


def cut(rows, size):
    return [rows[place : place + size] for place in range(0, len(rows), size)]

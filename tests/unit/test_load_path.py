"""How models got in: bytes by way, and the requests."""

from traces import META, MS, PID, event, events, phase_row

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.layout import READ_DIRECT, Kind
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer

DEVICE, INODE = 8, 77


def read(ts_ns, offset, size, phase=2, inode=INODE, tid=PID):
    return [
        event(Kind.FILE_READ, ts_ns, phase, tid, DEVICE, offset, inode),
        event(Kind.READ, ts_ns, phase, tid, 3, size, size // 10),
    ]


def test_reads_by_way_and_size(tmp_path):
    writer = Writer(tmp_path / "x.btrace", META)
    writer.phases(
        [
            phase_row(1, 0, 10 * MS, "startup"),
            phase_row(2, 10 * MS, 20 * MS, "load"),
            phase_row(3, 20 * MS, 30 * MS, "teardown"),
        ]
    )
    tensor = {"device": DEVICE, "inode": INODE, "path": "/m.gguf", "name": "blk.0.a", "type": 36, "type_name": "I2_S"}
    writer.tensors([{**tensor, "elements": 4, "rows": 1, "offset": 0, "size_bytes": 10_000}])
    rows = [
        *read(11 * MS, 0, 4000),
        *read(12 * MS, 4000 | READ_DIRECT, 6000),
        *read(13 * MS, 0, 900, inode=5),  # another file
        *read(25 * MS, 0, 100, phase=3),  # not loading
        event(Kind.READ, 14 * MS, 2, PID, 0, 50, 1),  # a pipe
    ]
    writer.events(events(*rows))
    writer.close(0)
    report = build_report(open_recording(tmp_path / "x.btrace"))
    (row,) = report.load_path.to_dict("records")
    assert (row["phase"], row["dur_ns"], row["gb_per_s"]) == ("load", 10 * MS, 0.001)
    assert (row["cached_read_bytes"], row["direct_read_bytes"], row["populated_bytes"]) == (4000, 6000, 0)
    requests = report.load_requests
    assert (requests["calls"], requests["size_bytes"]["max"], requests["latency_ns"]["max"]) == (3, 6000, 600)

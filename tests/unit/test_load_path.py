"""How models got in: bytes by way, and the requests."""

import pytest
from traces import META, MS, PID, event, events, phase_row

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.layout import READ_DIRECT, READAHEAD_ASYNC, IoFlag, Kind
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


TRACED = ("mm_filemap_add_to_page_cache", "page_cache_sync_ra")


@pytest.mark.parametrize(("pages", "word"), [(0, "warm"), (1, "warm"), (6, "in part"), (10, "cold"), (99, "cold")])
def test_page_cache_and_depth(tmp_path, pages, word):
    probes = [{"name": name, "role": None, "attached": True, "reason": None, "cost_class": "kernel"} for name in TRACED]
    writer = Writer(tmp_path / "x.btrace", {**META, "probes": probes})
    writer.phases([phase_row(1, 0, 10 * MS, "startup"), phase_row(2, 10 * MS, 20 * MS, "load")])
    tensor = {"device": DEVICE, "inode": INODE, "path": "/m.gguf", "name": "blk.0.a", "type": 36, "type_name": "I2_S"}
    writer.tensors([{**tensor, "elements": 4, "rows": 1, "offset": 0, "size_bytes": 40_960}])
    rows = [
        *read(12 * MS, 0, 40_960),  # from 4,096 ns before
        *read(12 * MS - 1000, 0, 1000, tid=PID + 1),
        event(Kind.IO_COMPLETE, 12 * MS, 2, PID, 22 | IoFlag.BYTES, 4096, 1000),  # begins when the one before has ended
        event(Kind.READAHEAD, 11 * MS, 2, PID, DEVICE, INODE, 32),
        event(Kind.READAHEAD, 11 * MS, 2, PID, DEVICE, INODE, 32 | READAHEAD_ASYNC),
        event(Kind.READAHEAD, 11 * MS, 2, PID, DEVICE, 5, 32),  # another file
        event(Kind.CACHE_ADDED, 11 * MS, 2, PID, DEVICE + 1, INODE, 32),
    ]
    rows += [event(Kind.CACHE_ADDED, 11 * MS, 2, PID, DEVICE, INODE, pages)] if pages else []
    writer.events(events(*sorted(rows, key=lambda row: row[0])))
    writer.close(0)
    (row,) = build_report(open_recording(tmp_path / "x.btrace")).load_path.to_dict("records")
    assert (row["missed_bytes"], row["cache"]) == (4096 * pages, word)
    assert (row["readahead_waited"], row["readahead_ahead"]) == (1, 1)
    assert row["depth_max"] == 2
    assert row["io_uring_depth_mean"] == pytest.approx(1000 / (10 * MS))


def test_without_the_tracepoints_the_page_cache_is_not_known(tmp_path):
    writer = Writer(tmp_path / "x.btrace", META)
    writer.phases([phase_row(2, 10 * MS, 20 * MS, "load")])
    tensor = {"device": DEVICE, "inode": INODE, "path": "/m.gguf", "name": "blk.0.a", "type": 36, "type_name": "I2_S"}
    writer.tensors([{**tensor, "elements": 4, "rows": 1, "offset": 0, "size_bytes": 10_000}])
    writer.events(events(*read(11 * MS, 0, 4000)))
    writer.close(0)
    (row,) = build_report(open_recording(tmp_path / "x.btrace")).load_path.to_dict("records")
    assert row["missed_bytes"] is None
    assert row["cache"] is None

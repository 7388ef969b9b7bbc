"""What the writer leaves on disk, also when something is in the way."""

import errno
import json
import os
import re
import stat

import numpy as np
import pytest
from traces import event, events, phase_row, write_inference

from bitnet_trace.errors import TraceError
from bitnet_trace.recording import writer as writer_module
from bitnet_trace.recording.layout import COUNTER_FIELDS, Kind
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import COUNTER_DTYPE
from bitnet_trace.recording.writer import Writer


def batch(n, first=0):
    rows = np.zeros(n, dtype=events().dtype)
    rows["ts_ns"] = np.arange(first, first + n)
    rows["kind"] = Kind.FAULT
    return rows


def test_everything_written_is_read_back(tmp_path):
    writer = Writer(tmp_path / "a.btrace", {"command": ["x", "y"], "start_ns": 3})
    stream = events(
        event(Kind.FAULT, 2**62, 2**32 - 1, 2**32 - 1, 2**32 - 1, 2**64 - 1, 2**64 - 1, cpu=2**16 - 1),
        event(Kind.READ, 5, 1, 7, arg1=2**64 - 2),
    )
    counters = np.zeros(2, dtype=COUNTER_DTYPE)
    for number, name in enumerate(COUNTER_DTYPE.names):
        counters[name] = [number, 2**32 - 1]
    writer.events(stream)
    writer.counters(counters)
    writer.phases([phase_row(1, 5, None), phase_row(2, 9, 12, "gap", context=None)])
    writer.phases([phase_row(1, 5, 9, n_tokens=4)])
    writer.threads(
        [{"tid": 8, "pid": 7, "comm": "a", "parent_tid": 1, "start_ns": 5, "end_ns": None, "exit_code": None}]
    )
    writer.threads([{"tid": 8, "pid": 7, "comm": "b", "parent_tid": 1, "start_ns": 5, "end_ns": 9, "exit_code": 256}])
    writer.maps([{"pid": 7, "ts_ns": 1, "address": 2**63, "length": 4096, "offset": 0, "device": 1, "path": "/m"}])
    writer.update_meta(wall_ns=77)
    writer.close(-9)

    recording = open_recording(tmp_path / "a.btrace")
    assert recording.complete
    assert recording.warnings == []
    assert recording.meta["command"] == ["x", "y"]
    assert (recording.meta["exit_status"], recording.meta["wall_ns"], recording.meta["schema"]) == (-9, 77, 1)
    np.testing.assert_array_equal(recording.events, stream)
    assert recording.phases["id"].tolist() == [1, 2]
    assert recording.phases["end_ns"].tolist() == [9, 12]
    assert recording.phases["n_tokens"].isna().tolist() == [False, True]
    assert recording.threads[["tid", "comm", "end_ns", "exit_code"]].values.tolist() == [[8, "b", 9, 256]]
    assert recording.maps["address"].tolist() == [2**63]
    assert recording.stored_counters["tid"].tolist() == [0, 2**32 - 1]
    assert recording.stored_counters[list(COUNTER_FIELDS)].iloc[0].tolist() == list(range(2, 2 + len(COUNTER_FIELDS)))


def test_counters_may_come_in_another_layout(tmp_path):
    writer = Writer(tmp_path / "a.btrace", {})
    swapped = np.zeros(1, dtype=[(name, COUNTER_DTYPE[name]) for name in reversed(COUNTER_DTYPE.names)])
    swapped["tid"], swapped["phase"], swapped["read_ns"] = 4, 5, 6
    writer.counters(swapped)
    writer.close(0)
    row = open_recording(tmp_path / "a.btrace").stored_counters.iloc[0]
    assert (row["tid"], row["phase"], row["read_ns"]) == (4, 5, 6)


def test_files_are_private_and_belong_to_the_owner(tmp_path):
    owner = (os.getuid(), os.getgid()) if os.getuid() else (1234, 1235)
    writer = Writer(tmp_path / "a.btrace", {}, owner=owner)
    writer.events(batch(3))
    writer.close(0)
    assert stat.S_IMODE((tmp_path / "a.btrace").stat().st_mode) == 0o700
    for path in [tmp_path / "a.btrace", *(tmp_path / "a.btrace").iterdir()]:
        assert (path.stat().st_uid, path.stat().st_gid) == owner
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077


def test_every_whole_batch_is_readable_before_close(tmp_path):
    writer = Writer(tmp_path / "a.btrace", {"start_ns": 1})
    for n in range(1, 4):
        writer.events(batch(10, 10 * n))
        recording = open_recording(tmp_path / "a.btrace")
        assert len(recording.events) == 10 * n
        assert not recording.complete
        assert recording.warnings
    writer.close(0)
    assert open_recording(tmp_path / "a.btrace").complete


def test_an_existing_recording_is_kept_without_force_and_replaced_with_it(tmp_path):
    path = write_inference(tmp_path / "a.btrace")
    before = {one.name: one.read_bytes() for one in path.iterdir()}
    with pytest.raises(TraceError, match="exists already") as caught:
        Writer(path, {})
    assert "--force" in caught.value.hint
    assert {one.name: one.read_bytes() for one in path.iterdir()} == before
    Writer(path, {"engine": "new"}, force=True).close(0)
    assert open_recording(path).meta["engine"] == "new"
    assert [one.name for one in path.iterdir()] == ["meta.json"]


@pytest.mark.parametrize(
    "kind", ["folder", "file", "foreign file", "link to a recording", "dangling link", "link in it"]
)
def test_force_replaces_recordings_only(tmp_path, kind):
    path, other = tmp_path / "a.btrace", write_inference(tmp_path / "other.btrace")
    if kind == "folder":
        path.mkdir()
        (path / "thesis.txt").write_text("x")
    elif kind == "file":
        path.write_text("x")
    elif kind == "foreign file":
        write_inference(path)
        (path / "notes.txt").write_text("x")
    elif kind == "link to a recording":
        path.symlink_to(other)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        write_inference(path)
        (path / "events.arrows").unlink()
        (path / "events.arrows").symlink_to(other / "events.arrows")
    before = sorted(str(one) for one in tmp_path.rglob("*"))
    with pytest.raises(TraceError):
        Writer(path, {}, force=True)
    assert sorted(str(one) for one in tmp_path.rglob("*")) == before


def test_a_link_planted_in_the_folder_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    writer = Writer(tmp_path / "a.btrace", {})
    (tmp_path / "a.btrace" / "events.arrows").symlink_to(victim)
    (tmp_path / "a.btrace" / "meta.json.tmp").symlink_to(victim)
    with pytest.raises(TraceError, match=r"events\.arrows"):
        writer.events(batch(1))
    writer.update_meta(engine="x")
    assert victim.read_text() == "precious"
    assert json.loads((tmp_path / "a.btrace" / "meta.json").read_text())["engine"] == "x"


def test_a_missing_parent_folder_is_told_with_the_remedy(tmp_path):
    with pytest.raises(TraceError, match="No such file") as caught:
        Writer(tmp_path / "no" / "a.btrace", {})
    assert caught.value.hint == f"mkdir -p {tmp_path / 'no'}"


def test_a_full_disk_keeps_the_whole_batches(tmp_path, monkeypatch):
    writer = Writer(tmp_path / "a.btrace", {"start_ns": 1})
    writer.events(batch(100))
    room = 1000
    real_write = os.write

    def write(descriptor, data):
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real_write(descriptor, bytes(data)[: min(room, 300)])
        room -= done
        return done

    monkeypatch.setattr(writer_module.os, "write", write)
    with pytest.raises(TraceError, match="No space left") as caught:
        writer.events(batch(100, 100))
    assert "make room" in caught.value.hint
    with pytest.raises(TraceError, match="No space left"):
        writer.events(batch(1))
    with pytest.raises(TraceError, match="No space left"):
        writer.close(0)
    assert len(open_recording(tmp_path / "a.btrace").events) == 100

    monkeypatch.undo()
    writer.close(0)
    assert not open_recording(tmp_path / "a.btrace").complete


def test_close_after_a_failed_stream_says_so(tmp_path, monkeypatch):
    writer = Writer(tmp_path / "a.btrace", {"start_ns": 1})
    writer.events(batch(100))
    real_write, failed = os.write, []

    def write(descriptor, data):
        if not failed:
            failed.append(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_write(descriptor, data)

    monkeypatch.setattr(writer_module.os, "write", write)
    with pytest.raises(TraceError):
        writer.events(batch(100))
    writer.close(3)
    recording = open_recording(tmp_path / "a.btrace")
    assert (len(recording.events), recording.complete, recording.meta["exit_status"]) == (100, False, 3)


def test_names_that_are_no_utf8_stay_legible(tmp_path):
    writer = Writer(tmp_path / "a.btrace", {})
    writer.threads([{"tid": 1, "pid": 1, "comm": os.fsdecode(b"l\xffama"), "start_ns": 0}])
    writer.close(0)
    assert open_recording(tmp_path / "a.btrace").threads["comm"].tolist() == ["l\\xffama"]


def test_empty_batches_make_no_file(tmp_path):
    writer = Writer(tmp_path / "a.btrace", {})
    writer.events(batch(0))
    writer.phases([])
    writer.close(None)
    writer.close(None)
    assert [one.name for one in (tmp_path / "a.btrace").iterdir()] == ["meta.json"]
    recording = open_recording(tmp_path / "a.btrace")
    assert (len(recording.events), len(recording.phases), recording.complete) == (0, 0, True)


# ---- in a folder that others write ------------------------------------------------------------------------------------


def test_a_folder_above_that_is_swapped_meanwhile_is_not_followed(tmp_path, monkeypatch):
    """Between the making and the opening another folder gets the name of the one above."""
    above, decoy = tmp_path / "above", tmp_path / "decoy"
    above.mkdir()
    (decoy / "a.btrace").mkdir(parents=True)
    real_mkdir = os.mkdir

    def mkdir(*arguments, **options):
        real_mkdir(*arguments, **options)
        above.rename(tmp_path / "moved")
        above.symlink_to(decoy)

    monkeypatch.setattr(writer_module.os, "mkdir", mkdir)
    Writer(above / "a.btrace", {}).close(0)
    assert list((decoy / "a.btrace").iterdir()) == []
    assert open_recording(tmp_path / "moved" / "a.btrace").complete


@pytest.mark.parametrize("kind", ["link", "file", "fifo", "full folder"])
def test_a_folder_that_is_swapped_while_it_is_made_is_refused(tmp_path, monkeypatch, kind):
    path, decoy = tmp_path / "a.btrace", tmp_path / "decoy"
    decoy.mkdir()
    (decoy / "meta.json").write_text("precious")
    real_mkdir = os.mkdir

    def mkdir(*arguments, **options):
        real_mkdir(*arguments, **options)
        path.rmdir()
        if kind == "link":
            path.symlink_to(decoy)
        elif kind == "file":
            path.write_text("theirs")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            decoy.rename(path)

    monkeypatch.setattr(writer_module.os, "mkdir", mkdir)
    with pytest.raises(TraceError, match=re.escape(str(path))):
        Writer(path, {})
    there = path if kind == "full folder" else decoy
    assert [one.name for one in there.iterdir()] == ["meta.json"]
    assert (there / "meta.json").read_text() == "precious"
    assert os.path.lexists(path)


def test_files_made_by_others_inside_are_not_written(tmp_path):
    """The owner of a recording may put there what they like: it ends the recording, and stays as it is."""
    writer = Writer(tmp_path / "a.btrace", {"start_ns": 1})
    theirs = tmp_path / "a.btrace" / "events.arrows"
    theirs.write_text("theirs")
    with pytest.raises(TraceError, match="File exists"):
        writer.events(batch(1))
    writer.close(0, cut_short=True)
    assert theirs.read_text() == "theirs"


def test_a_recording_that_cannot_be_begun_leaves_nothing(tmp_path, monkeypatch):
    def write(_descriptor, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer_module.os, "write", write)
    with pytest.raises(TraceError, match="No space left"):
        Writer(tmp_path / "a.btrace", {})
    assert list(tmp_path.iterdir()) == []


def test_what_took_the_place_of_a_discarded_recording_stays(tmp_path):
    writer = Writer(tmp_path / "a.btrace", {})
    (tmp_path / "a.btrace").rename(tmp_path / "b.btrace")
    other = write_inference(tmp_path / "a.btrace")
    before = sorted(one.name for one in other.iterdir())
    writer.discard()
    assert sorted(one.name for one in other.iterdir()) == before


def test_a_recording_that_its_maker_calls_cut_short_is(tmp_path):
    writer = Writer(tmp_path / "a.btrace", {"start_ns": 1})
    writer.events(batch(3))
    writer.close(4, cut_short=True)
    recording = open_recording(tmp_path / "a.btrace")
    assert (recording.complete, recording.meta["exit_status"], len(recording.events)) == (False, 4, 3)

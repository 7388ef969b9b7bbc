"""Reports of known recordings say what they said before; what was meant to change is kept by `make golden`."""

import difflib

import pytest
from golden import FOLDER, NAMES, outputs, recording

from bitnet_trace.recording.schema import SCHEMAS

_SHOWN = 60


@pytest.mark.parametrize("name", NAMES)
def test_reports_are_as_they_were(name, tmp_path):
    changed = []
    for end, output in outputs(recording(name, tmp_path)).items():
        path = FOLDER / f"{name}.{end}"
        before = path.read_text().splitlines(keepends=True)
        changed += difflib.unified_diff(before, output.splitlines(keepends=True), path.name, "now", n=1)
    more = [f"... and {len(changed) - _SHOWN} lines more\n"] if len(changed) > _SHOWN else []
    message = "".join(["reports have changed; `make golden` keeps that (see git diff):\n", *changed[:_SHOWN], *more])
    assert not changed, message


def test_every_stream_is_in_one_of_them(tmp_path):
    made, counted = recording("everything", tmp_path), recording("counts", tmp_path)
    empty = {name for name in SCHEMAS if not len(getattr(made, "stored_counters" if name == "counters" else name))}
    assert empty == {"counters"}
    assert len(counted.stored_counters)


@pytest.mark.parametrize("name", ["events", "counts"])
def test_the_kept_recordings_are_whole(name, tmp_path):
    kept = recording(name, tmp_path)
    assert kept.complete
    assert kept.warnings == []
    assert all(len(table) for table in (kept.tensors, kept.samples, kept.taskstats, kept.scheduling))

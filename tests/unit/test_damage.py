"""Damaged recordings through the whole command: one clear error or a report, in bounded time and memory, never more.

150 cases, the same ones each time. BITNET_TRACE_DAMAGE_CASES=10000 draws that many, others each time;
BITNET_TRACE_DAMAGE_RECORDINGS=a.btrace:b.btrace damages recordings of this machine too.
"""

import json
import os
import shutil
import traceback
from pathlib import Path

import numpy as np
import pytest
from bounded import DEADLINE_S, PEAK_LIMIT_BYTES, Bounded, TooLong, damages
from click.testing import CliRunner
from damage import Case, damaged
from everything import write_everything
from hypothesis import given
from hypothesis import strategies as st
from traces import put, write_inference

from bitnet_trace.cli import cli
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE
from bitnet_trace.recording.writer import Writer

worst = {"cases": 0, "seconds": 0.0, "peak_bytes": 0, "refused": 0, "partial": 0, "whole": 0}


def check_report(path, form):
    """Runs the command and asserts all that is promised. The report (JSON: as a dict), None when it was refused."""
    with Bounded() as bounded:
        result = CliRunner().invoke(cli, ["report", str(path), "--format", form], standalone_mode=False)
    assert bounded.seconds < DEADLINE_S
    assert bounded.peak_bytes < PEAK_LIMIT_BYTES
    worst.update({key: max(worst[key], getattr(bounded, key)) for key in ("seconds", "peak_bytes")})
    assert result.exception is None, result.exception
    assert "Traceback" not in result.output
    if result.return_value == 1:
        lines = result.stderr.splitlines()
        assert len(lines) == 2, lines
        assert lines[0].startswith("bitnet-trace: ")
        assert "internal error" not in lines[0], lines
        assert lines[1].startswith("  hint: ")
        assert len(result.stderr) < 2000
        assert result.stdout == ""
        worst["refused"] += 1
        return None
    assert result.return_value is None
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    return json.loads(result.stdout, parse_constant=pytest.fail) if form == "json" else result.stdout


def test_a_sampling_period_that_none_can_be(tmp_path):
    """Bits that were overwritten leave any number of 64 bits in a column."""
    path = tmp_path / "a.btrace"
    write_everything(path)
    whole = open_recording(path)
    samples = np.zeros(len(whole.samples), SAMPLE_ROW_DTYPE)
    for name in SAMPLE_ROW_DTYPE.names:
        samples[name] = whole.samples[name].to_numpy()
    samples["period_ns"][len(samples) // 2 :] = (1 << 64) - 1
    (path / "samples.arrows").unlink()
    writer = Writer(tmp_path / "b.btrace", whole.meta)
    writer.samples(samples, np.zeros(0, STACK_ROW_DTYPE))
    writer.close(0)
    (tmp_path / "b.btrace/samples.arrows").rename(path / "samples.arrows")
    found = check_report(path, "json")
    assert found["profile"]["n_samples"] > 0


def as_files(folder):
    return {one.name: one.read_bytes() for one in folder.iterdir()}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """The undamaged ones: by hand, of events, of counts and of all streams, and those that the environment names."""
    folder = tmp_path_factory.mktemp("whole")
    made = [
        write_inference(folder / "a.btrace"),
        write_inference(folder / "b.btrace", options={"detail": "counts"}),
        write_everything(folder / "c.btrace"),
    ]
    named = os.environ.get("BITNET_TRACE_DAMAGE_RECORDINGS", "")
    whole = [(path.name, as_files(path)) for path in (*made, *map(Path, filter(None, named.split(":"))))]
    return [Case((name,), files, files) for name, files in whole]


def test_damaged_recordings(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    failures = {}

    @given(case=damaged(recordings), form=st.sampled_from(["json", "json", "text", "markdown"]))
    @damages
    def check(case, form):
        worst["cases"] += 1
        if worst["cases"] % 200 == 0:
            print(worst, flush=True)
        path = put(folder, case.files)
        try:
            report = check_report(path, form)
            if isinstance(report, dict):
                worst["whole" if report["health"]["complete"] else "partial"] += 1
                if case.tells_checksums() and case.changed_streams():
                    assert not report["health"]["complete"], case.changed_streams()
                    assert report["health"]["warnings"]
        except (Exception, TooLong) as error:
            # kept to be looked at, as it is: what hypothesis would shrink takes seconds a try
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {str(error)[:300]} ({Path(at.filename).name}:{at.lineno})"
            print(text, case, form, flush=True)
            if text not in failures:
                failures[text] = f"{case} {form} {shutil.copytree(path, folder / f'{len(failures)}.btrace')}"

    check()
    print(worst)
    assert not failures, "\n".join(f"{error}\n  {case}" for error, case in failures.items())

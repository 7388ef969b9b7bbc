"""Damaged recordings through the whole command: one clear error or a report, in bounded time and memory, never more.

150 cases, the same ones each time. BITNET_TRACE_DAMAGE_CASES=10000 draws that many, others each time;
BITNET_TRACE_DAMAGE_RECORDINGS=a.btrace:b.btrace damages recordings of this machine too.
"""

import json
import os
import resource
import shutil
import signal
import time
import traceback
from pathlib import Path

import pytest
from click.testing import CliRunner
from damage import Case, damaged
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from traces import put, write_inference

from bitnet_trace.cli import cli

CASES = int(os.environ.get("BITNET_TRACE_DAMAGE_CASES", "0"))
DEADLINE_S = 10
PEAK_LIMIT_BYTES = 1 << 30
FRESH_BYTES = 140 << 20  # of a process that has only read the command; this one has the tests too


def resident_bytes(key):
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(key))
    return int(line.split()[1]) << 10


class TooLong(BaseException):
    """Nothing on the way takes it for damage."""


def too_long(*_):
    raise TooLong(f"not done within {DEADLINE_S} s")


class Bounded:
    """Bounds what is done in it: an alarm, and a limit of the address space so that a runaway harms nobody else."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on (proc(5))
        self._before_bytes = resident_bytes("VmRSS")
        self._limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (resident_bytes("VmSize") + 2 * PEAK_LIMIT_BYTES, self._limits[1]))
        # time on the CPU: the machine may be busy; nothing here sleeps or waits
        self._handler = signal.signal(signal.SIGPROF, too_long)
        signal.setitimer(signal.ITIMER_PROF, DEADLINE_S)
        self._begin = time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds = time.process_time() - self._begin
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._handler)
        resource.setrlimit(resource.RLIMIT_AS, self._limits)
        self.peak_bytes = resident_bytes("VmHWM") - self._before_bytes + FRESH_BYTES


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


def as_files(folder):
    return {one.name: one.read_bytes() for one in folder.iterdir()}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """The undamaged ones: by hand, of events and of counts, and those that the environment names."""
    folder = tmp_path_factory.mktemp("whole")
    made = [write_inference(folder / "a.btrace"), write_inference(folder / "b.btrace", options={"detail": "counts"})]
    named = os.environ.get("BITNET_TRACE_DAMAGE_RECORDINGS", "")
    whole = [(path.name, as_files(path)) for path in (*made, *map(Path, filter(None, named.split(":"))))]
    return [Case((name,), files, files) for name, files in whole]


def test_damaged_recordings(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    failures = {}

    @given(case=damaged(recordings), form=st.sampled_from(["json", "json", "text", "markdown"]))
    @settings(
        max_examples=CASES or 150,
        derandomize=not CASES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
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

"""Nothing is lost in silence: each kind of loss is provoked, and seen in meta.json, the report and the run's last words."""

import json
import subprocess
import sys

import pytest

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.render import json as json_report
from bitnet_trace.render import text as text_report

pytestmark = pytest.mark.untimed

PAGE = 4096

# what `bitnet-trace run` does, with other sizes; argv: recording, detail, sizes of rings and maps as JSON, what is to be
# done before (Python), command
RUN = """
import json, sys
from pathlib import Path
from bitnet_trace.capture.options import Options
from bitnet_trace.capture.session import trace
from bitnet_trace.capture.sizes import Maps, Rings
from bitnet_trace.commands.tracing import summary

folder, detail, rings, maps, before, *command = sys.argv[1:]
exec(before)
options = Options(output=Path(folder), detail=detail, rings=Rings(**json.loads(rings)), maps=Maps(**json.loads(maps)))
print(*summary(trace(command, options)), sep="\\n", file=sys.stderr)
"""

# the numbers that the kernel side tries for its next phases are taken already
NUMBERS_TAKEN = """
from bitnet_trace.capture.bpf import Programs
trace_child = Programs.trace_child
def and_take_numbers(self, pid):
    trace_child(self, pid)
    states = self.table("phase_states")
    for number in range(2, 10):
        states[states.Key(number)] = states.Leaf()
Programs.trace_child = and_take_numbers
"""

SMALL_BUFFER = "import bitnet_trace.capture.taskstats as taskstats; taskstats._BUFFER_BYTES = 4096"

# an interrupt has to come at the right moment: as long as it takes
UNTIL_INTERRUPTED = """
import os, signal, time
from bitnet_trace.capture.bpf import Programs
from bitnet_trace.capture.drain import Drain
step, trace_child, child = Drain.step, Programs.trace_child, []
deadline = time.monotonic() + 60
def and_remember(self, pid):
    child.append(pid)
    trace_child(self, pid)
def and_look(self, *patience):
    if child and (self._programs.losses()["recursion"] or time.monotonic() > deadline):
        os.kill(child.pop(), signal.SIGKILL)
    return step(self, *patience)
Programs.trace_child, Drain.step = and_remember, and_look
"""

TEN_SLEEPERS = ["sh", "-c", "for i in 0 1 2 3 4 5 6 7 8 9; do sleep 0.3 & done; wait"]
SIZES = {
    "events.fault": ({"events": PAGE}, {}, "", ["work.c", "touch"]),
    "events.phase_begin": ({"phases": PAGE}, {}, "", ["calls.cpp", "plain", "401"]),
    "tasks": ({"tasks": PAGE}, {}, "", ["storm.c", "forks", "50"]),
    "threads": ({}, {"threads": 4}, "", TEN_SLEEPERS),
    "processes": ({}, {"processes": 4}, "", TEN_SLEEPERS),
    "held": ({}, {"processes": 4}, "", TEN_SLEEPERS),
    "counters": ({}, {"counters": 4}, "", TEN_SLEEPERS),
    "phases": ({}, {}, NUMBERS_TAKEN, ["work.c", "touch"]),
    "io_requests": ({}, {"io_requests": 4}, "", ["uring.c", "101", "-"]),
    "samples": ({"samples": PAGE}, {}, "", ["hot.c", "work", "0.5"]),
    "taskstats": ({}, {}, SMALL_BUFFER, ["storm.c", "quick", "300"]),
    "recursion": ({}, {}, UNTIL_INTERRUPTED, ["shootdowns.c"]),
}
# many more than there are places for, but never at the same time
ONE_AFTER_THE_OTHER = ({}, {"threads": 64, "processes": 64}, "", ["storm.c", "forks", "500"])
# what exists in one detail only, or is the same program in both
ONLY = {
    "counters": "counts",
    **dict.fromkeys(
        ["events.fault", "samples", "tasks", "phases", "taskstats", "recursion", "held", "processes"], "events"
    ),
}
CASES = [(name, detail) for name in SIZES for detail in ("events", "counts") if ONLY.get(name, detail) == detail]


class Run:
    """One run with sizes of its own."""

    def __init__(self, case, detail, program, data_file, folder):
        rings, maps, before, (source, *arguments) = case
        self.folder = folder / "x.btrace"
        own = [program(source)] if "." in source else [source]
        own += [data_file] if source in ("work.c", "uring.c") else []
        sizes = [json.dumps(rings), json.dumps(maps)]
        command = [sys.executable, "-c", RUN, self.folder, detail, *sizes, before, *own, *arguments]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        self.last_words = done.stderr
        self.meta = json.loads((self.folder / "meta.json").read_text())
        self.report = build_report(open_recording(self.folder))


@pytest.fixture(scope="module")
def lossy(program, data_file, tmp_path_factory):
    """`lossy(case, detail)`: the run of a case, made once."""
    made = {}

    def run(case, detail):
        key = json.dumps([case, detail])
        if key not in made:
            made[key] = Run(case, detail, program, data_file, tmp_path_factory.mktemp("lossy"))
        return made[key]

    return run


def leaves(losses):
    return {f"events.{kind}": n for kind, n in losses["events"].items()} | {
        name: n for name, n in losses.items() if name != "events"
    }


@pytest.mark.parametrize(("name", "detail"), CASES)
def test_a_loss_is_told(name, detail, lossy):
    run = lossy(SIZES[name], detail)
    lost_by = {key: n for key, n in leaves(run.meta["losses"]).items() if n}
    assert lost_by.get(name, 0) > 0, run.meta["losses"]
    lost, received = sum(lost_by.values()), sum(run.meta["received"].values())
    coverage = 100 * received / (received + lost)

    health = json.loads(json_report.render(run.report))["health"]
    assert (health["lost"], health["lost_by"], health["events"]) == (lost, lost_by, received)
    assert health["coverage_pct"] == pytest.approx(coverage, abs=0.01)
    assert health["coverage_pct"] < 100
    shown = f"coverage {health['coverage_pct']:.2f} %"
    assert f"{lost:,} lost, {shown}" in run.last_words
    health_lines = text_report.render(run.report, width=300).partition("Health of the recording")[2]
    assert f"{name} {lost_by[name]:,}" in health_lines
    assert shown in health_lines


def test_every_kind_of_loss_is_provoked_here(lossy):
    """And a full ring of events leaves the phases as they are."""
    run = lossy(SIZES["events.fault"], "events")
    # ticks: where the kernel is made to throttle the timer, in test_profile.py
    assert {name.split(".")[0] for name in SIZES} | {"ticks"} == set(run.meta["losses"])
    # of the 2 times 1,009 pages that are touched those that fitted and those that did not are together all
    assert run.meta["received"]["fault"] + run.meta["losses"]["events"]["fault"] >= 2 * 1009
    assert run.report.phases["role"].tolist().count("decode") == 2


def test_those_that_have_ended_take_no_place(detail, lossy):
    run = lossy(ONE_AFTER_THE_OTHER, detail)
    provoked = {name: n for name, n in leaves(run.meta["losses"]).items() if name not in ("recursion", "ticks")}
    assert not any(provoked.values()), provoked
    assert len(run.report.by_thread) == 501

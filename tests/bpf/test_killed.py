"""The tracer is killed, at any moment: the program lives as if there had been none, and nothing of ours is left."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest
from click.testing import CliRunner

from bitnet_trace.capture import delay_accounting
from bitnet_trace.cli import cli
from bitnet_trace.commands.demo import decode_command, make_model
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import SCHEMAS
from tests.bpf import kernel_objects
from tests.bpf.conftest import TOOL

pytestmark = pytest.mark.untimed

AT_ONCE = 4
LINES, PAUSE_MS, CODE = 24, 60, 23
WHOLE = [f"{i} line" for i in range(LINES)]
WHOLE.insert(LINES // 4 + 1, f"{LINES // 4} child")


class Moment(NamedTuple):
    """So many seconds after the program has printed so many lines."""

    lines: int
    seconds: float


@dataclass
class Life:
    """One run of the tool, and what became of everything that it had started."""

    folder: Path
    moment: Moment
    killed: bool
    status: int
    others: dict[int, int]
    left: list[str]
    stdout: str
    stderr: str

    @property
    def recording(self) -> Path:
        return self.folder / "x.btrace"


def live(folder: Path, moment: Moment, command: Sequence[object], options: Sequence[str] = ()) -> Life:
    folder.mkdir()
    out, err = folder / "out", folder / "err"
    tool = [*TOOL, "run", "-q", *options, "-o", folder / "x.btrace", "--", *command]
    reaper = [sys.executable, "-m", "tests.bpf.reaper", out, moment.lines, moment.seconds]
    with open(err, "w") as file:
        done = subprocess.run([str(word) for word in (*reaper, *tool)], stdout=subprocess.PIPE, stderr=file, check=True)
    told = json.loads(done.stdout)
    told["others"] = {int(pid): status for pid, status in told["others"].items()}
    return Life(folder, moment, **told, stdout=out.read_text(), stderr=err.read_text())


def at_once(run: Callable[[int, Moment], Life], moments: Sequence[Moment]) -> list[Life]:
    """Several at a time, which makes other orders of what happens; in no order of moments."""
    numbers = random.Random(len(moments)).sample(range(len(moments)), len(moments))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda number: run(number, moments[number]), numbers))


def spread(chosen: random.Random, n: int, first: float, last: float) -> list[float]:
    """n random numbers, one in each of n equal parts."""
    return [first + (i + chosen.random()) * (last - first) / n for i in range(n)]


def assert_readable(life: Life, executed: bool) -> None:
    """What was recorded can be shown, and is not taken for whole when it is not."""
    if not life.recording.exists():
        assert not executed
        return
    if not (life.recording / "meta.json").exists():
        assert not executed
        assert not list(life.recording.glob("*.arrows"))
        return
    shown = CliRunner().invoke(cli, ["report", str(life.recording)])
    assert not shown.exception, shown.output
    complete = open_recording(life.recording).complete
    assert complete == ("cut short" not in shown.output)
    assert complete or life.killed
    if not executed:
        assert not complete
    for name in SCHEMAS:
        assert_whole_batches_are_read(life.recording, name)


def assert_whole_batches_are_read(folder: Path, name: str) -> None:
    path = folder / f"{name}.arrows"
    if not path.exists():
        return
    rows = 0
    with pa.memory_map(str(path)) as source:
        try:
            schema = pa.ipc.read_schema(source)
            while True:
                rows += pa.ipc.read_record_batch(pa.ipc.read_message(source), schema).num_rows
        except (EOFError, OSError, pa.ArrowInvalid):
            pass  # the end, or a part of a batch
    read = open_recording(folder)
    assert rows == sum(batch.num_rows for batch in read._batches[name]), name


def assert_kernel_is_clean(before: set) -> None:
    """Programs, links and maps that nobody holds and that were not there before go away: none is attached for good."""
    deadline = time.monotonic() + 20
    while left := kernel_objects.all_of_them() - before - kernel_objects.held():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def lives(program, tmp_path_factory) -> list[Life]:
    folder = tmp_path_factory.mktemp("lives")
    # compiled before the lives run side by side
    lines, library = program("lines.c"), program("decoder.c", "-shared", "-fPIC")
    before = kernel_objects.all_of_them()

    def life(number: int, moment: Moment) -> Life:
        end = folder / f"end-{number}"
        command = [lines, "libresolv.so.2", library, end, LINES, PAUSE_MS, CODE]
        return live(folder / str(number), moment, command)

    chosen = random.Random(1009)
    moments = [Moment(0, seconds) for seconds in spread(chosen, 8, 0, 0.8)]
    moments += [Moment(int(line), chosen.random() * PAUSE_MS / 1e3) for line in spread(chosen, 9, 1, LINES)]
    moments += [Moment(len(WHOLE), seconds) for seconds in spread(chosen, 3, 0, 1)]
    found = at_once(life, moments)
    assert_kernel_is_clean(before)
    return found


def executed(life: Life) -> bool:
    return bool(life.stdout)


def test_moments_are_spread_over_the_whole_life(lives):
    killed = [life for life in lives if life.killed]
    assert len(lives) == 20
    assert [life for life in killed if not life.recording.exists()]
    assert len([life for life in killed if life.stdout]) >= 8


def test_the_program_ends_as_it_would(lives):
    for life in lives:
        end = life.folder.parent / f"end-{life.folder.name}"
        if executed(life):
            pid, *words = end.read_text().split()
            assert life.stdout.splitlines() == WHOLE, life
            assert words == [str(LINES), str(CODE)]
            # it is not among the others where the tracer has seen its end
            assert life.others.get(int(pid), CODE) == CODE, life
            assert life.killed or life.status == CODE
        else:
            assert not end.exists()
            assert life.killed
            # the child that waits for the exec
            assert sorted(status for status in life.others.values() if status) in ([], [127]), life


def test_no_process_is_left(lives):
    for life in lives:
        assert not life.left, life
        assert not [status for status in life.others.values() if status not in (0, 127, CODE)], life


def test_what_was_recorded_is_readable_and_told_as_cut_short(lives):
    for life in lives:
        assert_readable(life, executed(life))


def test_an_inference_goes_on(tmp_path):
    """Python that loads its engine late, in which the tracer stops it again and again."""
    pytest.importorskip("xllamacpp")
    command = decode_command(make_model("tiny", None), 48, 1)
    before = kernel_objects.all_of_them()
    began = time.monotonic()
    whole = live(tmp_path / "whole", Moment(0, 60), command)
    seconds = spread(random.Random(17), 4, 0, time.monotonic() - began)
    assert whole.status == 0
    for life in at_once(lambda i, moment: live(tmp_path / str(i), moment, command), [Moment(0, s) for s in seconds]):
        ran = executed(life)
        assert not life.left, life
        assert ran or (life.killed and not life.stderr)
        if ran:
            assert [line.split()[:3] for line in life.stdout.splitlines()] == [
                line.split()[:3] for line in whole.stdout.splitlines()
            ]
            assert not [status for status in life.others.values() if status], life
        assert_readable(life, ran)
    assert_kernel_is_clean(before)


def test_system_settings_are_set_back(tmp_path, program):
    if delay_accounting.why_off() is None:
        pytest.skip("kernel.task_delayacct is on")
    command = [program("lines.c"), "libresolv.so.2", program("decoder.c", "-shared", "-fPIC"), tmp_path / "end"]
    command += [LINES, PAUSE_MS, CODE]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(live, tmp_path / "a", Moment(2, 0), command, ["--allow-system-changes"])
        deadline = time.monotonic() + 20
        while delay_accounting.SWITCH.read_text().strip() == "0":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        life = running.result()
    assert life.killed
    assert not life.left
    # another run on this machine may need it for longer
    while delay_accounting.SWITCH.read_text().strip() != "0":
        assert time.monotonic() < deadline + 20
        time.sleep(0.05)

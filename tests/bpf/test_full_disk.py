"""The recording cannot be written, or no longer: the program does not notice, and what there is can be read."""

import math
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from bitnet_trace.cli import cli
from bitnet_trace.recording.reader import open_recording
from tests.bpf.conftest import TOOL

pytestmark = pytest.mark.untimed

AT_ONCE = 4
DISK_BYTES = 2 << 20
CODE = 7
TURNS = 6
# as many events as fill the disk several times, and output as well
SCRIPT = (
    f"i=0; while [ $i -lt {TURNS} ]; do i=$((i+1)); echo line $i; dd if=/dev/zero of=/dev/null bs=1 count=9000 2>&1; "
    f"sleep 0.25; done; exit {CODE}"
)
NO_ROOM = "No space left on device"


@dataclass
class Run:
    recording: Path
    exit_code: int
    stdout: str
    stderr: list[str]

    def assert_program_unharmed(self) -> None:
        assert [line for line in self.stdout.splitlines() if line.startswith("line")] == [
            f"line {i}" for i in range(1, TURNS + 1)
        ]
        assert self.stdout.count("9000 bytes") == TURNS

    def assert_one_error(self, words: str) -> None:
        """The notice at the time, where there was a program to go on; the error with its remedy at the end."""
        assert self.exit_code == 1
        *notice, error, hint = self.stderr
        assert notice in ([], [self.notice]), self.stderr
        assert error.startswith(f"bitnet-trace: cannot write {self.recording}")
        assert error.endswith(words)
        assert hint.startswith("  hint: ")

    notice = "bitnet-trace: recording has ended, its folder cannot be written any more; the program goes on untraced"

    def assert_readable(self, complete: bool) -> None:
        recording = open_recording(self.recording)
        assert recording.complete == complete
        shown = CliRunner().invoke(cli, ["report", str(self.recording)])
        assert not shown.exception, shown.output
        assert ("the recording was cut short" in shown.output) != complete


def record(
    folder: Path, *options: str, script: str = SCRIPT, at_line: int = 0, act: Callable[[Path], object] = Path.exists
) -> Run:
    """Runs the script with its recording in a folder; when so many lines of it were read calls `act` with the path of
    what the tool has said."""
    recording = folder / "x.btrace"
    command = [*TOOL, "run", "-q", *options, "-o", str(recording), "--", "sh", "-c", script]
    with (
        tempfile.NamedTemporaryFile() as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as tracer,
    ):
        lines = []
        for line in tracer.stdout:
            lines.append(line)
            if line.startswith("line") and len([one for one in lines if one.startswith("line")]) == at_line:
                act(Path(stderr.name))
        code = tracer.wait(60)
        return Run(recording, code, "".join(lines), Path(stderr.name).read_text().splitlines())


def fill(folder: Path, room_bytes: int = 0) -> None:
    """Leaves about so much room on the disk that a folder is on."""
    with open(folder / "filler", "ab", buffering=0) as file:
        try:
            while (free := shutil.disk_usage(folder).free - room_bytes) > 0:
                file.write(b"\0" * min(free, 1 << 20))
        except OSError:
            pass  # it is full


@pytest.fixture(scope="module")
def disks(tmp_path_factory) -> Iterator[Callable[..., Path]]:
    """`disks()` is the root of a new and small file system."""
    made: list[Path] = []

    def new(options: str = f"size={DISK_BYTES}") -> Path:
        folder = tmp_path_factory.mktemp("disk")
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "bitnet-trace-test", folder], check=True)
        made.append(folder)
        return folder

    yield new
    for folder in made:
        subprocess.run(["umount", "-l", folder], check=True)


# ---- no room --------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_at_random_moments(disks):
    """Half of the moments by the room that there is from the start, half by somebody else who takes the rest."""
    chosen = random.Random(2027)
    rooms = [0, *(round(math.exp(math.log(4096) + (i + chosen.random()) * math.log(200) / 5)) for i in range(5))]
    lines = [chosen.randrange(i + 1, i + 3) for i in range(4)]

    def with_room(disk: Path, room_bytes: int) -> Run:
        fill(disk, room_bytes)
        return record(disk)

    def filled_at(disk: Path, line: int) -> Run:
        return record(disk, "--detail", "counts" if line % 2 else "events", at_line=line, act=lambda _: fill(disk))

    made = [disks() for _ in (*rooms, *lines)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [*pool.map(with_room, made, rooms), *pool.map(filled_at, made[len(rooms) :], lines)]
    assert len(runs) == 10
    for run in runs:
        run.assert_one_error(NO_ROOM)
        if run.recording.exists():
            run.assert_program_unharmed()
            run.assert_readable(complete=False)
        else:
            assert run.stdout == ""
            assert len(run.stderr) == 2
    assert not runs[0].recording.exists()
    assert len([run for run in runs if run.recording.exists()]) > 5


def test_how_the_program_ended_is_kept_where_there_is_room_for_it(disks):
    disk = disks()
    script = f"echo line; while [ ! -e {disk}/go ]; do sleep 0.02; done; echo unharmed; exit {CODE}"

    def fill_until_noticed(said: Path) -> None:
        fill(disk)
        deadline = time.monotonic() + 30
        while Run.notice not in said.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (disk / "filler").unlink()
        (disk / "go").touch()

    run = record(disk, script=script, at_line=1, act=fill_until_noticed)
    run.assert_one_error(NO_ROOM)
    assert run.stdout == "line\nunharmed\n"
    run.assert_readable(complete=False)
    meta = open_recording(run.recording).meta
    assert meta["exit_status"] == CODE
    assert any("recording ended early" in line and NO_ROOM in line for line in meta["warnings"])


def test_only_the_copy_of_the_output_does_not_fit(tmp_path):
    """A limit on the size of files, as a quota: everything is shown, the log ends and the report says so."""
    limit = 1 << 18
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        run = record(tmp_path, "--detail", "counts", script="seq 100000; exit 9")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (run.exit_code, run.stderr) == (9, [])
    assert run.stdout.split() == [str(i) for i in range(1, 100001)]
    assert (run.recording / "stdout.log").read_text() == run.stdout[:limit]
    assert (
        "stdout.log or stderr.log is cut short: there was no room for it"
        in open_recording(run.recording).meta["warnings"]
    )
    run.assert_readable(complete=True)


# ---- no folder ------------------------------------------------------------------------------------------------------


def test_a_disk_that_cannot_be_written(disks):
    run = record(disks("ro"))
    run.assert_one_error("Read-only file system")
    assert (len(run.stderr), run.stdout) == (2, "")


def test_a_folder_that_is_removed_meanwhile(tmp_path):
    run = record(tmp_path, at_line=2, act=lambda _: shutil.rmtree(tmp_path / "x.btrace"))
    run.assert_one_error("No such file or directory")
    run.assert_program_unharmed()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_renamed_meanwhile(tmp_path):
    """And another put in its place, with what could be followed or waited for."""

    def swap(_: Path) -> None:
        (tmp_path / "x.btrace").rename(tmp_path / "y.btrace")
        (tmp_path / "x.btrace").mkdir()
        subprocess.run(["mkfifo", tmp_path / "x.btrace" / "stdout.log"], check=True)
        (tmp_path / "x.btrace" / "meta.json").symlink_to("/etc/passwd")

    run = record(tmp_path, at_line=2, act=swap)
    assert (run.exit_code, run.stderr) == (CODE, [])
    run.assert_program_unharmed()
    run.recording = tmp_path / "y.btrace"
    run.assert_readable(complete=True)
    assert (run.recording / "stdout.log").read_text() == run.stdout
    assert sorted(path.name for path in (tmp_path / "x.btrace").iterdir()) == ["meta.json", "stdout.log"]

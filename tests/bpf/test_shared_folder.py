"""The recording's name in a folder that others may write: what they put there is not followed, and not harmed."""

import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bitnet_trace.recording.reader import open_recording
from tests.bpf.conftest import TOOL

pytestmark = pytest.mark.untimed

OTHER = 12345  # a user whom nobody is


def plant(folder: Path, what: str) -> Path:
    """A folder as /tmp is, in which another user has made `x.btrace`."""
    folder.mkdir()
    folder.chmod(0o1777)
    path, victim = folder / "x.btrace", folder.parent / f"victim-{folder.name}"
    if what == "dangling link":
        path.symlink_to(folder.parent / f"nowhere-{folder.name}")
    elif what == "link to a file":
        victim.write_text("precious")
        path.symlink_to(victim)
    elif what == "link to a recording":
        victim.mkdir()
        (victim / "meta.json").write_text("precious")
        path.symlink_to(victim)
    else:
        path.mkdir(mode=0o777)
        (path / "meta.json").write_text("{}")
        if what == "recording with a link":
            victim.write_text("precious")
            (path / "stdout.log").symlink_to(victim)
        for one in path.iterdir():
            os.lchown(one, OTHER, OTHER)
    os.lchown(path, OTHER, OTHER)
    return path


def everything(folder: Path) -> dict[Path, tuple]:
    """What there is and what it says."""
    return {
        path: (path.lstat().st_uid, path.lstat().st_mode, path.lstat().st_ino, path.is_file() and path.read_text())
        for path in folder.rglob("*")
    }


def record(path: Path, *options: str) -> subprocess.CompletedProcess:
    command = [*TOOL, "run", "-q", *options, "-o", str(path), "--", "echo", "ran"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_another_user_has_put_there_is_refused(tmp_path):
    kinds = ("dangling link", "link to a file", "link to a recording", "recording with a link")
    cases = [(kind, options) for kind in kinds for options in ((), ("--force",))] + [("recording", ())]
    paths = [plant(tmp_path / str(number), kind) for number, (kind, _) in enumerate(cases)]
    before = everything(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda path, case: record(path, *case[1]), paths, cases))
    for run, path, case in zip(runs, paths, cases, strict=True):
        lines = run.stderr.splitlines()
        assert (run.returncode, run.stdout, len(lines)) == (1, "", 2), (case, run)
        assert str(path) in lines[0]
        assert lines[1].startswith("  hint: ")
    assert everything(tmp_path) == before


def test_another_users_recording_is_replaced_by_one_of_our_own(tmp_path):
    """With --force: nothing of theirs is written into."""
    path = plant(tmp_path / "shared", "recording")
    theirs = os.open(path, os.O_RDONLY)
    run = record(path, "--force")
    assert (run.returncode, run.stdout, run.stderr) == (0, "ran\n", "")
    assert open_recording(path).complete
    assert os.listdir(theirs) == []
    os.close(theirs)
    for one in (path, *path.iterdir()):
        assert one.lstat().st_uid == os.getuid()
        assert not stat.S_IMODE(one.lstat().st_mode) & 0o077

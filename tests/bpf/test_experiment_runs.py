"""Experiments on this kernel: what was asked of threads is what they had, loads end, settings are set back."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.bpf.conftest import PROGRAMS, TOOL

LAST = max(os.sched_getaffinity(0))
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
JOURNAL = Path("/var/lib/bitnet-trace/settings.json")


def chosen(text: str) -> str:
    return text[text.index("[") + 1 : text.index("]")]


def spec_file(folder: Path, factors: str, seconds: float = 0.2, measure: str = "repeats = 2\ntraced = 1") -> Path:
    path = folder / "lab.toml"
    command = json.dumps([sys.executable, "-I", str(PROGRAMS / "prints.py"), "50", str(seconds)])
    path.write_text(f"command = {command}\n[factors]\n{factors}\n[measure]\nwarm_up = 0\n{measure}\n")
    return path


def start(folder: Path, spec: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "SAID": str(folder / "said")}
    command = [*TOOL, "experiment", str(spec), "-o", str(folder / "out"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, f"{process.returncode}\n{out[-3000:]}\n{err[-3000:]}"
    return out


def processes(comm: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == comm:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def with_environment(folder: Path) -> list[Path]:
    """Of programs that were started with the folder's name in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in path.read_bytes():
                found.append(path)
    return found


@pytest.mark.requires_bpf
def test_every_thread_has_what_was_asked_for(tmp_path):
    factors = f'policy = ["batch", "rr:3"]\naffinity = ["{LAST}"]\nnice = [4]\nthp = ["off"]\nenv.LAB = ["yes"]'
    out = ended(start(tmp_path, spec_file(tmp_path, factors)))
    said = [threads for line in (tmp_path / "said").read_text().splitlines() for threads in [json.loads(line)]]
    assert len(said) == 6
    policies = [(thread["policy"], thread["priority"]) for threads in said for thread in threads]
    assert sorted(policies) == [(os.SCHED_RR, 3)] * 9 + [(os.SCHED_BATCH, 0)] * 9
    rest = {(one["nice"], tuple(one["cpus"]), one["thp"], one["environment"]) for threads in said for one in threads}
    assert rest == {(4, (LAST,), "0", "yes")}
    runs = pd.read_parquet(tmp_path / "out/results.parquet")
    assert runs["why"].isna().all()
    assert (runs["threads_seen"] == 3).all()
    seen = runs.groupby("factor.policy")["policies_seen"].unique()
    assert seen["batch"].tolist() == ["batch"]
    assert seen["rr:3"].tolist() == ["rr:3"]
    assert set(runs["cpus_seen"]) == {str(LAST)}
    assert (runs["decode_tokens_per_s"] == 50).all()
    assert f"batch on {LAST}" in out
    assert (tmp_path / "out/report.md").read_text().startswith("# bitnet")
    assert len(list((tmp_path / "out/recordings").glob("*/*.btrace"))) == 2


@pytest.mark.requires_bpf
def test_a_run_that_is_not_as_asked_does_not_count(tmp_path):
    code = "import os,time; os.setpriority(os.PRIO_PROCESS, 0, 9); time.sleep(0.3)"
    spec = tmp_path / "lab.toml"
    spec.write_text(
        f"command = {json.dumps([sys.executable, '-I', '-c', code])}\n[factors]\nnice = [2, 9]\n"
        "[measure]\nwarm_up = 0\nrepeats = 2\ntraced = 0\n"
    )
    ended(start(tmp_path, spec))
    runs = pd.read_parquet(tmp_path / "out/results.parquet")
    assert runs.loc[runs["factor.nice"] == "9", "why"].isna().sum() >= 1
    assert runs.loc[runs["factor.nice"] == "2", "why"].str.contains("nice 9, not 2").all()


@pytest.mark.requires_bpf
def test_resume_runs_only_what_is_missing(tmp_path):
    spec = spec_file(tmp_path, 'null = ["a", "b"]', measure="repeats = 4\ntraced = 0")
    process = start(tmp_path, spec)
    results = tmp_path / "out/results.jsonl"
    deadline = time.monotonic() + 60
    while not (results.exists() and len(results.read_text().splitlines()) >= 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    ended(process, 128 + signal.SIGTERM)
    before = results.read_text().splitlines()
    assert 3 <= len(before) < 8
    ended(start(tmp_path, spec, "--resume"))
    after = results.read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) == 8
    rows = [json.loads(line) for line in after]
    assert len({(row["kind"], row["block"], row["cell"]) for row in rows}) == 8


@pytest.mark.requires_bpf
@pytest.mark.parametrize("how", ["killed", "terminated"])
def test_settings_and_loads_do_not_outlive_the_experiment(tmp_path, how):
    before = THP.read_text()
    other = "never" if chosen(before) != "never" else "madvise"
    factors = f'thp_system = ["{other}"]\nload = ["cpu-hog"]'
    spec = spec_file(tmp_path, factors, seconds=30)
    wrapped = spec.read_text().replace("command = [", r'command = ["/bin/sh", "-c", "\"$@\"; true", "sh", ')
    spec.write_text(wrapped)
    process = start(tmp_path, spec, "--allow-system-changes")
    deadline = time.monotonic() + 60
    while not (chosen(THP.read_text()) == other and processes("cpu-hog")) and time.monotonic() < deadline:
        time.sleep(0.05)
    hogs = processes("cpu-hog")
    assert hogs
    assert chosen(THP.read_text()) == other
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
    ended(process, -signal.SIGKILL if how == "killed" else 128 + signal.SIGTERM)
    deadline = time.monotonic() + 5
    while (set(hogs) & set(processes("cpu-hog")) or with_environment(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(hogs) & set(processes("cpu-hog"))
    assert not with_environment(tmp_path)
    if how == "killed":
        assert chosen(THP.read_text()) == other
        assert json.loads(JOURNAL.read_text()) == {str(THP): chosen(before)}
        done = subprocess.run([*TOOL, "experiment", "--restore"], capture_output=True, text=True, check=True)
        assert f"set back from {other}" in done.stderr
    assert THP.read_text() == before
    assert not JOURNAL.exists()


@pytest.mark.requires_bpf
def test_a_planted_hog_is_found_and_explained(tmp_path, program):
    spec = tmp_path / "lab.toml"
    command = json.dumps([str(program("tokens.c")), str(LAST), "60", "plain"])
    spec.write_text(
        f'command = {command}\n[factors]\naffinity = ["{LAST}"]\nload = ["none", "cpu-hog"]\n'
        "[measure]\nrepeats = 5\ntraced = 2\n"
    )
    out = ended(start(tmp_path, spec, "--as-root"))
    lines = out.splitlines()
    verdict = " ".join(lines[lines.index("Verdict") + 1 : lines.index("Why")])
    assert "load cpu-hog against none: decode speed -" in verdict
    assert "a real difference" in verdict
    why = " ".join(" ".join(lines[lines.index("Why") + 1 :]).split())
    assert "run-queue wait" in why
    assert "cpu-hog (" in why


@pytest.mark.requires_bpf
def test_a_script_traces_a_command(tmp_path, program):
    code = (
        "import bitnet_trace, sys; from pathlib import Path;"
        "report = bitnet_trace.run(sys.argv[2:], output=Path(sys.argv[1]));"
        "print(report.summary['decoded_tokens'], report.recording.path)"
    )
    target = [str(program("tokens.c")), str(LAST), "7", "plain"]
    command = [sys.executable, "-c", code, str(tmp_path / "x.btrace"), *target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["7", str(tmp_path / "x.btrace")], done.stderr

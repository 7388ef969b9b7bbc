"""How often the printed 95 % intervals of a function that is probed in windows hold what the program itself counts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.reader import open_recording

PROGRAM = Path(__file__).parent.parent / "programs" / "rated.c"
FUNCTION = "rated_call"
_LIVE_LONGER_NS = 50_000_000  # probes that were let go are hit for a while
_TRACE = [sys.executable, "-m", "bitnet_trace", "run", "--as-root", "--force", "--overhead-budget", "40"]


def measure(folder: Path, runs: int) -> Iterator[str]:
    """A line for each run, and what they come to; each decodes 5,000 tokens of 1,300 to 2,700 calls."""
    program = folder / "rated"
    subprocess.run(["gcc", "-O2", "-g", str(PROGRAM), "-o", str(program)], check=True)
    command = [str(program), "5000", "2003", "700", "400"]
    inside = {"calls": 0, "time": 0}
    for _ in range(runs):
        recording = folder / "intervals.btrace"
        traced = [*_TRACE, "-o", str(recording), "--functions", FUNCTION, "--", *command]
        output = subprocess.run(traced, check=True, capture_output=True, text=True).stdout
        figures, calls, time_ns = _told_and_true(recording, output)
        spans = {
            "calls": (figures["calls_low"], calls, figures["calls_high"]),
            "time": (figures["mean_low_ns"], time_ns, figures["mean_high_ns"]),
        }
        texts = []
        for name, (low, truth, high) in spans.items():
            held = not pd.isna(low) and low <= truth <= high
            inside[name] += held
            texts.append(f"{name} {truth:8.1f} in {low} to {high}: {'yes' if held else 'no'}")
        yield f"{';  '.join(texts)};  {figures['how']}"
    yield f"held in {inside['calls']} (calls a token) and {inside['time']} (time per call) of {runs} runs"


def _told_and_true(recording: Path, output: str) -> tuple["pd.Series[float]", float, float]:
    """The function's row, and the program's own calls a token and CPU time per call, of tokens that no probe slowed."""
    tokens = pd.DataFrame([json.loads(line) for line in output.splitlines() if line.startswith("{")])
    opened = open_recording(recording)
    slow = opened.windows[opened.windows["what"].str.contains(FUNCTION)]
    for begin_ns, end_ns in zip(slow["begin_ns"].tolist(), slow["end_ns"].tolist(), strict=True):
        within = (tokens["begin_ns"] <= end_ns + _LIVE_LONGER_NS) & (tokens["end_ns"] >= begin_ns)
        tokens.loc[within, "cpu_ns"] = 0
    alone = tokens[tokens["cpu_ns"] > 0]
    profile = build_report(opened).profile
    assert profile is not None
    figures = profile.functions.set_index("name").loc[FUNCTION]
    return figures, float(tokens["calls"].mean()), alone["cpu_ns"].sum() / alone["calls"].sum()

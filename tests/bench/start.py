"""From the command to the program's exec, and from the program's end to the prompt: where the time goes."""

import json
import subprocess
import sys
import time
from pathlib import Path

TOOL = [sys.executable, "-I", "-m", "bitnet_trace"]

# what ends at each mark of the recording's timeline
STAGES = {
    "started": "interpreter and command line",
    "loaded": "BPF programs compiled and loaded",
    "attached": "kernel probes attached",
    "released": "recording opened, target released",
}
ENDING = {"drained": "rest of the events written", "detached": "probes detached"}


def stages_ms(recording: Path) -> dict[str, float]:
    """One traced run of /bin/true: milliseconds by stage; `to the exec` and `to the prompt` are what the user waits."""
    begin_ns = time.monotonic_ns()
    subprocess.run([*TOOL, "run", "-q", "--force", "-o", str(recording), "--", "/bin/true"], check=True)
    end_ns = time.monotonic_ns()
    timeline = json.loads((recording / "meta.json").read_text())["timeline"]
    result, before = {}, begin_ns
    for mark, what in STAGES.items():
        result[what], before = (timeline[mark] - before) / 1e6, timeline[mark]
    result["to the exec"] = (timeline["released"] - begin_ns) / 1e6
    before = timeline["ended"]
    for mark, what in ENDING.items():
        result[what], before = (timeline[mark] - before) / 1e6, timeline[mark]
    result["meta.json, exit"] = (end_ns - before) / 1e6
    result["to the prompt"] = (end_ns - timeline["ended"]) / 1e6
    return result

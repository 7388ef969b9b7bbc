"""Runs a command, kills it with SIGKILL at a given moment, and tells how everything that it left has ended.

`python -m tests.bpf.reaper FILE LINES SECONDS COMMAND...` writes the command's output to FILE and kills it SECONDS after
that has LINES lines. It adopts what the command leaves behind, waits for all of it and prints a JSON object: `killed`, `status` of the command, `others` {pid: status} with a status as subprocess.returncode has it, and
`left`: processes that had not ended in time, each with its state and name, which are killed then.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_DEADLINE_S = 40.0


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    out, lines, seconds, command = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    began = time.monotonic()
    with open(out, "wb") as file:
        tracer = subprocess.Popen(command, stdout=file)
    while tracer.poll() is None and out.read_bytes().count(b"\n") < lines:
        time.sleep(0.002)
    killed = False
    try:
        tracer.wait(seconds)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()
        killed = True
    others = {}
    left: list[str] = []
    while not left:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid:
            others[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > began + _DEADLINE_S:
            left = end_all()
        else:
            time.sleep(0.005)
    print(json.dumps({"killed": killed, "status": tracer.returncode, "others": others, "left": left}))


def end_all() -> list[str]:
    """Kills all children of this process; returns what they were."""
    found = []
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/stat").read_text()[:60])
            os.kill(int(pid), signal.SIGKILL)
    return found


if __name__ == "__main__":
    main()

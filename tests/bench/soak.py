"""The live view for a long time: `make soak` (30 minutes; `make soak SOAK_SECONDS=120` for a short one).

Watches a program that decodes without end; memory must not grow, and the CPU time of all the tracer's processes is set
against the time. Says what it found, and exits with 1 where it is too much.
"""

import argparse
import contextlib
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

TOOL = [sys.executable, "-m", "bitnet_trace"]
PROGRAM = Path(__file__).parents[1] / "programs" / "endless.c"
_SAMPLES = 30
_MOST_GROWTH_PCT, _MOST_GROWTH_KB = 5.0, 4096
_MOST_CPU_PCT, _MOST_MIB = 3.0, 200.0
_WARM_UP_S = 20.0  # names of functions are asked for, caches fill


@dataclass(frozen=True)
class Soak:
    """CPU time of the tracer's processes, and their memory (Pss) at the beginning and at the end."""

    seconds: float
    cpu_pct: float
    first_kb: float
    last_kb: float

    @property
    def has_grown(self) -> bool:
        growth_kb = self.last_kb - self.first_kb
        return growth_kb > _MOST_GROWTH_KB and growth_kb > self.first_kb * _MOST_GROWTH_PCT / 100

    def verdict(self) -> list[str]:
        """What is wrong, a line each."""
        found = []
        if self.has_grown:
            found.append(f"memory has grown from {self.first_kb / 1024:.1f} to {self.last_kb / 1024:.1f} MiB")
        if self.last_kb / 1024 > _MOST_MIB:
            found.append(f"more than {_MOST_MIB:.0f} MiB")
        if self.cpu_pct > _MOST_CPU_PCT:
            found.append(f"more than {_MOST_CPU_PCT:.0f} % of a CPU")
        return found

    def __str__(self) -> str:
        growth_pct = 100 * (self.last_kb / self.first_kb - 1)
        return (
            f"top --plain for {self.seconds:.0f} s: {self.cpu_pct:.1f} % of a CPU, {self.last_kb / 1024:.0f} MiB (Pss), "
            f"{growth_pct:+.2f} %"
        )


def memory_kb(view: psutil.Process) -> float:
    """Proportional share of the memory of a process and of those that it has started: Pss."""
    total = 0
    for process in family(view):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1024


def cpu_s(view: psutil.Process) -> float:
    """CPU time of a process and of those that it has started, with those that it has waited for."""
    total = 0.0
    for process in family(view):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def measure(command: list[str], seconds: float, warm_up_s: float) -> Soak:
    """Watches a command for so long, after a while in which nothing is measured."""
    target = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    view = subprocess.Popen([*TOOL, "top", "--plain", "-p", str(target.pid)], stdout=subprocess.DEVNULL)
    try:
        time.sleep(warm_up_s)
        process = psutil.Process(view.pid)
        begin_s, before_s = time.monotonic(), cpu_s(process)
        memory = []
        for _ in range(_SAMPLES):
            time.sleep(seconds / _SAMPLES)
            memory.append(memory_kb(process))
        cpu_pct = 100 * (cpu_s(process) - before_s) / (time.monotonic() - begin_s)
    finally:
        view.send_signal(signal.SIGTERM)
        view.wait(60)
        target.kill()
        target.wait()
    first, last = (statistics.median(part) for part in (memory[:5], memory[-5:]))
    return Soak(seconds, cpu_pct, first, last)


def main(seconds: float) -> int:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "endless"
        subprocess.run(["gcc", "-O2", str(PROGRAM), "-o", str(program)], check=True)
        found = measure([str(program)], seconds, min(_WARM_UP_S, seconds / 3))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(found)
    wrong = found.verdict()
    print(f"FAILED: {'; '.join(wrong)}" if wrong else "passed: memory and CPU time are bounded")
    return int(bool(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0, help="default: 1800")
    sys.exit(main(parser.parse_args().seconds))

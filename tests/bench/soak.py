"""The live view for a long time: `make soak` (30 minutes; SOAK_SECONDS=60 for a short one).

Watches a program that decodes without end; memory must not grow, and the CPU time of all the tracer's processes is set
against the time.
"""

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOL = [sys.executable, "-m", "bitnet_trace"]
_PROGRAM = Path(__file__).parents[1] / "programs" / "endless.c"
_SAMPLES = 30
_MOST_GROWTH_PCT, _MOST_GROWTH_KB = 5.0, 4096
_MOST_CPU_PCT, _MOST_MIB = 3.0, 200.0


def memory_kb(pid: int) -> int:
    """Proportional share of the memory of a process: Pss."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("\nPss:", 1)[1].split()[0])


def family(pid: int) -> list[int]:
    """A process and those that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(seconds: float) -> int:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "endless"
        subprocess.run(["gcc", "-O2", str(_PROGRAM), "-o", str(program)], check=True)
        target = subprocess.Popen([program], stdout=subprocess.DEVNULL)
        view = subprocess.Popen([*TOOL, "top", "--plain", "-p", str(target.pid)], stdout=subprocess.DEVNULL)
        try:
            time.sleep(min(20.0, seconds / 3))  # names of functions are asked for, caches fill
            pids = family(view.pid)
            begin_s, before_s = time.monotonic(), sum(map(cpu_s, pids))
            memory = []
            for _ in range(_SAMPLES):
                time.sleep(seconds / _SAMPLES)
                memory.append(sum(map(memory_kb, pids)))
            cpu_pct = 100 * (sum(map(cpu_s, pids)) - before_s) / (time.monotonic() - begin_s)
        finally:
            view.send_signal(signal.SIGTERM)
            view.wait(60)
            target.kill()
            target.wait()
    first, last = (statistics.median(part) for part in (memory[:5], memory[-5:]))
    growth_pct = 100 * (last - first) / first
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(
        f"top --plain for {seconds:.0f} s: {cpu_pct:.1f} % of a CPU, {last / 1024:.0f} MiB (Pss), {growth_pct:+.2f} %"
    )
    grew = growth_pct > _MOST_GROWTH_PCT and last - first > _MOST_GROWTH_KB
    failed = grew or cpu_pct > _MOST_CPU_PCT or last / 1024 > _MOST_MIB
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0, help="default: 1800")
    sys.exit(main(parser.parse_args().seconds))

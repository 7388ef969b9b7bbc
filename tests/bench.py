"""`make bench`: what start-up and tracing cost on this machine. Needs root; takes about two minutes.

Traced and untraced runs of the demo's workload take turns, so that a change of the machine's load falls on both; the
ratio is of the two runs of one round. Printed: medians, and the interquartile range.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bitnet_trace import __version__, host
from bitnet_trace.commands.demo import decode_command, make_model

_TOOL = [sys.executable, "-I", "-m", "bitnet_trace"]
_RATE = re.compile(r" eval time = .*?([\d.]+) tokens per second\)")


def spread(values: list[float]) -> str:
    """`median (first to third quartile)`."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:9.3f}  ({low:.3f} to {high:.3f})"


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def rates(command: list[str]) -> tuple[float, float]:
    """Tokens per second of prefill and decode, as the engine prints them."""
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = [float(rate) for rate in _RATE.findall(out)]
    if len(found) != 2:
        raise SystemExit(f"no timing lines of the engine in:\n{out}")
    return found[0], found[1]


def released_after_s(recording: Path) -> float:
    """From the start of the tool's main function to the traced program's exec."""
    timeline = json.loads((recording / "meta.json").read_text())["timeline"]
    return float(timeline["released"] - timeline["started"]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    machine, bcc = host.gather(), host.find_bcc()
    print(
        f"bitnet-trace {__version__}, kernel {machine.kernel}, {len(machine.cpus_allowed or ())} CPUs "
        f"({machine.cpu_model}), BCC {bcc.version if bcc else None}, load {os.getloadavg()[0]:.2f}"
    )
    print(f"--version, s               {spread([seconds([*_TOOL, '--version']) for _ in range(options.rounds)])}")

    plain = decode_command(make_model("default", None), options.tokens, None)
    untraced: list[tuple[float, float]] = []
    traced: dict[str, list[tuple[float, float]]] = {"counts": [], "events": []}
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            untraced.append(rates(plain))
            for detail, results in traced.items():
                recording = Path(folder) / "bench.btrace"
                results.append(
                    rates([*_TOOL, "run", "-q", "--force", "--detail", detail, "-o", str(recording), "--", *plain])
                )
                starts.append(released_after_s(recording))
    print(f"run, to the exec, s        {spread(starts)}")
    for index, phase in enumerate(("prefill", "decode ")):
        print(f"{phase} untraced, tokens/s  {spread([run[index] for run in untraced])}")
        for detail, results in traced.items():
            ratios = [run[index] / base[index] for run, base in zip(results, untraced, strict=True)]
            print(f"{phase} {detail}, ratio      {spread(ratios)}")


if __name__ == "__main__":
    main()

"""`python -m tests.bench [WHAT ...]`: how long the tool takes and what it costs; all of it when nothing is named."""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bitnet_trace import __version__, host
from bitnet_trace.commands.demo import decode_command, make_model
from bitnet_trace.recording.reader import open_recording
from tests.bench import attached, folding, intervals, naive, overhead, reports, start, toggled

_ALL = ["start", "overhead", "toggled", "attached", "reports", "folding", "naive", "intervals"]


def spread(values: list[float]) -> str:
    """`median (first to third quartile)`."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:8.1f}  ({low:.1f} to {high:.1f})"


def bench_start(folder: Path, rounds: int) -> None:
    runs = [start.stages_ms(folder / "start.btrace") for _ in range(rounds + 1)][1:]
    print(f"\nstart and end of a run of /bin/true, ms, {rounds} runs")
    for stage in runs[0]:
        print(f"  {stage:36}{spread([run[stage] for run in runs])}")


def bench_overhead(folder: Path, command: list[str], details: list[str]) -> None:
    print(f"\nslow-down of decoding: {' '.join(command)}")
    for detail in details:
        result = None
        for result in overhead.measure(command, folder / "overhead.btrace", ["--detail", detail], seed=1):
            print(f"\r  {detail:10}{result}   ", end="", flush=True)
        print()
        assert result is not None


def bench_toggled(folder: Path, seconds: float) -> None:
    print(f"\nslow-down by all that is attached, on and off each half second, {seconds:.0f} s")
    print(f"  {toggled.measure(make_model('default', None), folder, seed=1, seconds=seconds)}")


def bench_attached(folder: Path) -> None:
    print("\nslow-down of a server's requests while it is recorded by attach")
    for result in attached.measure(make_model("default", None), folder / "attached.btrace", seed=1):
        print(f"\r  {result}   ", end="", flush=True)
    print()


def bench_reports(folder: Path, recording: Path | None) -> None:
    if recording is None:
        recording = folder / "demo.btrace"
        for tokens, name in ((32, "starts"), (512, "decodes")):
            made = folder / f"{name}.btrace"
            command = [sys.executable, "-m", "bitnet_trace", "demo", "--tokens", str(tokens), "-o", str(made)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            bench_reports(folder, made)
        return
    print(f"\nreports of {recording.name}, again and again")
    print("  events    form         s    on CPU   s a million     GiB      MB")
    for millions in (1, 3, 10):
        large = reports.repeated(open_recording(recording), millions * 1_000_000, folder / f"{millions}.btrace")
        for form in ("text", "html"):
            seconds, cpu_s, memory_gib, size = reports.measure(large, form)
            figures = f"{seconds:7.1f}{cpu_s:10.1f}{cpu_s / millions:14.2f}{memory_gib:8.2f}{size / 1e6:8.1f}"
            print(f"  {millions:4d} M    {form:5}{figures}", flush=True)
        shutil.rmtree(large)


def bench_folding(rounds: int) -> None:
    print(f"\nthe live view folds {folding.N_EVENTS:,} events of an interval, ms of CPU time, {rounds} times")
    print(f"  {spread(folding.measure(rounds)[0])}")


def bench_naive(rounds: int) -> None:
    command = decode_command(make_model("tiny", None), 64, None)
    print(f"\na token's time when functions are counted without windows, {rounds} pairs: {' '.join(command)}")
    for line in naive.measure(command, rounds):
        print(f"  {line}")


def bench_intervals(folder: Path) -> None:
    print("\n95 % intervals of a function that is probed in windows, 20 runs")
    for line in intervals.measure(folder, 20):
        print(f"  {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="*", choices=_ALL, default=_ALL)
    parser.add_argument("--rounds", type=int, default=15, help="of start")
    parser.add_argument("--tokens", type=int, default=256, help="decoded in a run of overhead")
    parser.add_argument("--seconds", type=float, default=300.0, help="of toggled")
    parser.add_argument("--detail", nargs="+", choices=["counts", "events"], default=["events"])
    parser.add_argument("--recording", type=Path, help="of reports: this one in place of the demo's")
    parser.add_argument(
        "--command", nargs=argparse.REMAINDER, help="instead of the demo: a program that prints its speed"
    )
    options = parser.parse_args()
    machine, bcc = host.gather(), host.find_bcc()
    print(
        f"bitnet-trace {__version__}, kernel {machine.kernel}, {len(machine.cpus_allowed or ())} CPUs "
        f"({machine.cpu_model}), BCC {bcc.version if bcc else None}, load {os.getloadavg()[0]:.2f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        if "start" in options.what:
            bench_start(Path(folder), options.rounds)
        if "overhead" in options.what:
            command = options.command or decode_command(make_model("default", None), options.tokens, None)
            bench_overhead(Path(folder), command, options.detail)
        if "toggled" in options.what:
            bench_toggled(Path(folder), options.seconds)
        if "attached" in options.what:
            bench_attached(Path(folder))
        if "reports" in options.what:
            bench_reports(Path(folder), options.recording)
        if "folding" in options.what:
            bench_folding(options.rounds)
        if "naive" in options.what:
            bench_naive(min(options.rounds, 5))
        if "intervals" in options.what:
            bench_intervals(Path(folder))


if __name__ == "__main__":
    main()

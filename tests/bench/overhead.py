"""The slow-down of decoding under the default run, by pairs of an untraced and a traced run."""

import math
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

from tests.bench.start import TOOL

_RATE = re.compile(r" eval time = .*?([\d.]+) tokens per second\)")


@dataclass(frozen=True)
class Interval:
    """Slow-down in percent of the untraced time per token: estimate, and its 95 % confidence interval, of n pairs."""

    pct: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.pct:+.2f} %  (95 %: {self.low:+.2f} to {self.high:+.2f}, {self.n} pairs)"


def decode_rate(command: list[str]) -> float:
    """Tokens per second of decoding, as the engine itself prints them; the last such line counts."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = _RATE.findall(done.stdout + done.stderr)
    if not found:
        raise SystemExit(f"no timing line of the engine in:\n{done.stdout}{done.stderr}")
    return float(found[-1])


def interval(ratios: list[float]) -> Interval:
    """Of time per token traced / untraced: the Hodges-Lehmann estimate and the interval of Wilcoxon's signed-rank test.

    On logarithms, so that a pair and its reverse cancel. Not the mean: of ten runs on a rented machine one or two are
    slower by a quarter, for reasons outside of it.
    """
    logs = np.log(ratios)
    n = len(logs)
    first, second = np.triu_indices(n)
    averages = np.sort((logs[first] + logs[second]) / 2)
    spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    outside = max(int(len(averages) / 2 - norm.ppf(0.975) * spread), 0)
    values = [float(np.median(averages)), averages[outside], averages[-1 - outside]]
    estimate, low, high = (100 * math.expm1(value) for value in values)
    return Interval(estimate, low, high, n)


def measure(
    command: list[str], recording: Path, options: list[str], seed: int, half_width: float = 1.0, most_pairs: int = 500
) -> Iterator[Interval]:
    """The interval after each pair, from the tenth on, until it is narrow enough or `most_pairs` were run.

    Which of a pair goes first is drawn by `seed`; the first pair is a warm-up.
    """
    draw = random.Random(seed)
    traced = [*TOOL, "run", "-q", "--force", *options, "-o", str(recording), "--", *command]
    ratios: list[float] = []
    for number in range(most_pairs + 1):
        order = [command, traced] if draw.random() < 0.5 else [traced, command]
        rates = {one is traced: decode_rate(one) for one in order}
        if number:
            ratios.append(rates[False] / rates[True])
        if len(ratios) >= 10:
            result = interval(ratios)
            yield result
            if result.half_width <= half_width:
                return

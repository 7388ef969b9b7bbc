"""What every decoded token pays for being traced: the fastest tenth of a run's tokens, of pairs of an untraced and a traced run.

On a rented machine the time of a whole run varies by a tenth for reasons outside of it, which hides 2 % even from hundreds of
pairs. Tokens that nothing outside has disturbed are all alike, and those of the traced run still pay for each of their own
system calls, probes and switches. What comes between tokens now and then is not in it, the tracer's own work: that is
counted by the kernel, and shown beside it.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitnet_trace.demo.decode import prompt
from bitnet_trace.recording.meta import load_meta
from tests.bench.overhead import Interval, interval
from tests.bench.start import TOOL

_TOKENS, _ANSWERS = 200, 4  # of an answer; of a run, all but the first are looked at
_PROGRAM = "import sys; from tests.bench.steady import decode; decode(sys.argv[1])"


@dataclass(frozen=True)
class Steady:
    """Slow-down of undisturbed tokens, and the median run's CPU time of the tracer in percent of the target's."""

    tokens: Interval
    tracer_pct: float

    def __str__(self) -> str:
        return f"{self.tokens}; the tracer's CPU time {self.tracer_pct:.2f} % of the target's"


def decode(model: str) -> None:
    """Prints the times of the tokens of each answer as JSON: a list of lists of ns between two of them."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel = 256, 1
    params.fit_params, params.cache_ram_mib, params.n_ctx_checkpoints, params.verbosity = False, 0, 0, 1
    server = xllamacpp.Server(params)
    request = {"prompt": prompt(8), "max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True}
    request |= {"cache_prompt": False, "stream": True}
    answers = []
    for _ in range(_ANSWERS):
        times: list[int] = []

        def token(_: object, times: list[int] = times) -> bool:
            times.append(time.monotonic_ns())
            return False  # go on

        server.handle_completions(request, token)
        answers.append(np.diff(times).tolist())
    print(json.dumps(answers))


def undisturbed_ns(answers: list[list[int]]) -> float:
    """Of a run: the time that a tenth of its tokens took at most, those of the first answer left out."""
    return float(np.percentile(np.concatenate(answers[1:]), 10))


def measure(model: Path, recording: Path, seed: int, half_width: float = 0.5, most: int = 60) -> Iterator[Steady]:
    """The state after each pair, from the tenth on, until the interval is narrow enough or `most` were run."""
    draw = random.Random(seed)
    command = [sys.executable, "-c", _PROGRAM, str(model)]
    traced = [*TOOL, "run", "-q", "--force", "-o", str(recording), "--", *command]
    ratios, tracer = [], []
    for _ in range(most):
        order = [command, traced] if draw.random() < 0.5 else [traced, command]
        times = {one is traced: undisturbed_ns(_answers(one)) for one in order}
        ratios.append(times[True] / times[False])
        cost = load_meta(recording)[0]["cost"]
        tracer.append(100 * cost["tracer_cpu_ns"] / cost["target_cpu_ns"])
        if len(ratios) >= 10:
            result = Steady(interval(ratios), float(np.median(tracer)))
            yield result
            if result.tokens.half_width <= half_width:
                return


def _answers(command: list[str]) -> list[list[int]]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answers: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers

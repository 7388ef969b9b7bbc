"""The slow-down of decoding by everything that is attached: put in place and taken away each half second.

One server answers all the time, so its process, its place in memory and most of what the machine does meanwhile are the
same on both sides: two minutes tell what whole runs in pairs need an hour for. The recording's turns and samples are
those of `attach`; windows, which take what the budget leaves, starting and ending are not in it. `ask` is the client, a
process of its own.
"""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from bitnet_trace.capture import identity
from bitnet_trace.capture.attach import Attachment, Wishes
from bitnet_trace.capture.bpf import Programs
from bitnet_trace.capture.options import Options
from bitnet_trace.capture.parser import Parser
from bitnet_trace.capture.tracing import Tracing
from tests.bench.attached import Client, server_of
from tests.bench.overhead import Interval, interval

_SEGMENT_S = 0.5
_SETTLED_S = 0.05  # after probes were put in place or taken away
_WARM_UP_S = 3.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Toggled:
    """Slow-down of whole requests, and of decoding by the engine's own figure."""

    requests: Interval
    tokens: Interval

    def __str__(self) -> str:
        return f"requests {self.requests}; tokens {self.tokens}"


def ask(address: str) -> None:
    """Asks for ever; a line per answer: when it was asked for and when it came, in ns, and ms per token."""
    client = Client(address)
    while True:
        begin_ns = time.monotonic_ns()
        timings = client.ask()["timings"]
        print(begin_ns, time.monotonic_ns(), timings["predicted_per_token_ms"], flush=True)


def measure(model: Path, folder: Path, seed: int, seconds: float = 300.0) -> Toggled:
    """In so many seconds. Which of a pair of segments comes first is drawn by `seed`."""
    asking = [sys.executable, "-c", "import sys; from tests.bench.toggled import ask; ask(sys.argv[1])"]
    with server_of(model) as (server, address), tempfile.TemporaryFile("w+") as answers:
        with subprocess.Popen([*asking, address], stdout=answers) as client:
            try:
                segments = list(_segments(server.pid, folder / "toggled.btrace", random.Random(seed), seconds))
            finally:
                client.kill()
        answers.seek(0)
        lines = [line.split() for line in answers if line.endswith("\n")]  # the last may have been cut
    begins, ends, token_ms = np.array(lines, float).T
    return Toggled(*(interval(_ratios(segments, begins, ends, values)) for values in (ends - begins, token_ms)))


@dataclass(frozen=True)
class _Segment:
    traced: bool
    begin_ns: int
    end_ns: int


def _segments(pid: int, recording: Path, draw: random.Random, seconds: float) -> Iterator[_Segment]:
    """In pairs of one with everything attached and one without."""
    with _attached(pid, recording) as (tracing, probes):
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            for traced in draw.sample([True, False], 2):
                if traced:
                    tracing.programs.attach_kernel(Options().sample_frequency)
                    for one in probes:
                        tracing.programs.attach_engine_probes(*one)
                time.sleep(_SETTLED_S)
                begin_ns = time.monotonic_ns()
                time.sleep(_SEGMENT_S / 2)
                if traced:
                    tracing.turn(pid)
                    tracing.meter.step()
                time.sleep(max(_SEGMENT_S - (time.monotonic_ns() - begin_ns) / 1e9, 0))
                yield _Segment(traced, begin_ns, time.monotonic_ns())
                tracing.programs.detach()


@contextlib.contextmanager
def _attached(pid: int, recording: Path) -> Iterator[tuple[Tracing, list[tuple[Any, ...]]]]:
    """`attach` up to where it would wait; and what it has probed, to be probed again."""
    probes: list[tuple[Any, ...]] = []
    attach = Programs.attach_engine_probes

    def noted(programs: Programs, path: str, *where: Any) -> None:
        attach(programs, path, *where)
        kept = os.open(path, os.O_RDONLY)  # what the path names is closed when all is attached
        probes.append((f"/proc/self/fd/{kept}", *where))

    options = Options(output=recording, force=True)
    with Wishes() as wishes:
        user = identity.calling_user(os.environ, options.as_root)
        tracing = Tracing(options, user, Parser(user), time.monotonic_ns())
        attachment = Attachment(pid, tracing, options, wishes)
        try:
            with patch.object(Programs, "attach_engine_probes", noted):
                attachment.adopt(recording, None)
                until_s = time.monotonic() + _WARM_UP_S
                while time.monotonic() < until_s:
                    tracing.turn(pid)
                    time.sleep(_SEGMENT_S)
            tracing.programs.detach()
            yield tracing, probes
        finally:
            tracing.give_up()


def _ratios(segments: list[_Segment], begins: Floats, ends: Floats, values: Floats) -> list[float]:
    """Traced over untraced, of the means of the values of those answers that lie in a pair of segments."""
    means: list[dict[bool, float]] = []
    for number, one in enumerate(segments):
        inside = (begins >= one.begin_ns) & (ends <= one.end_ns)
        if number % 2 == 0:
            means.append({})
        if inside.any():
            means[-1][one.traced] = float(values[inside].mean())
    return [pair[True] / pair[False] for pair in means if len(pair) == 2]

"""The slow-down of a server's requests while `attach` records it: seconds with it and seconds without, one after the other.

The server is one process from beginning to end, so what differs from process to process is in both. `serve` is that
process: it answers HTTP requests with the demo's model.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_trace.demo.decode import prompt
from tests.bench.overhead import Interval, interval
from tests.bench.start import TOOL

_TOKENS = 16  # of an answer
_SEGMENT_S = 4.0


@dataclass(frozen=True)
class Requests:
    """So far: the interval of the slow-down of requests, None of too few pairs; requests that were answered, and not."""

    slower: Interval | None
    answered: int
    failed: int

    def __str__(self) -> str:
        return f"{self.slower or '-'}; {self.answered:,} requests answered, {self.failed} not"


def serve(model: str) -> None:
    """Prints host and port, and answers until it is killed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel = 256, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.fit_params, params.cache_ram_mib, params.n_ctx_checkpoints, params.verbosity = False, 0, 0, 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(60)


def measure(model: Path, recording: Path, seed: int, half_width: float = 1.0, most: int = 100) -> Iterator[Requests]:
    """The state after each pair of segments, until the interval is narrow enough or there were `most` of them."""
    draw = random.Random(seed)
    with server_of(model) as (server, address):
        client = Client(address)
        client.mean_ms(_SEGMENT_S)  # warm-up
        ratios: list[float] = []
        for _ in range(most):
            order = [True, False] if draw.random() < 0.5 else [False, True]
            times = {traced: _segment(client, server.pid, recording if traced else None) for traced in order}
            ratios.append(times[True] / times[False])
            found = interval(ratios) if len(ratios) >= 10 else None
            yield Requests(found, client.answered, client.failed)
            if found and found.half_width <= half_width:
                return


@contextlib.contextmanager
def server_of(model: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process that serves, and where."""
    command = [
        sys.executable,
        "-c",
        "import sys; from tests.bench.attached import serve; serve(sys.argv[1])",
        str(model),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server, server.stdout.readline().strip()
        finally:
            server.kill()


def _segment(client: "Client", pid: int, recording: Path | None) -> float:
    """Mean time of the requests of a few seconds, in ms; where a recording is named, while `attach` makes it."""
    if recording is None:
        return client.mean_ms(_SEGMENT_S)
    shutil.rmtree(recording, ignore_errors=True)
    attach = [*TOOL, "attach", "-o", str(recording), "-p", str(pid)]
    with subprocess.Popen(attach, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        while "tracing process" not in tracer.stderr.readline():  # requests go on meanwhile, and are not counted
            client.mean_ms(0)
        try:
            return client.mean_ms(_SEGMENT_S)
        finally:
            tracer.send_signal(signal.SIGINT)
            while tracer.poll() is None:
                client.mean_ms(0)


class Client:
    """Asks for the same answer again and again, on one connection. `address`: URL or HOST:PORT."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address.rpartition("//")[2].rstrip("/"), timeout=60)
        self._body = json.dumps(
            {"prompt": prompt(8), "n_predict": _TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        )
        self.answered = self.failed = 0

    def mean_ms(self, seconds: float) -> float:
        """Of the requests of so many seconds, at least one."""
        times: list[float] = []
        end_s = time.monotonic() + seconds
        while not times or time.monotonic() < end_s:
            begin_s = time.monotonic()
            self.ask()
            times.append(1e3 * (time.monotonic() - begin_s))
        return statistics.fmean(times)

    def ask(self) -> dict[str, Any]:
        """The answer; {} when there is none."""
        self._connection.request("POST", "/completion", self._body, {"Content-Type": "application/json"})
        reply = self._connection.getresponse()
        text = reply.read()
        answer: dict[str, Any] = json.loads(text) if reply.status == 200 else {}
        if answer.get("tokens_predicted") == _TOKENS:
            self.answered += 1
        else:
            self.failed += 1
        return answer

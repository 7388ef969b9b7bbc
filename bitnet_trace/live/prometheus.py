"""The figures of the live view for Prometheus, over HTTP: https://prometheus.io/docs/instrumenting/exposition_formats/

Served by a process of its own without root, which gets frames as the screen does.
"""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NoReturn

from bitnet_trace.capture import helper
from bitnet_trace.capture.identity import NOBODY
from bitnet_trace.errors import TraceError
from bitnet_trace.live.model import Frame

LOOPBACK = "127.0.0.1"
_PREFIX = "bitnet_trace_"
_BUFFER_BYTES = 1 << 20
_READY = b"ready"


def address_of(text: str) -> tuple[str, int]:
    """`9464`, `:9464`, `127.0.0.1:9464`, `[::1]:9464`; loopback without an address. Raises ValueError."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or LOOPBACK
    if not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{text!r} is not ADDRESS:PORT")
    return host, int(port)


class Exporter:
    """`with Exporter(host, port) as show`: serves the newest frame at /metrics."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def __enter__(self) -> "Exporter":
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._pid = os.fork()
        if self._pid == 0:
            _serve(other, self._host, self._port)
        other.close()
        answer = self._socket.recv(1000)
        if answer != _READY:
            self._close()
            reason = answer.decode(errors="replace") or "it did not start"
            raise TraceError(f"no metrics at {self._host}:{self._port}: {reason}", "choose another ADDRESS:PORT")
        return self

    def __call__(self, frame: Frame) -> bool:
        """Never enough."""
        values = json.loads(frame.to_json())
        values.update(threads=[], tokens=[], functions=[], places=[])
        with contextlib.suppress(OSError):  # a scrape that hangs holds nobody up
            self._socket.send(json.dumps(values).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._socket.close()
        with contextlib.suppress(ChildProcessError):  # it was waited for with the target's processes
            os.waitpid(self._pid, 0)


def _serve(frames: socket.socket, host: str, port: int) -> NoReturn:
    status = 1
    try:
        helper.keep_only(2, frames.fileno())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends with the tracer
        from prometheus_client import CollectorRegistry, start_http_server

        metrics = Metrics()
        registry = CollectorRegistry()
        registry.register(metrics)
        try:
            start_http_server(port, host, registry)
        except OSError as error:
            frames.send((error.strerror or str(error)).encode())
            os._exit(status)
        NOBODY.assume()
        frames.send(_READY)
        while data := frames.recv(_BUFFER_BYTES):
            metrics.frame = Frame.from_json(data.decode())
        status = 0
    finally:
        os._exit(status)


class Metrics:
    """A collector of prometheus_client: the metric families of the newest frame.

    Counters only grow: where a phase gets another name later, what was told of it stays.
    """

    def __init__(self) -> None:
        self.frame = Frame()
        self._told: dict[tuple[str, ...], float] = {}

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        frame = self.frame

        def counter(name: str, text: str, labels: list[str], values: list[tuple[list[str], float | None]]) -> Any:
            family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
            for label, value in values:
                if value is not None:
                    family.add_metric(label, self._grown((name, *label), value))
            return family

        def by_phase(key: str, scale: float = 1.0) -> list[tuple[list[str], float | None]]:
            return [([row["phase"]], _scaled(row.get(key), scale)) for row in frame.by_phase]

        def kinds(*keys: tuple[str, str]) -> list[tuple[list[str], float | None]]:
            return [([row["phase"], kind], row.get(key)) for row in frame.by_phase for kind, key in keys]

        def gauge(name: str, text: str, value: float | None) -> Any:
            family = GaugeMetricFamily(_PREFIX + name, text)
            if value is not None:
                family.add_metric([], value)
            return family

        duration = HistogramMetricFamily(
            f"{_PREFIX}phase_duration_seconds", "Durations of the phases that have ended.", labels=["phase"]
        )
        for name, bins in frame.durations.items():
            sums, total = [], 0.0
            for number, n in enumerate(bins):
                total += self._grown(("bins", name, str(number)), n)
                sums.append(("+Inf" if number == len(bins) - 1 else f"{2 ** (number + 1) * 1e-6:g}", total))
            seconds = self._grown(("bins", name, "sum"), frame.durations_ns.get(name, 0) / 1e9)
            duration.add_metric([name], sums, seconds)
        yield duration
        yield counter("cpu_seconds", "Time of threads on a CPU.", ["phase"], by_phase("cpu_ns", 1e-9))
        yield counter(
            "run_queue_wait_seconds", "Time of threads waiting for a CPU.", ["phase"], by_phase("runq_wait_ns", 1e-9)
        )
        yield counter("futex_wait_seconds", "Time in futex calls.", ["phase"], by_phase("futex_wait_ns", 1e-9))
        yield counter("page_fault_seconds", "Time in page faults.", ["phase"], by_phase("fault_ns", 1e-9))
        faults = kinds(("minor", "faults_minor"), ("major", "faults_major"), ("populate", "faults_populate"))
        yield counter("page_faults", "Page faults.", ["phase", "kind"], faults)
        switches = kinds(("voluntary", "switches_voluntary"), ("involuntary", "switches_involuntary"))
        yield counter("context_switches", "Context switches.", ["phase", "kind"], switches)
        tokens = [(["prefill"], frame.prompt_tokens), (["decode"], frame.decoded_tokens)]
        yield counter("tokens", "Tokens of the calls that have ended.", ["phase"], list(tokens))
        speed = GaugeMetricFamily(
            f"{_PREFIX}tokens_per_second", "Tokens over the time of their calls, since the beginning.", labels=["phase"]
        )
        for name, rate in (("prefill", frame.prefill_tokens_per_s), ("decode", frame.tokens_per_s)):
            if rate is not None:
                speed.add_metric([name], rate)
        yield speed
        yield gauge("tokens_per_second_now", "Of decode, in the last interval.", frame.tokens_per_s_now)
        yield counter("events", "Events that the tracer received.", [], [([], frame.events)])
        yield counter("events_lost", "Events that were lost.", [], [([], frame.lost)])
        yield gauge("tracer_cpu_ratio", "CPUs that the tracer uses.", _scaled(frame.own_cpu_pct, 0.01))
        yield gauge("overhead_ratio", "Estimated cost over the CPU time used.", _scaled(frame.overhead_pct, 0.01))
        yield gauge("target_up", "1 while the traced program runs.", float(frame.status == "running"))

    def _grown(self, series: tuple[str, ...], value: float) -> float:
        self._told[series] = max(self._told.get(series, 0.0), float(value))
        return self._told[series]


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale

"""Exact quantiles of page-fault latencies."""

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.layout import FaultFlag, Kind


class FaultLatencies:
    """Latencies of handled faults whose exception was seen, gathered batch by batch."""

    def __init__(self) -> None:
        self._latencies = Distribution()

    def add(self, events: ByKind) -> None:
        faults = events.of(Kind.FAULT)
        timed = (faults["arg0"] & (FaultFlag.FAILED | FaultFlag.NO_LATENCY)) == 0
        self._latencies.add(as_time(faults["arg2"][timed]))

    def quantiles(self) -> dict[str, int] | None:
        """p50, p90, p99 and max in ns (nearest rank: each is a latency that occurred); None without faults."""
        return self._latencies.quantiles()

"""Exact quantiles of page-fault latencies."""

import numpy as np

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.layout import FaultFlag, Kind

_NOT_TIMED = np.uint32(FaultFlag.FAILED | FaultFlag.NO_LATENCY)


class FaultLatencies:
    """Latencies of handled faults whose exception was seen, gathered batch by batch."""

    def __init__(self) -> None:
        self._latencies = Distribution()

    def add(self, events: ByKind) -> None:
        faults = events.columns_of(Kind.FAULT)
        timed = (faults["arg0"] & _NOT_TIMED) == 0
        self._latencies.add(as_time(faults.compress(timed)["arg2"]))

    def quantiles(self) -> dict[str, int] | None:
        """p50, p90, p99 and max in ns (nearest rank: each is a latency that occurred); None without faults."""
        return self._latencies.quantiles()

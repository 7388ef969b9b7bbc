"""Exact quantiles of page-fault latencies."""

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.layout import FaultFlag, Kind


class FaultLatencies:
    """Latencies of handled faults whose exception was seen, gathered batch by batch."""

    def __init__(self) -> None:
        self._latencies = Distribution()

    def add(self, events: npt.NDArray[np.void]) -> None:
        """Takes the FAULT events of an EVENT_DTYPE array."""
        flags = events["arg0"]
        timed = (events["kind"] == Kind.FAULT) & ((flags & (FaultFlag.FAILED | FaultFlag.NO_LATENCY)) == 0)
        self._latencies.add(as_time(events["arg2"][timed]))

    def quantiles(self) -> dict[str, int] | None:
        """p50, p90, p99 and max in ns (nearest rank: each is a latency that occurred); None without faults."""
        return self._latencies.quantiles()

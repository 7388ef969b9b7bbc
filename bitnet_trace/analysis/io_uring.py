"""io_uring's requests by opcode: how many, how many bytes, how long each took."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.layout import IO_UNKNOWN_OPCODE, IoFlag, Kind

_LARGEST_RESULT = np.int64((1 << 31) - 1)  # the kernel's type; more is damage
_OPCODE = np.uint32(0xFF)
_COUNTS = ("submitted", "completed", "bytes", "errors", "by_worker", "by_polling_thread")


class IoRequests:
    """Submissions and completions, gathered batch by batch."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTS, 0))
        self._latencies: dict[int, Distribution] = defaultdict(Distribution)
        self._more = 0

    def add(self, events: ByKind) -> None:
        submitted, completed = events.of(Kind.IO_SUBMIT), events.of(Kind.IO_COMPLETE)
        ends = completed[(completed["arg0"] & IoFlag.MORE) == 0]
        self._more += len(completed) - len(ends)
        opcodes = submitted["arg0"] & _OPCODE
        for opcode in np.unique(opcodes).tolist():
            chosen = submitted[opcodes == opcode]
            self._count(opcode, "submitted", len(chosen))
            self._count(opcode, "by_polling_thread", int(np.count_nonzero(chosen["arg0"] & IoFlag.POLLED)))
        opcodes = ends["arg0"] & _OPCODE
        for opcode in np.unique(opcodes).tolist():
            chosen = ends[opcodes == opcode]
            flags, result = chosen["arg0"], chosen["arg1"].view(np.int64)
            moved = ((flags & IoFlag.BYTES) != 0) & (result > 0)
            self._count(opcode, "completed", len(chosen))
            self._count(opcode, "bytes", int(np.minimum(result[moved], _LARGEST_RESULT).sum()))
            self._count(opcode, "errors", int(np.count_nonzero(result < 0)))
            self._count(opcode, "by_worker", int(np.count_nonzero(flags & IoFlag.WORKER)))
            self._latencies[opcode].add(as_time(chosen["arg2"][(flags & IoFlag.NO_LATENCY) == 0]))

    def _count(self, opcode: int, name: str, n: int) -> None:
        self._counts[opcode][name] += n

    @property
    def more(self) -> int:
        """Completions that ended no request: of multishot requests that go on, and messages of other rings."""
        return self._more

    def by_opcode(self, names: Sequence[Any]) -> list[dict[str, Any]]:
        """A row per opcode, the most submitted first; `names` are those of the opcodes, from 0 on.

        Keys: opcode (name, or number where it has none; None where the kernel refused the request before it said what
        it was), _COUNTS, latency_ns (p50, p90, p99, max; None without one).
        """
        rows = [
            {"opcode": _name(opcode, names), **counts, "latency_ns": self._latencies[opcode].quantiles()}
            for opcode, counts in self._counts.items()
        ]
        return sorted(rows, key=lambda row: (-row["submitted"], -row["completed"], str(row["opcode"])))


def _name(opcode: int, names: Sequence[Any]) -> str | None:
    if opcode == IO_UNKNOWN_OPCODE:
        return None
    return str(names[opcode]) if opcode < len(names) and names[opcode] else str(opcode)

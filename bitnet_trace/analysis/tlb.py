"""How large TLB flushes were."""

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.fold import FULL_FLUSH
from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.layout import Kind, TlbEvent


class TlbFlushes:
    """Flushes that threads began, gathered batch by batch."""

    def __init__(self) -> None:
        self._pages = Distribution()

    def add(self, events: ByKind) -> None:
        flushes = events.of(Kind.TLB)
        pages = flushes["arg1"][flushes["arg0"] == TlbEvent.BEGUN]
        self._pages.add(as_time(pages[pages != FULL_FLUSH]))

    def pages(self) -> dict[str, int] | None:
        """p50, p90, p99 and max of the pages that a flush was for, full ones left out; None without any."""
        return self._pages.quantiles()

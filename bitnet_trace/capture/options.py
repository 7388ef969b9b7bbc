"""What can be chosen of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_trace.capture.sizes import Maps, Rings

if TYPE_CHECKING:
    from bitnet_trace.capture.view import View


@dataclass(frozen=True)
class Options:
    """How a run is traced.

    `prepare` is called in the program's process while that is still ours, and root's; its OSError ends the run.
    """

    output: Path | None = None
    force: bool = False
    detail: str = "events"
    keep_output: bool = True
    as_root: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    rings: Rings = field(default_factory=Rings)
    maps: Maps = field(default_factory=Maps)
    allow_system_changes: bool = False
    sample_frequency: int = 99
    debug_information: bool = False
    overhead_budget_pct: float = 2.0
    page_sizes: bool = False
    functions: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    view: "View | None" = None  # shows the run while it goes on
    record: bool = True
    prepare: Callable[[], None] | None = None
    ring_s: float | None = None  # only the last seconds are kept, and recorded when something asks for it
    slower_ms: float | None = None  # as a token does that takes longer

    def as_dict(self) -> dict[str, Any]:
        return {
            "detail": self.detail,
            "buffer_bytes": self.rings.events,
            "as_root": self.as_root,
            "keep_output": self.keep_output,
            "allow_system_changes": self.allow_system_changes,
            "sample_frequency": self.sample_frequency,
            "debug_information": self.debug_information,
            "overhead_budget_pct": self.overhead_budget_pct,
            "page_sizes": self.page_sizes,
            "functions": list(self.functions),
            "counters": list(self.counters),
        }

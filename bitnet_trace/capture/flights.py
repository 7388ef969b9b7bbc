"""When a flight recorder's recording is made, and where."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_trace.capture.options import Options
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.flight import FlightRecorder
from bitnet_trace.render.format import duration

if TYPE_CHECKING:
    from bitnet_trace.live.fold import Fold

_LEAST_TOKENS = 3  # the first ones after a prompt meet memory and code for the first time
Symbols = Callable[[Mapping[int, set[int]]], Iterable[Mapping[str, Any]]]


class Flights:
    """The recordings of one flight recorder: `folder`, then the same name with -2, -3, ..."""

    def __init__(self, recorder: FlightRecorder, folder: Path, owner: tuple[int, int] | None, options: Options) -> None:
        self._recorder, self._folder, self._owner = recorder, folder, owner
        self._slower_ns = None if options.slower_ms is None else options.slower_ms * 1e6
        self._ring_s = options.ring_s or 0.0
        self._n = 0
        self._looked_at = 0  # phases up to this number
        self._next_s = 0.0  # of slow tokens: no two recordings of the same seconds

    def slow_token(self, fold: "Fold") -> str | None:
        """What makes a recording necessary: a decode call that took too long, among those that have just ended."""
        if self._slower_ns is None:
            return None
        ended = [row for row in fold.book.named() if row["end_ns"] is not None and row["id"] > self._looked_at]
        if not ended:
            return None
        self._looked_at = max(int(row["id"]) for row in ended)
        tokens = [row for row in ended if row["name"] == "decode" and (row["token"] or 0) > _LEAST_TOKENS]
        slow = [row for row in tokens if row["end_ns"] - row["begin_ns"] > self._slower_ns]
        if not slow or time.monotonic() < self._next_s:
            return None
        self._next_s = time.monotonic() + self._ring_s
        worst = max(slow, key=lambda row: int(row["end_ns"] - row["begin_ns"]))
        return f"token {worst['token']} took {duration(worst['end_ns'] - worst['begin_ns'])}"

    def write(self, why: str, meta: Callable[[], Mapping[str, Any]], symbols: Symbols) -> str:
        """Makes a recording; says where, or why not."""
        self._n += 1
        suffix = self._folder.suffix or ".btrace"
        path = self._folder if self._n == 1 else self._folder.with_name(f"{self._folder.stem}-{self._n}{suffix}")
        try:
            writer = self._recorder.write(path, self._owner, {"flight": why})
            writer.symbols(symbols(self._recorder.addresses))
            known = {key: value for key, value in meta().items() if key != "wall_ns"}
            writer.update_meta(**known)
            writer.close(None)
        except TraceError as error:
            return f"{why}, and could not be recorded: {error.message}"
        return f"{why}: recorded in {path}"

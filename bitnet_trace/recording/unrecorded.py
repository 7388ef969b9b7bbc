"""A writer that keeps nothing: for a view without a recording."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.recording.writer import Row, Writer


class Unrecorded(Writer):
    """Only its sinks get what is appended."""

    keeps = takes_waits = False

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self.path = Path("-")
        self.sinks = []
        self._meta = dict(meta)

    def update_meta(self, **values: Any) -> None:
        self._meta.update(values)

    def close(self, exit_status: int | None, cut_short: bool = False) -> None:
        self._meta.update(exit_status=exit_status)

    def discard(self) -> None:
        """There is nothing."""

    def _store(self, name: str, rows: npt.NDArray[np.void] | list[Row]) -> None:
        """Nowhere."""

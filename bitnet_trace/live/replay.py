"""A recording as if it were made now: its streams go through the fold of the live view, up to any moment."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.health import health, unattached
from bitnet_trace.live.figures import Figures
from bitnet_trace.live.fold import Fold
from bitnet_trace.live.model import Frame
from bitnet_trace.recording.layout import EVENT_DTYPE
from bitnet_trace.recording.reader import Recording
from bitnet_trace.recording.schema import COUNTER_DTYPE, SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE

_BATCH = 500_000
Row = dict[str, Any]


class Replay:
    """`advance(ns)` gives the frame of a moment, ns since the beginning; an earlier one begins anew."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._phases = [_plain(row) for row in recording.phases.to_dict("records")]
        self._threads = [_plain(row) for row in recording.threads.to_dict("records")]
        self._samples = _array(recording.samples, SAMPLE_ROW_DTYPE)
        self._samples = self._samples[np.argsort(self._samples["ts_ns"], kind="stable")]
        self._stacks = _array(recording.stacks, STACK_ROW_DTYPE)
        self._stacks = self._stacks[self._stacks["level"] == 0]
        self._windows = recording.windows
        # tensors last: models that are mapped are waited for
        files = {"areas": recording.areas, "maps": recording.maps, "tensors": recording.tensors}
        self._files = {name: [_plain(row) for row in table.to_dict("records")] for name, table in files.items()}
        self._counters = _array(recording.stored_counters, COUNTER_DTYPE)
        meta = recording.meta
        edges = [row[key] for row in self._phases for key in ("begin_ns", "end_ns") if row[key] is not None]
        self._start_ns = int(meta.get("start_ns") or min(edges, default=0))
        last_ns = max([*edges, *(row["end_ns"] or 0 for row in self._threads), self._start_ns])
        self.length_ns = max(last_ns - self._start_ns, int(meta.get("wall_ns") or 0), 1)
        self.first_ns = max(min(edges, default=self._start_ns) - self._start_ns, 0)  # something happens from here on
        self._health = health(meta, recording.n_events, recording.complete, recording.warnings)
        self._blind = unattached(self._health["probes"])
        self._begin()

    def _begin(self) -> None:
        self._fold = Fold()
        host = self._recording.meta.get("host", {})
        cpus = host.get("cpus_allowed") or host.get("cpus_online")
        self._figures = Figures(self._fold, self._start_ns, len(cpus) if isinstance(cpus, list) else 1)
        self._batches: Iterator[npt.NDArray[np.void]] = self._recording.event_batches(_BATCH)
        self._pending = np.empty(0, EVENT_DTYPE)
        self._at_ns = -1
        self._fold.take("stacks", self._stacks)
        self._fold.take("symbols", self._recording.symbols.to_dict("records"))
        for stream, rows in self._files.items():
            self._fold.take(stream, rows)
        self._fold.take("scheduling", [])

    def advance(self, to_ns: int) -> Frame:
        """The frame at `to_ns`; at `length_ns` and after it the last one."""
        if to_ns < self._at_ns:
            self._begin()
        ended = to_ns >= self.length_ns
        now_ns = self._start_ns + min(to_ns, self.length_ns)
        until_ns = np.iinfo(np.int64).max if ended else now_ns
        since_ns = self._start_ns + self._at_ns
        self._fold.take("threads", list(self._changed(self._threads, "start_ns", since_ns, until_ns)))
        phases = list(self._changed(self._phases, "begin_ns", since_ns, until_ns))
        self._fold.take("phases", phases)
        self._take_counters(phases, ended)
        self._take_samples(since_ns, until_ns)
        windows = self._windows["end_ns"]
        self._fold.take("windows", self._windows[(windows > since_ns) & (windows <= until_ns)].to_dict("records"))
        self._take_events(until_ns)
        if ended:
            self._fold.finish()
            now_ns = max(now_ns, self._fold.latest_ns)
        self._at_ns = to_ns
        meta = self._recording.meta
        return self._figures.frame(
            now_ns,
            meta,
            self._blind,
            status=self._status() if ended else "replay",
            ended=ended,
            lost=self._health["lost"],
            overhead_pct=self._health["overhead_pct_estimate"],
        )

    def _status(self) -> str:
        status = self._recording.meta.get("exit_status")
        if status is None:
            return "end of the recording"
        return f"ended, exit code {status}" if status >= 0 else f"ended by signal {-status}"

    def _changed(self, rows: list[Row], begin: str, since_ns: int, until_ns: int) -> Iterator[Row]:
        """Rows that began or ended in (since, until], as they were at its end."""
        for row in rows:
            begin_ns = -math.inf if row[begin] is None else row[begin]
            end_ns = math.inf if row["end_ns"] is None else row["end_ns"]
            first = self._at_ns < 0 or begin_ns > since_ns
            if begin_ns <= until_ns and (first or since_ns < end_ns <= until_ns):
                yield row if end_ns <= until_ns else {**row, "end_ns": None, "end_kind": None, "exit_code": None}

    def _take_counters(self, phases: list[Row], ended: bool) -> None:
        if not len(self._counters):
            return
        done = np.isin(self._counters["phase"], [row["id"] for row in phases if row.get("end_ns") is not None]) | ended
        if done.any():
            self._fold.take("counters", self._counters[done])
            self._counters = self._counters[~done]

    def _take_samples(self, since_ns: int, until_ns: int) -> None:
        edges = np.array([max(since_ns, 0) if self._at_ns >= 0 else 0, until_ns], np.uint64)
        first, last = np.searchsorted(self._samples["ts_ns"], edges, side="right").tolist()
        if last > first:
            self._fold.take("samples", self._samples[first:last])

    def _take_events(self, until_ns: int) -> None:
        while True:
            while not len(self._pending):
                batch = next(self._batches, None)
                if batch is None:
                    return
                self._pending = batch
            now = self._pending["ts_ns"] <= until_ns
            if now.all():
                self._fold.take("events", self._pending)
                self._pending = np.empty(0, EVENT_DTYPE)
                continue
            if now.any():
                self._fold.take("events", self._pending[now])
                self._pending = self._pending[~now]
            return


def _plain(row: dict[Any, Any]) -> Row:
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}


def _array(table: pd.DataFrame, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    array = np.empty(len(table), dtype)
    for name in dtype.names or ():
        array[name] = table[name].to_numpy(dtype=dtype[name])
    return array

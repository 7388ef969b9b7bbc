"""How long a report takes of how many events, and in how much memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bitnet_trace.analysis.split import as_time
from bitnet_trace.recording.reader import Recording
from bitnet_trace.recording.schema import SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE
from bitnet_trace.recording.writer import Writer

_MS = 1_000_000
_KEPT = ("command", "engine", "host", "options", "clock_offset_ns", "probes", "losses", "cost", "taskstats")


def repeated(recording: Recording, n_events: int, path: Path) -> Path:
    """A recording of `n_events`, in which the events, phases, samples and windows of `recording` come again and again."""
    events, phases = recording.events, recording.phases
    start_ns = int(recording.meta["start_ns"])
    latest_ns = int(max(as_time(events["ts_ns"]).max(), phases["end_ns"].max()))
    span_ns, n_ids = latest_ns - start_ns + _MS, int(phases["id"].max()) + 1
    rounds = -(-n_events // len(events))
    meta = {name: recording.meta[name] for name in _KEPT if name in recording.meta}
    samples, stacks = _array(recording.samples, SAMPLE_ROW_DTYPE), _array(recording.stacks, STACK_ROW_DTYPE)
    writer = Writer(path, {**meta, "start_ns": start_ns, "wall_ns": rounds * span_ns}, force=True)
    for number in range(rounds):
        batch = events[: min(len(events), n_events - number * len(events))].copy()
        batch["ts_ns"] += np.uint64(number * span_ns)
        batch["phase"] += np.uint32(number * n_ids)
        writer.events(batch)
        writer.phases(_records(_later(phases, number * span_ns, number * n_ids)))
        rows = samples.copy()
        rows["ts_ns"] += np.uint64(number * span_ns)
        rows["phase"] += np.uint32(number * n_ids)
        writer.samples(rows, stacks)
        stacks = stacks[:0]
        shift = number * span_ns
        windows = recording.windows
        writer.windows(_records(windows.assign(begin_ns=windows["begin_ns"] + shift, end_ns=windows["end_ns"] + shift)))
    writer.symbols(_records(recording.symbols))
    writer.threads(_records(recording.threads))
    writer.maps(_records(recording.maps))
    writer.areas(_records(recording.areas))
    writer.tensors(_records(recording.tensors))
    writer.close(0)
    return path


def measure(recording: Path, form: str) -> tuple[float, float, float, int]:
    """Seconds, seconds on a CPU, GiB of memory at most, and bytes written by `report --format FORM` as a user has it."""
    output = recording.with_suffix(f".{form}")
    command = [sys.executable, "-m", "bitnet_trace", "report", str(recording), "--format", form, "-o", str(output)]
    before = time.perf_counter()
    process = subprocess.Popen([*command, "--force"])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - before
    assert status == 0
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1 << 20), output.stat().st_size


def _array(table: pd.DataFrame, dtype: "np.dtype[np.void]") -> "np.ndarray":
    rows = np.empty(len(table), dtype)
    for name in dtype.names or ():
        rows[name] = table[name].to_numpy()
    return rows


def _later(phases: pd.DataFrame, ns: int, ids: int) -> pd.DataFrame:
    return phases.assign(id=phases["id"] + ids, begin_ns=phases["begin_ns"] + ns, end_ns=phases["end_ns"] + ns)


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")
    ]

"""How the models got in: bytes by way, sizes and times of the requests, per phase that brought any in."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.regions import MODEL
from bitnet_trace.analysis.split import as_time
from bitnet_trace.columns import LOAD_PATH
from bitnet_trace.recording.layout import DURATION_ONLY, READ_DIRECT, Kind

_PHASES = ("load", "init", "startup")
_LARGEST_READ = 1 << 31

Events = npt.NDArray[np.void]


class FileReads:
    """Calls of the read family on files, gathered batch by batch; those of one call stand in one batch."""

    def __init__(self, models: pd.DataFrame) -> None:
        """`models`: Recording.tensors; only reads of those files count."""
        keys = models.drop_duplicates(["device", "inode"])
        self._models = {(int(device), int(inode)) for device, inode in zip(keys["device"], keys["inode"], strict=True)}
        self._sizes, self._latencies = Distribution(), Distribution()
        self._direct: dict[int, int] = {}  # bytes by phase
        self.calls = 0

    def add(self, batch: Events) -> None:
        """Takes an EVENT_DTYPE array."""
        if not self._models:
            return
        kinds = batch["kind"]
        is_read = (kinds == Kind.READ) & (batch["arg0"] < DURATION_ONLY)
        rows = batch.compress(is_read | (kinds == Kind.FILE_READ))
        rows = rows.take(np.argsort(rows["tid"], kind="stable"))
        where, what = rows[:-1], rows[1:]
        paired = (where["kind"] == Kind.FILE_READ) & (what["kind"] == Kind.READ) & (where["ts_ns"] == what["ts_ns"])
        paired &= where["tid"] == what["tid"]
        paired &= np.isin(where["arg2"], np.array([inode for _, inode in self._models], np.uint64))
        keys = zip(where["arg0"][paired].tolist(), where["arg2"][paired].tolist(), strict=True)
        own = np.array([key in self._models for key in keys], dtype=bool)
        where, what = where.compress(paired).compress(own), what.compress(paired).compress(own)
        sizes = np.minimum(as_time(what["arg1"]), _LARGEST_READ)
        self.calls += len(what)
        self._sizes.add(sizes)
        self._latencies.add(as_time(what["arg2"]))
        direct = (where["arg1"] & np.uint64(READ_DIRECT)) != 0
        for phase in np.unique(what["phase"][direct]).tolist():
            chosen = direct & (what["phase"] == phase)
            self._direct[phase] = self._direct.get(phase, 0) + int(sizes[chosen].sum())

    def direct_bytes(self, phases: pd.DataFrame, name: str) -> int:
        """Bytes that were read past the page cache in phases of that name."""
        ids = set(phases.loc[phases["name"] == name, "id"].tolist())
        return sum(size for phase, size in self._direct.items() if phase in ids)

    def requests(self) -> dict[str, Any] | None:
        """{"calls", "size_bytes", "latency_ns"} with p50, p90, p99 and max; None without any."""
        if not self.calls:
            return None
        return {"calls": self.calls, "size_bytes": self._sizes.quantiles(), "latency_ns": self._latencies.quantiles()}


def load_path(by_region: pd.DataFrame, by_phase: pd.DataFrame, phases: pd.DataFrame, reads: FileReads) -> pd.DataFrame:
    """columns.LOAD_PATH: a row per phase of loading in which bytes of a model came in."""
    models = by_region[by_region["region"] == MODEL]
    rows = []
    for _, phase in by_phase[by_phase["phase"].isin(_PHASES)].iterrows():
        name = str(phase["phase"])
        sums = dict.fromkeys(("populated_bytes", "bytes", "read_bytes", "faults_major"), 0)
        for of_model in models["phases"]:
            for key in sums:
                sums[key] += int(of_model.get(name, {}).get(key, 0))
        io_uring = 0 if pd.isna(phase["io_uring_bytes"]) else int(phase["io_uring_bytes"])
        brought_in = sums["populated_bytes"] + sums["bytes"] + sums["read_bytes"] + io_uring
        if not brought_in:
            continue
        direct = reads.direct_bytes(phases, name)
        dur_ns = int(phase["dur_ns"])
        rows.append(
            {
                "phase": name,
                "dur_ns": dur_ns,
                "populated_bytes": sums["populated_bytes"],
                "faulted_bytes": sums["bytes"],
                "cached_read_bytes": max(sums["read_bytes"] - direct, 0),
                "direct_read_bytes": direct,
                "io_uring_bytes": io_uring,
                "gb_per_s": brought_in / dur_ns if dur_ns else None,
                "faults_major": sums["faults_major"],
            }
        )
    return pd.DataFrame(rows, columns=[column.key for column in LOAD_PATH])

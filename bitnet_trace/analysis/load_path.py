"""How the models got in: bytes by way, sizes and times of the requests, per phase that brought any in."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind, Columns
from bitnet_trace.analysis.distribution import Distribution
from bitnet_trace.analysis.regions import MODEL, PAGE_SHIFT
from bitnet_trace.analysis.split import as_time
from bitnet_trace.analysis.sums import to_int
from bitnet_trace.columns import LOAD_PATH
from bitnet_trace.recording.layout import DURATION_ONLY, READ_DIRECT, READAHEAD_ASYNC, IoFlag, Kind

_PHASES = ("load", "init", "startup")
_LARGEST_READ = 1 << 31
_LARGEST_FOLIO = 1 << 18  # pages
_COLD, _WARM = 0.9, 0.1
_NOT_TIMED = IoFlag.MORE | IoFlag.NO_LATENCY

Events = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]


class FileReads:
    """Calls of the read family on models, requests of io_uring, and what came into the page cache meanwhile; gathered
    batch by batch. The records of one call stand in one batch."""

    def __init__(self, models: pd.DataFrame) -> None:
        """`models`: Recording.tensors; only reads of those files count."""
        keys = models.drop_duplicates(["device", "inode"])
        self._models = _Files(keys["device"].to_numpy(np.uint64), keys["inode"].to_numpy(np.uint64))
        self._sizes, self._latencies = Distribution(), Distribution()
        self._direct: Counter[int] = Counter()  # bytes by phase, as the next three
        self._missed: Counter[int] = Counter()
        self._waited: Counter[int] = Counter()
        self._ahead: Counter[int] = Counter()
        self._under_way: list[tuple[Ints, Ints, Ints]] = []  # phase, begin and end of requests
        self.calls = 0

    def add(self, events: ByKind) -> None:
        if not len(self._models):
            return
        self._reads(events.of(Kind.READ, Kind.FILE_READ))
        self._came_in(events.columns_of(Kind.CACHE_ADDED))
        self._asked_for(events.of(Kind.READAHEAD))
        done = events.of(Kind.IO_COMPLETE)
        self._note(done[done["arg0"] & _NOT_TIMED == 0])

    def _reads(self, rows: Events) -> None:
        rows = rows.compress((rows["kind"] == Kind.FILE_READ) | (rows["arg0"] < DURATION_ONLY))
        rows = rows.take(np.argsort(rows["tid"], kind="stable"))
        where, what = rows[:-1], rows[1:]
        paired = (where["kind"] == Kind.FILE_READ) & (what["kind"] == Kind.READ) & (where["ts_ns"] == what["ts_ns"])
        paired &= (where["tid"] == what["tid"]) & self._models.have(where["arg0"], where["arg2"])
        where, what = where.compress(paired), what.compress(paired)
        sizes = np.minimum(as_time(what["arg1"]), _LARGEST_READ)
        self.calls += len(what)
        self._sizes.add(sizes)
        self._latencies.add(as_time(what["arg2"]))
        direct = (where["arg1"] & np.uint64(READ_DIRECT)) != 0
        _count(self._direct, what["phase"][direct], sizes[direct])
        self._note(what)

    def _came_in(self, rows: Columns) -> None:
        own = self._models.have(rows["arg0"], rows["arg1"])
        rows = rows if own.all() else rows.compress(own)
        pages = np.minimum(rows["arg2"], _LARGEST_FOLIO)
        _count(self._missed, rows["phase"], pages.astype(np.int64) << PAGE_SHIFT)

    def _asked_for(self, rows: Events) -> None:
        own = self._models.have(rows["arg0"], rows["arg1"])
        ahead = (rows["arg2"] & np.uint64(READAHEAD_ASYNC)) != 0
        for counted, chosen in ((self._ahead, own & ahead), (self._waited, own & ~ahead)):
            _count(counted, rows["phase"][chosen], np.ones(np.count_nonzero(chosen), np.int64))

    def _note(self, rows: Events) -> None:
        if len(rows):
            end = as_time(rows["ts_ns"])
            self._under_way.append((rows["phase"].astype(np.int64), end - as_time(rows["arg2"]), end))

    def of(self, phases: pd.DataFrame, name: str) -> dict[str, int]:
        """Sums over phases of that name: direct and missed bytes, readahead, and the most requests at once."""
        ids = set(phases.loc[phases["name"] == name, "id"].tolist())
        sums = {
            key: sum(n for phase, n in counted.items() if phase in ids)
            for key, counted in (
                ("direct_read_bytes", self._direct),
                ("missed_bytes", self._missed),
                ("readahead_waited", self._waited),
                ("readahead_ahead", self._ahead),
            )
        }
        return {**sums, "depth_max": self._most_at_once(ids)}

    def _most_at_once(self, ids: set[int]) -> int:
        if not self._under_way:
            return 0
        phase, begin, end = (np.concatenate(parts) for parts in zip(*self._under_way, strict=True))
        chosen = np.isin(phase, list(ids))
        moments = np.concatenate([begin[chosen], end[chosen]])
        change = np.repeat([1, -1], chosen.sum())
        order = np.lexsort((change, moments))  # at one moment first what ends
        return int(np.cumsum(change[order]).max(initial=0))

    def requests(self) -> dict[str, Any] | None:
        """{"calls", "size_bytes", "latency_ns"} with p50, p90, p99 and max; None without any."""
        if not self.calls:
            return None
        return {"calls": self.calls, "size_bytes": self._sizes.quantiles(), "latency_ns": self._latencies.quantiles()}


class _Files:
    """Some files, by device and inode (uint64)."""

    def __init__(self, devices: npt.NDArray[np.uint64], inodes: npt.NDArray[np.uint64]) -> None:
        self._devices, self._inodes = np.unique(devices), np.unique(inodes)
        self._numbers = self._number(devices, inodes)

    def __len__(self) -> int:
        return len(self._numbers)

    def have(self, devices: npt.NDArray[Any], inodes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of these are among them."""
        own: npt.NDArray[np.bool_] = np.isin(inodes, self._inodes) & np.isin(devices, self._devices)
        if len(self._numbers) > 1:  # not each device with each inode
            own[own] = np.isin(self._number(devices[own], inodes[own]), self._numbers)
        return own

    def _number(self, devices: npt.NDArray[Any], inodes: npt.NDArray[np.uint64]) -> Ints:
        place = np.searchsorted(self._devices, devices) * len(self._inodes) + np.searchsorted(self._inodes, inodes)
        return place.astype(np.int64)


def _count(sums: Counter[int], phases: npt.NDArray[np.uint32], amounts: Ints) -> None:
    """Adds each amount to its phase."""
    place, different = pd.factorize(phases)
    of_phase = np.bincount(place, weights=amounts, minlength=len(different))  # below 2^53: exact
    sums.update(dict(zip(different.tolist(), to_int(of_phase).tolist(), strict=True)))


def load_path(
    by_region: pd.DataFrame, by_phase: pd.DataFrame, phases: pd.DataFrame, reads: FileReads, traced: frozenset[str]
) -> pd.DataFrame:
    """columns.LOAD_PATH: a row per phase of loading in which bytes of a model came in. `traced`: tracepoints that were
    attached: without them what they tell is missing."""
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
        of_files = reads.of(phases, name)
        direct = of_files["direct_read_bytes"]
        cached = brought_in - direct - io_uring
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
                **_of_cache(of_files, cached, traced),
                "io_uring_depth_mean": int(phase["io_uring_ns"]) / dur_ns if dur_ns and io_uring else None,
                "depth_max": of_files["depth_max"] or None,
                "gb_per_s": brought_in / dur_ns if dur_ns else None,
                "faults_major": sums["faults_major"],
            }
        )
    return pd.DataFrame(rows, columns=[column.key for column in LOAD_PATH])


def _of_cache(of_files: dict[str, int], cached_bytes: int, traced: frozenset[str]) -> dict[str, Any]:
    """What was not in the page cache; `cached_bytes` came through it."""
    if "mm_filemap_add_to_page_cache" not in traced:
        return dict.fromkeys(("missed_bytes", "cache", "readahead_waited", "readahead_ahead"))
    missed = of_files["missed_bytes"]
    share = missed / max(cached_bytes, missed, 1)
    word = "cold" if share >= _COLD else "warm" if share <= _WARM else "in part"
    knows_ahead = "page_cache_sync_ra" in traced
    return {
        "missed_bytes": missed,
        "cache": word if cached_bytes or missed else None,
        "readahead_waited": of_files["readahead_waited"] if knows_ahead else None,
        "readahead_ahead": of_files["readahead_ahead"] if knows_ahead else None,
    }

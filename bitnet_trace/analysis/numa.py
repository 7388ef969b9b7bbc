"""On which NUMA nodes memory and threads were."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.phases import UNKNOWN
from bitnet_trace.analysis.regions import Regions, Spaces
from bitnet_trace.columns import NUMA_PHASES, NUMA_REGIONS
from bitnet_trace.recording.layout import Kind
from bitnet_trace.recording.reader import Recording

_MOST_NODES = 1024
_BUSIEST = ("decode", "prefill", "total")


@dataclass(frozen=True)
class Numa:
    """`nodes`: {node: its CPUs}; `regions`: columns.NUMA_REGIONS, `phases`: NUMA_PHASES, without rows for one node."""

    nodes: dict[int, frozenset[int]]
    regions: pd.DataFrame
    phases: pd.DataFrame


class NodeMoves:
    """Records MIGRATE between CPUs of different nodes, gathered batch by batch."""

    def __init__(self, nodes: dict[int, frozenset[int]]) -> None:
        self._node_of = _node_of(nodes)
        self._several = len(nodes) > 1
        self.by_phase: Counter[int] = Counter()

    def add(self, events: ByKind) -> None:
        if not self._several:
            return
        rows = events.of(Kind.MIGRATE)
        moved = (
            self._node_of[np.minimum(rows["arg0"], len(self._node_of) - 1)]
            != self._node_of[np.minimum(rows["arg1"], len(self._node_of) - 1).astype(np.int64)]
        )
        self.by_phase.update(rows["phase"][moved].tolist())


def nodes_of(meta: dict[str, Any]) -> dict[int, frozenset[int]]:
    """{node: its CPUs} of a recording; empty where it has none, or they are damaged."""
    found: dict[int, frozenset[int]] = {}
    for node, cpus in meta.get("numa", {}).items():
        whole = isinstance(cpus, list) and all(type(cpu) is int and 0 <= cpu < 1 << 16 for cpu in cpus)
        if not str(node).isdigit() or int(node) >= _MOST_NODES or not whole:
            return {}
        found[int(node)] = frozenset(cpus)
    return found


def pages_by_node(numa: pd.DataFrame, first: int, spaces: Spaces, regions: Regions) -> pd.DataFrame:
    """region, node, bytes when each process was last looked at; `spaces` noted `numa` from row `first` on."""
    noted = [(row - first, number, size) for row, number, size in spaces.resident if row >= first]
    table = pd.DataFrame(noted, columns=["row", "number", "bytes"])
    rows = numa.iloc[table["row"]].reset_index(drop=True)
    table = table.assign(
        pid=rows["pid"],
        ts_ns=rows["ts_ns"],
        node=rows["node"],
        region=pd.Series([regions.known[number].region for number in table["number"].tolist()], dtype=object),
    )
    latest = table.groupby("pid")["ts_ns"].transform("max")
    keys = ["region", "node"]
    sums: pd.DataFrame = table[table["ts_ns"] == latest].groupby(keys)[["bytes"]].sum().reset_index()
    return sums


def numa(recording: Recording, phases: pd.DataFrame, pages: pd.DataFrame | None, moves: NodeMoves) -> Numa | None:
    """None where the recording does not tell of nodes. `phases`: named."""
    nodes = nodes_of(recording.meta)
    if not nodes:
        return None
    if len(nodes) == 1:
        return Numa(nodes, pd.DataFrame(columns=_keys(NUMA_REGIONS)), pd.DataFrame(columns=_keys(NUMA_PHASES)))
    by_phase = _by_phase(recording, phases, nodes, moves)
    found = [
        by_phase[by_phase["phase"] == name].set_index("node")["cpu_pct"].dropna()
        for name in _BUSIEST
        if (by_phase["phase"] == name).any()
    ]
    share = next((one for one in found if len(one)), pd.Series(dtype=float))
    return Numa(nodes, _by_region(pages, share), by_phase)


def _keys(columns: tuple[Any, ...]) -> list[str]:
    return [column.key for column in columns]


def _node_of(nodes: dict[int, frozenset[int]]) -> npt.NDArray[np.int64]:
    """By CPU; the last entry, -1, is for CPUs that are not known."""
    table = np.full(max((cpu for cpus in nodes.values() for cpu in cpus), default=0) + 2, -1)
    for node, cpus in nodes.items():
        table[list(cpus)] = node
    return table


def _by_phase(
    recording: Recording, phases: pd.DataFrame, nodes: dict[int, frozenset[int]], moves: NodeMoves
) -> pd.DataFrame:
    """Share of the timer samples of each phase on each node, and moves between nodes."""
    names = dict(zip(phases["id"].tolist(), phases["name"].tolist(), strict=True))
    timed = recording.samples[recording.samples["reason"] == 0]
    table = _node_of(nodes)
    cpus = np.minimum(timed["cpu"].to_numpy(dtype=np.int64), len(table) - 1)
    named = [str(names.get(phase, UNKNOWN)) for phase in timed["phase"].tolist()]
    counts = Counter(zip(named, table[cpus].tolist(), strict=True))
    moved: Counter[str] = Counter()
    for phase, n in moves.by_phase.items():
        moved[str(names.get(phase, UNKNOWN))] += n
    rows = []
    order = [name for name in dict.fromkeys(phases["name"].astype(str)) if name in {*named, *moved}]
    for name in [*order, "total"]:
        of_phase = {
            node: sum(n for (one, at), n in counts.items() if at == node and name in (one, "total")) for node in nodes
        }
        whole = sum(of_phase.values())
        n_moved = moved[name] if name != "total" else sum(moved.values())
        rows += [
            {"phase": name, "node": node, "cpu_pct": 100 * n / whole if whole else None, "node_moves": n_moved}
            for node, n in of_phase.items()
        ]
    return pd.DataFrame(rows, columns=_keys(NUMA_PHASES))


def _by_region(pages: pd.DataFrame | None, cpu_pct: "pd.Series[float]") -> pd.DataFrame:
    """Local share: of accesses by threads spread over nodes as `cpu_pct` to pages spread over nodes as these are."""
    if pages is None or not len(pages):
        return pd.DataFrame(columns=_keys(NUMA_REGIONS))
    whole = pages.groupby("region")["bytes"].transform("sum")
    share = pages["bytes"] / whole.clip(lower=1)
    local = share * pages["node"].map(cpu_pct).fillna(0.0)
    by_region = local.groupby(pages["region"]).transform("sum") if len(cpu_pct) else pd.Series([None] * len(pages))
    table = pages.assign(whole=whole, local_pct=by_region, resident_bytes=pages["bytes"])
    table = table.sort_values(["whole", "region", "node"], ascending=[False, True, True], kind="stable")
    return table[_keys(NUMA_REGIONS)].reset_index(drop=True)

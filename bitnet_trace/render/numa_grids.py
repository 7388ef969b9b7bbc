"""NUMA nodes, as tables of text; one line where there is one node."""

import pandas as pd

from bitnet_trace.analysis.numa import Numa
from bitnet_trace.columns import NUMA_PHASES, Column
from bitnet_trace.render.format import MISSING, amount, percent, size
from bitnet_trace.render.grids import Grid

MAX_REGIONS = 12


def grids(found: Numa | None) -> list[Grid]:
    """Memory by region and node, and CPU time by phase and node; nothing where there is one node."""
    if found is None or len(found.nodes) < 2:
        return []
    return [*_regions(found), *_phases(found)]


def lines(found: Numa | None) -> list[str]:
    """What there is to say without tables."""
    if found is None or len(found.nodes) != 1:
        return []
    return ["one NUMA node: all memory is local"]


def _regions(found: Numa) -> list[Grid]:
    table = found.regions
    if not len(table):
        return []
    held = dict(zip(zip(table["region"], table["node"], strict=True), table["resident_bytes"], strict=True))
    local = dict(zip(table["region"], table["local_pct"], strict=True))
    nodes = sorted(found.nodes)
    rows = [
        [region, *(size(int(held.get((region, node), 0))) for node in nodes), _share(local[region])]
        for region in list(local)[:MAX_REGIONS]
    ]
    grid = Grid("Memory by NUMA node", ["region", *(f"node {node}" for node in nodes), "local (estimated)"], rows)
    if len(local) > MAX_REGIONS:
        grid.notes.append(f"and {amount(len(local) - MAX_REGIONS)} more regions")
    return [grid]


def _phases(found: Numa) -> list[Grid]:
    nodes = sorted(found.nodes)
    rows = []
    for name, of_phase in found.phases.groupby("phase", sort=False):
        share = dict(zip(of_phase["node"], of_phase["cpu_pct"], strict=True))
        moved = amount(int(of_phase["node_moves"].iloc[0]))
        rows.append([str(name), *(_share(share.get(node)) for node in nodes), moved])
    moves: Column = NUMA_PHASES[-1]
    return [Grid("CPU time by NUMA node (sampled)", ["phase", *(f"node {node}" for node in nodes), moves.title], rows)]


def _share(value: float | None) -> str:
    return MISSING if value is None or pd.isna(value) else percent(value)

"""What is known of the operations of the engine's graph, as tables of text."""

import pandas as pd

from bitnet_trace.analysis.report import Report
from bitnet_trace.columns import OPERATION_LAYERS, OPERATION_TENSORS, OPERATION_THREADS, OPERATIONS, Column
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, amount
from bitnet_trace.render.grids import Grid, rows_of

MAX_ROWS = 12


def grids(report: Report) -> list[Grid]:
    """Times by operation, layer, tensor and thread; without any the reason. Nothing where they were not asked for."""
    found = report.operations
    if found is None:
        return []
    if found.summary["reason"] is not None:
        return [Grid("Operations", [""], [[f"operations: {MISSING} ({printable(found.summary['reason'], 200)})"]])]
    seen = ", ".join(f"{n} {name}" for name, n in found.summary["calls_seen"].items())
    first = _grid("Operations (derived, in windows)", found.by_op, OPERATIONS, 2, "operations.by_op")
    first.notes.append(f"calls seen: {seen}; names by the engine's {found.summary['layout']}")
    if not found.summary["waits_known"]:
        first.notes.append("some calls' barriers are not known: times are with waits there")
    layers = found.by_layer.sort_values(["phase", "layer"], ignore_index=True)
    return [
        first,
        _grid("Operations by layer", layers, OPERATION_LAYERS, 2, "operations.by_layer", 64),
        _grid("Operations by tensor", found.by_tensor, OPERATION_TENSORS, 2, "operations.by_tensor"),
        _grid("Operations by thread", found.by_thread, OPERATION_THREADS, 4, "operations.by_thread"),
    ]


def _grid(
    title: str, table: pd.DataFrame, columns: tuple[Column, ...], n_keys: int, source: str, most: int = MAX_ROWS
) -> Grid:
    left = frozenset(index for index, column in enumerate(columns) if column.format == "text")
    titles = [column.title for column in columns]
    grid = Grid(title, titles, rows_of(table.head(most), columns), n_keys, left, columns=columns, source=source)
    if len(table) > most:
        grid.notes.append(f"and {amount(len(table) - most)} more")
    return grid

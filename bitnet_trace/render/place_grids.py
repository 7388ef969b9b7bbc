"""Where page faults fell, as tables of text."""

import pandas as pd

from bitnet_trace.analysis.fault_places import FaultPlaces
from bitnet_trace.analysis.page_sizes import PageSizes
from bitnet_trace.analysis.regions import MODEL
from bitnet_trace.analysis.report import Report
from bitnet_trace.columns import (
    COLLAPSES,
    LOAD_PATH,
    PLACE_SUMS,
    PLACES_LAYER,
    PLACES_REGION,
    PLACES_TENSOR,
    Column,
    by_key,
)
from bitnet_trace.render.format import MISSING, amount, duration, size, three_digits
from bitnet_trace.render.grids import Grid, has_values, rows_of

MAX_REGIONS, MAX_LAYERS, MAX_TENSORS = 12, 8, 8
_DEFAULT_FAULT_AROUND = 64 << 10
_ROUNDED = ("gb_per_s", "io_uring_depth_mean")
_FAULTS = ["faults_minor", "faults_major"]
_SUMS = [column.key for column in PLACE_SUMS]


def grids(places: FaultPlaces | None, fault_around_bytes: object) -> list[Grid]:
    """By region, and by layer and tensor of model files that faulted; nothing where only counters were kept."""
    if places is None or not len(places.by_region):
        return []
    tables = [*_pages(places.pages), _regions(places.by_region, fault_around_bytes)]
    tables += _of_model(places.by_layer, "Page faults in the model, by layer", PLACES_LAYER, "layer", MAX_LAYERS)
    tables += _of_model(places.by_tensor, "Page faults in the model, by tensor", PLACES_TENSOR, "tensor", MAX_TENSORS)
    return tables


def loading(report: Report) -> Grid | None:
    """How the model got in; None when it did not, or only counters were kept."""
    table = report.load_path
    if table is None or not len(table):
        return None
    shown = [one for one in LOAD_PATH if one.key in ("phase", "dur_ns", "gb_per_s") or has_values(table[one.key])]
    rounded = table.assign(
        **{key: [MISSING if pd.isna(one) else three_digits(one) for one in table[key]] for key in _ROUNDED}
    )
    grid = Grid("Loading the model", [one.title for one in shown], rows_of(rounded, shown))
    if report.load_requests is not None:
        sizes, times = report.load_requests["size_bytes"], report.load_requests["latency_ns"]
        told = ", ".join(f"{name} {size(sizes[name])} in {duration(times[name])}" for name in ("p50", "p90", "max"))
        grid.notes.append(f"{amount(report.load_requests['calls'])} reads of it: {told}")
    return grid


def huge_pages(report: Report) -> Grid | None:
    """Collapses, and what the whole machine has split; None without any collapse."""
    table = report.collapses
    if not len(table):
        return None
    grid = Grid("Huge pages made of small ones", [one.title for one in COLLAPSES], rows_of(table, list(COLLAPSES)), 3)
    machine = report.recording.meta.get("vmstat", {})
    split = [
        f"{name} {machine[name]:,}" for name in ("thp_split_page", "thp_split_pmd") if type(machine.get(name)) is int
    ]
    if split:
        grid.notes.append(f"split meanwhile, by any program of the machine: {', '.join(split)}")
    return grid


def _regions(table: pd.DataFrame, fault_around_bytes: object) -> Grid:
    files = table[table["region"] != MODEL]
    one_row = files.groupby("region", as_index=False, sort=False)[_SUMS].sum()
    several = files.dropna(subset=["path"]).groupby("region").size()
    counts = [int(several.get(name, 0)) for name in one_row["region"]]
    one_row["region"] = [
        f"{name} ({amount(count)} files)" if count > 1 else name
        for name, count in zip(one_row["region"], counts, strict=True)
    ]
    models = table[table["region"] == MODEL]
    names = [MISSING if path is None else str(path).rpartition("/")[2] for path in models["path"]]
    rows = pd.concat([models.assign(region=[f"{MODEL} {name}" for name in names]), one_row])
    order = rows.assign(all=rows[[*_FAULTS, "faults_populate"]].sum(axis=1)).reset_index(drop=True)
    order = order.sort_values("all", ascending=False, kind="stable")
    grid = _grid("Page faults by region", order.head(MAX_REGIONS), [by_key(PLACES_REGION)["region"]])
    if len(order) > MAX_REGIONS:
        rest = int(order["all"].iloc[MAX_REGIONS:].sum())
        grid.notes.append(f"and {amount(len(order) - MAX_REGIONS)} more regions with {amount(rest)} faults")
    around = fault_around_bytes if isinstance(fault_around_bytes, int) else _DEFAULT_FAULT_AROUND
    grid.notes.append(
        f"a fault in a file maps what the page cache holds of the {size(around)} around it: those pages are no faults"
    )
    return grid


def _pages(pages: PageSizes) -> list[Grid]:
    """Of the moment at which most was resident: regions by page size."""
    if not len(pages.resident):
        return []
    held = pages.resident.groupby(["pid", "ts_ns", "moment"], as_index=False)["resident_bytes"].sum()
    chosen = held.loc[held["resident_bytes"].idxmax()]
    table = pages.resident[(pages.resident["pid"] == chosen["pid"]) & (pages.resident["ts_ns"] == chosen["ts_ns"])]
    wide = table.pivot_table(index="region", columns="page_bytes", values="resident_bytes", aggfunc="sum", fill_value=0)
    wide = wide.loc[wide.sum(axis=1).sort_values(ascending=False).index]
    sizes = sorted(int(one) for one in wide.columns)
    asked = pages.advised[pages.advised["advice"] == "MADV_HUGEPAGE"].groupby("region")["advised_bytes"].sum()
    titles = ["region", "all", *(f"in {size(one)}" for one in sizes)] + ["MADV_HUGEPAGE"] * bool(len(asked))
    rows = []
    for region, sums in wide.head(MAX_REGIONS).iterrows():
        cells = [str(region), size(int(sums.sum())), *(size(int(sums[one])) for one in sizes)]
        rows.append(cells + ([size(int(asked.get(region, 0)))] if len(asked) else []))
    grid = Grid(f"Resident memory by page size ({chosen['moment']})", titles, rows)
    if len(wide) > MAX_REGIONS:
        rest = int(wide.iloc[MAX_REGIONS:].sum().sum())
        grid.notes.append(f"and {amount(len(wide) - MAX_REGIONS)} more regions with {size(rest)}")
    return [grid]


def _of_model(table: pd.DataFrame, title: str, columns: tuple[Column, ...], key: str, most: int) -> list[Grid]:
    faulted = table[table[_FAULTS].sum(axis=1) > 0]
    if not len(faulted):
        return []
    known = by_key(columns)
    keys = [known[name] for name in (key, "layer", "type", "tensor_bytes") if name in known and name in faulted]
    grid = _grid(title, faulted.head(most), list(dict.fromkeys(keys)))
    if len(faulted) > most:
        rest = faulted.iloc[most:]
        grid.notes.append(f"and {amount(len(rest))} more with {amount(int(rest[_FAULTS].sum().sum()))} faults")
    return [grid]


def _grid(title: str, table: pd.DataFrame, keys: list[Column]) -> Grid:
    columns = [*keys, *(column for column in PLACE_SUMS if has_values(table[column.key]))]
    left = frozenset(index for index, column in enumerate(columns) if column.format == "text")
    return Grid(title, [column.title for column in columns], rows_of(table, columns), len(keys), left)

"""Resident memory by region and page size, at the moments that the recording has; and what was asked for."""

from dataclasses import dataclass

import pandas as pd

from bitnet_trace.analysis.regions import Regions, Spaces
from bitnet_trace.columns import PAGES, PAGES_ADVISED

# madvise(2)
_ADVICES = {14: "MADV_HUGEPAGE", 15: "MADV_NOHUGEPAGE", 25: "MADV_COLLAPSE"}


@dataclass(frozen=True)
class PageSizes:
    """`resident`: columns.PAGES, a row per moment, region and size; `advised`: columns.PAGES_ADVISED."""

    resident: pd.DataFrame
    advised: pd.DataFrame


def page_sizes(residency: pd.DataFrame, spaces: Spaces, regions: Regions) -> PageSizes:
    """The sums of what `spaces` noted; `residency`: the table of the recording."""
    noted = pd.DataFrame(spaces.resident, columns=["row", "number", "resident_bytes"])
    noted = noted[noted["row"] < len(residency)].reset_index(drop=True)  # behind them: what numa.py looks at
    rows = residency.iloc[noted["row"]].reset_index(drop=True)
    names = [regions.known[number] for number in noted["number"].tolist()]
    table = rows[["pid", "moment", "ts_ns", "page_bytes", "file"]].assign(
        region=pd.Series([name.region for name in names], dtype=object),
        path=pd.Series([name.path for name in names], dtype=object),
        resident_bytes=noted["resident_bytes"],
    )
    keys = [column.key for column in PAGES if column.key != "resident_bytes"]
    resident = table.groupby(keys, as_index=False, dropna=False, sort=False)[["resident_bytes"]].sum()
    return PageSizes(resident[[column.key for column in PAGES]], _advised(spaces, regions))


def _advised(spaces: Spaces, regions: Regions) -> pd.DataFrame:
    rows = [
        (*regions.known[number], _ADVICES[advice], size)
        for number, advice, size in spaces.advised
        if advice in _ADVICES
    ]
    keys = [column.key for column in PAGES_ADVISED]
    table = pd.DataFrame(rows, columns=keys)
    return table.groupby(keys[:-1], as_index=False, dropna=False, sort=False)[["advised_bytes"]].sum()

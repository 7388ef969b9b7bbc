"""How much memory the TLBs can translate at once, against what a token needs: an estimate.

A decoded token reads all weights once, from first to last, so a TLB that reaches over fewer bytes than those has
forgotten a page by the time it comes round again.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from bitnet_trace.analysis.page_sizes import PageSizes
from bitnet_trace.analysis.regions import MODEL
from bitnet_trace.columns import TLB_REACH
from bitnet_trace.recording.reader import Recording

_WEIGHTS = (MODEL, "weights buffer")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_EXPERTS = "_exps."
_SIZES = (4 << 10, 2 << 20, 1 << 30)
_LARGEST = 1 << 50
_MOST = 32


@dataclass(frozen=True)
class TlbReach:
    """`levels`: columns.TLB_REACH, a row per TLB of data and page size.

    `touched_bytes`: of weights, for one token; None where no model is known. `experts`: it reads a part of them only.
    """

    levels: pd.DataFrame
    touched_bytes: int | None
    experts: bool


def tlb_reach(recording: Recording, pages: PageSizes | None) -> TlbReach | None:
    """None where the CPU did not tell of its TLBs."""
    tlbs = [one for one in recording.meta.get("tlbs", [])[:_MOST] if _is_whole(one) and one["of"] != "code"]
    if not tlbs:
        return None
    touched, experts = _touched(recording.tensors)
    share = _page_share(pages)
    rows = []
    for one in tlbs:
        reach = one["entries"] * one["page_bytes"]
        rows.append(
            {
                "level": one["level"],
                "page_bytes": one["page_bytes"],
                "entries": one["entries"],
                "shared": "yes" if one.get("shared") is True else "no",
                "reach_bytes": reach,
                "reach_pct": min(100.0, 100 * reach / touched) if touched else None,
                "resident_pct": 100 * share.get(one["page_bytes"], 0.0) if share else None,
            }
        )
    return TlbReach(pd.DataFrame(rows, columns=[one.key for one in TLB_REACH]), touched, experts)


def _is_whole(one: dict[str, Any]) -> bool:
    numbers = [one.get(key) for key in ("level", "page_bytes", "entries")]
    return all(type(number) is int and 0 < number < _LARGEST >> 20 for number in numbers) and isinstance(
        one.get("of"), str
    )


def _touched(tensors: pd.DataFrame) -> tuple[int | None, bool]:
    """Bytes of weights that one token reads. Of an embedding that is not the output matrix too it reads one row."""
    table = tensors.drop_duplicates(["path", "name"])
    if not len(table):
        return None, False
    sizes = table["size_bytes"].astype("float64").clip(upper=float(_LARGEST))
    total = float(sizes.sum())
    names = table["name"].astype(str)
    if (names == _OUTPUT).any():
        rows = table["rows"].astype("float64").clip(lower=1)
        is_embedding = names == _EMBEDDING
        total -= float((sizes - sizes / rows)[is_embedding].sum())
    return int(total), bool(names.str.contains(_EXPERTS, regex=False).any())


def _page_share(pages: PageSizes | None) -> dict[int, float]:
    """Of the weights at the last moment that was looked at, by the size that one entry of a TLB translates."""
    if pages is None:
        return {}
    weights = pages.resident[pages.resident["region"].isin(_WEIGHTS)]
    weights = weights[weights["ts_ns"] == weights["ts_ns"].max()]
    translated = weights["page_bytes"].map(lambda size: max((one for one in _SIZES if one <= size), default=_SIZES[0]))
    sums = weights.groupby(translated)["resident_bytes"].sum()
    whole = float(sums.sum())
    return {int(size): float(part) / whole for size, part in sums.items()} if whole else {}

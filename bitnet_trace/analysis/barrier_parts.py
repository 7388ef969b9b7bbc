"""Parts of long calls: a prefill outlasts a window, which then sees the barriers from its middle.

As a window opens, some threads may have entered the barrier that the others are on their way to. No thread enters one
before the one before was complete, so that entries in order of time come in groups, each thread once in each: where
only one place for the first whole group makes that true, it is the place. The first group of a part tells when the
threads were let go to the next; the part lasts from there to its last whole group.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitnet_trace.analysis.split import Ints, as_time

# A thread that is in no group could not have been missing for longer than two.
_LEAST_GROUPS = 3
# No engine has more barriers, no run more parts: they bound what a damaged recording can ask for.
_MOST_PLACES, _MOST_PARTS = 64, 10_000

Events = npt.NDArray[np.void]


@dataclass(frozen=True)
class Parts:
    """Entries of barriers in parts of calls, whole groups only; `number`: for each its part's row of `table`, which has
    the phase's id, begin_ns and end_ns. `n_unplaced`: parts in which no one place for the first group fits."""

    entries: Events
    number: Ints
    table: pd.DataFrame
    n_unplaced: int


def parts_in_windows(windows: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """The parts of decode calls of several tokens that lie in windows, of calls that lie wholly in none: a row per call
    and window with id, begin_ns, end_ns, from_begin and to_end (whether it has the call's own begin, or end).

    Both tables as BarrierEvents has them, `phases` with n_tokens. None of calls of several threads at the same time.
    """
    chosen = (phases["role"] == "decode") & phases["end_ns"].notna() & (phases["n_tokens"].fillna(0) > 1)
    calls = phases[chosen & ~phases["overlapped"].astype(bool)]
    of_call, of_window = (table[["begin_ns", "end_ns"]].astype(np.int64) for table in (calls, windows))
    spans = of_window.sort_values("begin_ns").to_numpy()
    rows = []
    for number, begin_ns, end_ns in zip(calls["id"].tolist(), *of_call.to_numpy().T.tolist(), strict=True):
        own = spans[np.searchsorted(spans[:, 1], begin_ns, side="right") : np.searchsorted(spans[:, 0], end_ns)]
        if not ((own[:, 0] <= begin_ns) & (own[:, 1] >= end_ns)).any():
            rows += [
                (number, max(begin_ns, first), min(end_ns, last), first <= begin_ns, last >= end_ns)
                for first, last in own[:_MOST_PARTS].tolist()
            ]
        if len(rows) >= _MOST_PARTS:
            break
    return pd.DataFrame(rows, columns=["id", "begin_ns", "end_ns", "from_begin", "to_end"])


def whole_groups(entries: Events, parts: pd.DataFrame) -> Parts:
    """`entries`: BARRIER events; `parts`: as parts_in_windows has them."""
    entries = entries[np.argsort(entries["ts_ns"], kind="stable")]
    ts_ns = as_time(entries["ts_ns"])
    kept, numbers, n_unplaced = [entries[:0]], [np.empty(0, np.int64)], 0
    rows: list[dict[str, int]] = []
    columns = [parts[key].tolist() for key in ("id", "begin_ns", "end_ns", "from_begin", "to_end")]
    for number, begin_ns, end_ns, from_begin, to_end in zip(*columns, strict=True):
        own = entries[np.searchsorted(ts_ns, begin_ns) : np.searchsorted(ts_ns, end_ns, side="right")]
        own = own[own["phase"] == number]
        # a barrier object, or where none is known the probe
        place = np.where(own["arg1"] > 0, own["arg1"], own["arg0"].astype(np.uint64))
        places = np.unique(place)
        groups = [_groups(own[place == one], from_begin, to_end) for one in places[:_MOST_PLACES]]
        if len(places) > _MOST_PLACES or any(one is None for one in groups):
            n_unplaced += 1
            continue
        found = [one for one in groups if one is not None and len(one) >= _LEAST_GROUPS]
        if found:
            kept += [one[1:].ravel() for one in found]
            numbers += [np.full(one[1:].size, len(rows)) for one in found]
            begin_ns, end_ns = (int(f(one["ts_ns"][at, -1] for one in found)) for f, at in ((min, 0), (max, -1)))
            rows.append({"id": number, "begin_ns": begin_ns, "end_ns": end_ns})
    table = pd.DataFrame(rows, columns=["id", "begin_ns", "end_ns"], dtype=np.int64)
    return Parts(np.concatenate(kept), np.concatenate(numbers), table, n_unplaced)


def _groups(entries: Events, from_begin: bool, to_end: bool) -> Any:
    """Whole groups of a barrier's entries, a row each; None: it cannot be told where one begins."""
    _, threads = np.unique(entries["tid"], return_inverse=True)
    n = int(threads.max(initial=-1)) + 1
    places = _places(threads, n)
    if from_begin or to_end:
        known = 0 if from_begin else len(entries) % max(n, 1)
        places = places[places == known]
    if len(places) != 1:
        return None
    first = int(places[0])
    n_groups = (len(entries) - first) // n
    return entries[first : first + n_groups * n].reshape(n_groups, n)


def _places(threads: Ints, n: int) -> Ints:
    """Where the first whole group of n entries may begin, so that no thread is twice in one: of 0 to n - 1."""
    order = np.argsort(threads, kind="stable")
    same = threads[order][1:] == threads[order][:-1]
    again, gap = order[1:][same], np.diff(order)[same]
    again, gap = again[gap < n], gap[gap < n]
    # an entry and its thread's one before are in one group, for each of n - gap places in a row, counted in a circle
    changes = np.zeros(2 * n + 1, np.int64)
    np.add.at(changes, (again + 1) % max(n, 1), 1)
    np.add.at(changes, (again + 1) % max(n, 1) + n - gap, -1)
    twice = np.cumsum(changes)
    return np.flatnonzero(twice[:n] + twice[n : 2 * n] == 0)

"""The ways of loading a file, ranked, as tables of text."""

import pandas as pd

from bitnet_trace.columns import LOADLAB, by_key
from bitnet_trace.render.format import MISSING, amount, three_digits
from bitnet_trace.render.grids import Grid

_COUNTS = ("faults_minor_per_gb", "faults_major_per_gb", "switches_per_gb", "calls_per_gb")
_COLD_ENOUGH_PCT = 5.0


def grids(table: pd.DataFrame) -> list[Grid]:
    """One table per state, fastest first."""
    return [_state(str(state), table[table["state"] == state]) for state in dict.fromkeys(table["state"])]


def _state(state: str, table: pd.DataFrame) -> Grid:
    known = by_key(LOADLAB)
    measured = table[table["seconds_mean"].notna()]
    rows = []
    for row in measured.to_dict("records"):
        interval = MISSING if pd.isna(row["seconds_low"]) else f"{row['seconds_low']:.3f} to {row['seconds_high']:.3f}"
        rows.append(
            [
                f"{int(row['rank'])}{'=' if row['like_first'] == 'yes' and row['rank'] > 1 else ''}",
                row["way"],
                f"{row['seconds_mean']:.3f}",
                interval,
                three_digits(row["gb_per_s"]),
                f"{row['cpu_s']:.3f}",
                *(amount(round(row[key])) for key in _COUNTS),
            ]
        )
    titles = [
        "",
        "way",
        "seconds",
        "interval (95 %)",
        "GB/s",
        "CPU s",
        *(known[key].title for key in _COUNTS),
    ]
    same = "=: its interval and that of the first overlap"
    notes = [f"{amount(int(measured['n'].max()))} trials of each way" if len(measured) else "nothing could be measured"]
    notes += [same] if (measured["like_first"] == "yes").sum() > 1 else []
    notes += [f"{row['way']}: not possible here: {row['reason']}" for row in table.to_dict("records") if not row["n"]]
    cached = measured["cached_pct"].max()
    if state == "cold" and pd.notna(cached) and cached > _COLD_ENOUGH_PCT:
        notes.append(f"not cold: up to {cached:.0f} % of the file stayed in the page cache; who has it mapped?")
    return Grid(f"Page cache {state}", titles, rows, 2, frozenset({1}), notes=notes)

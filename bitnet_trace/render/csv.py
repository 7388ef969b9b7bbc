"""A table of a report as CSV (RFC 4180)."""

import pandas as pd

# A spreadsheet takes such text for a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render(table: pd.DataFrame) -> str:
    """The table with its header; a missing value is empty. Text that begins like a formula gets a ' before it."""
    safe = table.copy()
    for name in safe.columns:
        if isinstance(safe[name].dtype, pd.StringDtype):
            guarded = safe[name].str.startswith(_FORMULA).fillna(False).astype(bool)
            safe[name] = safe[name].where(~guarded, "'" + safe[name])
    text: str = safe.to_csv(index=False, lineterminator="\r\n")
    return text

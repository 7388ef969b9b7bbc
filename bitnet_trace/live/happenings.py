"""What becomes of processes while they are watched: the newest are said for a while."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from bitnet_trace.live.threads import ThreadTable
from bitnet_trace.printable import printable

_SAID_NS = 10_000_000_000
_TEXT = 60
_MOST_SAID, _MOST_KEPT = 3, 200


class Happenings:
    """Processes that begin, end, or run another program."""

    def __init__(self, threads: ThreadTable) -> None:
        self._threads = threads
        self._is_first = True
        self._newest: list[tuple[int, str]] = []  # when, and what; a replay has all of them from the beginning

    def take_threads(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of schema.THREAD_SCHEMA, before the table of threads has them."""
        for row in rows:
            if row["tid"] != row["pid"]:
                continue
            known = self._threads.by_tid.get(row["tid"])
            lived = known is not None and known.state != "X"
            who = f"process {row['pid']} ({printable(row['comm'] or '?', _TEXT)})"
            if row["end_ns"] is not None:
                self._note(row["end_ns"], f"{who} has ended{_how(row.get('exit_code'))}")
            elif not lived and self._threads.by_tid and row.get("parent_tid") and row["start_ns"]:
                self._note(row["start_ns"], f"{who} was started by {row['parent_tid']}")

    def take_areas(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of schema.AREA_SCHEMA: of a process that began anew."""
        for row in rows:
            is_first, self._is_first = self._is_first, False  # the beginning of what was started to be watched
            if row.get("moment") == "exec" and not is_first:
                self._note(row["ts_ns"], f"process {row['pid']} runs {printable(row['path'] or '?', _TEXT)} now")

    def newest(self, now_ns: int) -> str | None:
        """What has happened lately, the newest first."""
        lately = [what for ts_ns, what in self._newest if 0 <= now_ns - ts_ns < _SAID_NS]
        return "; ".join(lately[:_MOST_SAID]) or None

    def _note(self, ts_ns: int, what: str) -> None:
        self._newest = sorted([*self._newest, (int(ts_ns), what)], reverse=True)[:_MOST_KEPT]


def _how(status: Any) -> str:
    """Of a wait status."""
    try:
        code = os.waitstatus_to_exitcode(int(status))
    except (TypeError, ValueError, OverflowError):  # not known, or damage
        return ""
    return f" by signal {-code}" if code < 0 else f", exit code {code}"

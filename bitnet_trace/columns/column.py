"""What a column is, and the probes that feed columns."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["ns", "bytes", "count", "number", "rate", "pct", "text"]
How = Literal["counted", "derived", "sampled", "estimated"]

# Probes that feed a column: without one of them it is missing, not 0. Tracepoints and events by the kernel's name.
FAULTS = ("fault_minor", "fault_major")
LATENCY = (*FAULTS, "page_fault_user", "page_fault_kernel")
SWITCH = ("sched_switch",)
CALLS = ("sys_enter", "sys_exit")
REQUESTS = ("io_uring_submit_req", "io_uring_complete")
TLB = ("tlb_flush",)


@dataclass(frozen=True)
class Column:
    """One column. `key` is the field's name in JSON and DataFrames and carries the unit; `title` heads it in text.

    `group` is the table that text reports put it in, None for those that only JSON has. `needs` are the probes that
    feed it. `measured` is False for a column of the schema that nothing measures: always missing. `whole` is False
    where values of a count or a time have a fraction: means of many.
    """

    key: str
    title: str
    format: Format
    help: str
    group: str | None = None
    how: How = "counted"
    needs: tuple[str, ...] = ()
    measured: bool = True
    whole: bool = True

    @property
    def unit(self) -> str:
        """ns, bytes, or empty for plain counts and text."""
        return self.format if self.format in ("ns", "bytes") else ""


def by_key(columns: tuple[Column, ...]) -> dict[str, Column]:
    """Columns by their keys."""
    return {column.key: column for column in columns}

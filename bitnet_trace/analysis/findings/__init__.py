"""What a report finds wrong, and what to do: a function per finding, a module per family.

A finding is a function of a Report that gives a Finding or None. None on a healthy run: each has a threshold, which
docs/figures.md gives reasons for.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from bitnet_trace.analysis.findings import asked, barriers, memory, scheduling
from bitnet_trace.analysis.findings.finding import SEVERITIES, Finding

if TYPE_CHECKING:
    from bitnet_trace.analysis.report import Report

__all__ = ["RULES", "Finding", "find"]

RULES: tuple[Callable[["Report"], Finding | None], ...] = (
    scheduling.oversubscribed,
    scheduling.preempted,
    barriers.straggler,
    memory.major_faults_in_decode,
    memory.faults_in_decode,
    memory.memory_pressure,
    memory.huge_pages_not_given,
    memory.cold_cache,
    asked.not_applied_affinity,
    asked.not_applied_priority,
    asked.uneven_priority,
)


def find(report: "Report") -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    found = [finding for rule in RULES if (finding := rule(report)) is not None]
    return tuple(sorted(found, key=lambda one: SEVERITIES.index(one.severity)))

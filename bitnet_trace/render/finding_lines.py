"""Findings in words."""

from collections.abc import Iterator

from bitnet_trace.analysis.report import Report
from bitnet_trace.printable import printable

_LIMIT = 400


def findings(report: Report) -> Iterator[tuple[str, str, list[str]]]:
    """(severity, title, lines of evidence and what to do) of each, the gravest first."""
    for one in report.findings:
        lines = [*one.evidence, f"to do: {one.advice}"]
        yield one.severity, printable(one.title, _LIMIT), [printable(line, _LIMIT) for line in lines]


def closing(report: Report) -> list[str]:
    """What is said when there are none: what was looked for, and what could not be."""
    return [] if report.findings else ["none: see docs/figures.md for what is looked for"]

"""The parts of a report in the order in which they are read: the same for a terminal, for Markdown and for HTML."""

from dataclasses import dataclass, field

from bitnet_trace.analysis.report import Report
from bitnet_trace.render import (
    barrier_grids,
    grids,
    numa_grids,
    operation_grids,
    perf_grids,
    place_grids,
    profile_grids,
)
from bitnet_trace.render.grids import Grid


@dataclass(frozen=True)
class Section:
    """Tables and lines that belong together. `name` is for links and for the charts that stand beside the tables."""

    name: str
    title: str
    tables: list[Grid] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def sections(report: Report) -> list[Section]:
    """What is to be said, without what has nothing to say."""
    fault_around = report.run["host"].get("fault_around_bytes")
    every = [
        _section("phases", "Phases", grids.timings(report), *grids.phases(report)),
        _section("tokens", "Tokens", grids.token_time(report), grids.calls(report)),
        _section("loading", "Loading", grids.loading(report), place_grids.loading(report)),
        _section("threads", "Threads", grids.threads(report), grids.taskstats(report)),
        _section("waiting", "Waiting", grids.run_queue(report), *grids.waits(report)),
        _section("barriers", "Barriers", *barrier_grids.grids(report)),
        Section(
            "counters", "Counters", perf_grids.grids(report.perf, report.names), perf_grids.missing_lines(report.perf)
        ),
        _section("operations", "Operations", *operation_grids.grids(report)),
        _section("functions", "Functions", *profile_grids.grids(report.profile), profile_grids.bursts(report)),
        _section("io", "I/O", grids.io_uring(report)),
        _section(
            "places",
            "Where faults fell",
            *place_grids.grids(report.places, fault_around),
            place_grids.huge_pages(report),
        ),
        _section("tlb", "TLB reach", perf_grids.tlb_reach(report.tlb_reach)),
        Section("numa", "NUMA", numa_grids.grids(report.numa), numa_grids.lines(report.numa)),
        Section("faults", "Page-fault latency", lines=[grids.fault_latency(report)]),
        Section(
            "health",
            "Health of the recording",
            lines=[
                grids.health_line(report),
                profile_grids.health_line(report.profile),
                grids.taskstats_line(report),
            ],
        ),
    ]
    return [section for section in every if section.tables or section.lines]


def _section(name: str, title: str, *tables: Grid | None) -> Section:
    return Section(name, title, [table for table in tables if table is not None])

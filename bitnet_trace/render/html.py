"""A report as one HTML page that needs no other file and no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plotly.offline import get_plotlyjs

from bitnet_trace.analysis import stacks
from bitnet_trace.analysis.report import Report
from bitnet_trace.printable import printable
from bitnet_trace.render import charts, finding_lines, grids
from bitnet_trace.render.charts import Chart
from bitnet_trace.render.flame import Flame, flame
from bitnet_trace.render.sections import Section, sections
from bitnet_trace.render.templates import page

_ALL_PHASES = "all phases"
_LEAST_SAMPLES_NS = 50_000_000


@dataclass(frozen=True)
class _Part:
    """A section of the page: its tables and lines, and what is drawn beside them."""

    section: Section
    charts: list[Chart] = field(default_factory=list)
    flames: list[tuple[str, list[Flame]]] = field(default_factory=list)


def render(report: Report) -> str:
    """The page. Text that came from the traced program is escaped; tables are those of the text report."""
    drawn = {
        "timeline": [charts.timeline(report)],
        "tokens": [charts.token_time(report)],
        "waiting": [charts.run_queue(report)],
        "barriers": [charts.lateness(report)],
        "places": [charts.fault_map(report)],
    }
    flames = {"functions": _flames(report)}
    listed = sections(report)
    listed.insert(0, Section("timeline", "Timeline"))
    parts = [
        _Part(
            section,
            [one for one in drawn.get(section.name, []) if one is not None],
            flames.get(section.name, []),
        )
        for section in listed
    ]
    parts = [one for one in parts if one.charts or one.flames or one.section.tables or one.section.lines]
    return page(
        "report.html.j2",
        title=printable(report.recording.path.name, 200),
        heading=grids.heading(report),
        speed=grids.speed(report),
        warnings=grids.warnings(report),
        findings=list(finding_lines.findings(report)),
        no_findings=finding_lines.closing(report),
        health=grids.health_line(report),
        parts=parts,
        plotly=get_plotlyjs() if any(one.charts for one in parts) else "",
        version=report.run["version"] and printable(str(report.run["version"]), 40),
    )


def render_sections(title: str, parts: Sequence[Section], drawn: Mapping[str, Sequence[Chart]] | None = None) -> str:
    """A page of sections. `drawn`: charts that stand before the tables of a section, by its name."""
    of_part = {part.name: list((drawn or {}).get(part.name, [])) for part in parts}
    plotly = get_plotlyjs() if any(of_part.values()) else ""
    return page("sections.html.j2", title=title, parts=parts, charts=of_part, plotly=plotly)


def _flames(report: Report) -> list[tuple[str, list[Flame]]]:
    """(what is drawn, a graph of all phases and one of each that has enough of it)."""
    recording, phases = report.recording, report.phases
    kinds = (
        ("On the CPU (sampled)", stacks.on_cpu(recording, phases, report.profile)),
        ("Off the CPU (waits of 0.2 ms and more)", stacks.off_cpu(recording, phases)),
    )
    return [(title, _by_phase(weighed)) for title, weighed in kinds if weighed]


def _by_phase(weighed: stacks.Stacks) -> list[Flame]:
    of_phase: dict[str, stacks.Stacks] = {}
    for stack, ns in weighed.items():
        of_phase.setdefault(stack[0], stacks.Stacks())[stack[1:]] = ns
    large = {name: own for name, own in of_phase.items() if own.total() >= _LEAST_SAMPLES_NS}
    ordered = sorted(large.items(), key=lambda item: -item[1].total())
    return [flame(weighed, _ALL_PHASES), *(flame(own, name) for name, own in ordered)]

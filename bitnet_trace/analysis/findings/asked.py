"""Findings about affinity and priority that were asked for and not applied."""

import errno
import itertools
from typing import TYPE_CHECKING

from bitnet_trace.analysis.asked import AFFINITY, PRIORITY, Asked, numbers
from bitnet_trace.analysis.findings.finding import Finding, plural

if TYPE_CHECKING:
    from bitnet_trace.analysis.report import Report

# These errors are no refusal: the thread has ended; OpenMP's runtimes hand in no memory to learn its size.
_TRIES = {errno.ESRCH, errno.EFAULT}
_MAX_LINES = 4
# Options of llama.cpp's programs and those derived from it.
_AFFINITY_OPTIONS = ("-C", "--cpu-mask", "-Cr", "--cpu-range")
_PRIORITY_OPTIONS = ("--prio",)
_ADVICE = {
    AFFINITY: "name CPUs that there are and that its cpuset lets it use (taskset -p, /proc/PID/status: Cpus_allowed)",
    PRIORITY: "give it the right: bitnet-trace run --as-root, ulimit -r and -e, CAP_SYS_NICE, sched_rt_runtime_us",
}


def not_applied_affinity(report: "Report") -> Finding | None:
    """CPUs were asked for that a thread did not get."""
    return _not_applied(report, AFFINITY)


def not_applied_priority(report: "Report") -> Finding | None:
    """A scheduling policy, a priority or a nice value was asked for that a thread did not get."""
    return _not_applied(report, PRIORITY)


def _not_applied(report: "Report", kind: str) -> Finding | None:
    failed = [(one, why) for one in report.scheduling.asked if one.kind == kind and (why := _why_not(report, one))]
    ignored = _ignored_option(report, kind)
    if not failed and ignored is None:
        return None
    lines = [f"{report.names.described(one.tid)}: {one.call}, {one.described()}: {why}" for one, why in failed]
    if ignored is not None:
        lines.append(f"{ignored} on the command line, and no thread asked the kernel for it")
    what = failed[0][0].described() if failed else str(ignored)
    return Finding(
        rule=f"{kind}-not-applied",
        severity="warning",
        title=f"{kind} asked for and not applied: {what}" + (f", {failed[0][1]}" if failed else ""),
        figure=float(max(len(failed), 1)),
        threshold=1.0,
        unit="threads" if failed else "options",
        phase=None,
        evidence=tuple(
            lines[:_MAX_LINES] + ([f"and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else [])
        ),
        advice=_ADVICE[kind] if failed else "this build ignores it (with OpenMP?): use taskset or chrt, OMP_PROC_BIND",
        threads=tuple(one.tid for one, _ in failed),
    )


def _why_not(report: "Report", one: Asked) -> str | None:
    """Why what was asked did not come about; None: it did, or that is not known."""
    if one.error:
        return None if one.error in _TRIES else one.refusal
    had = report.scheduling.had.get(one.tid)
    if had is None:
        return None
    if one.cpus is not None:
        online = frozenset(report.run["host"].get("cpus_online") or ())
        # all there are and more is a way to say "all"
        if had.cpus >= one.cpus or (one.cpus >= online and had.cpus >= online):
            return None
        return f"it had {numbers(had.cpus)}"
    wanted = [(one.policy, had.policy), (one.priority, had.priority if one.policy in (None, 1, 2) else one.priority)]
    if one.policy not in (1, 2):
        wanted.append((one.nice, had.nice))
    return None if all(asked in (None, got) for asked, got in wanted) else f"it had {had.described()}"


def _ignored_option(report: "Report", kind: str) -> str | None:
    """An option of the command line that asks for it, when no thread of the target asked the kernel."""
    if any(one.kind == kind for one in report.scheduling.asked) or not report.scheduling.had:
        return None
    command = report.run["command"] or []
    options = _AFFINITY_OPTIONS if kind == AFFINITY else _PRIORITY_OPTIONS
    for option, value in itertools.pairwise(command):
        if option in options and value.strip("0x") not in ("", "-1"):  # no mask, normal priority, a lower one
            return f"{option} {value}"
    return None


def uneven_priority(report: "Report") -> Finding | None:
    """Threads that compute together have different priorities: the others wait for the one that gets less."""
    for one in report.computing:
        had = {tid: report.scheduling.had[tid].described() for tid in one.tids if tid in report.scheduling.had}
        kinds = sorted(set(had.values()))
        if len(kinds) < 2:
            continue
        return Finding(
            rule="uneven-priority",
            severity="warning",
            title=f"priority not on all computing threads: {' and '.join(kinds)} in {one.name}",
            figure=float(len(kinds)),
            threshold=2.0,
            unit="different priorities",
            phase=one.name,
            evidence=tuple(
                f"{kind}: {plural(sum(value == kind for value in had.values()), 'thread')} ("
                + ", ".join(report.names.described(tid) for tid in had if had[tid] == kind)
                + ")"
                for kind in kinds
            ),
            advice="set it before the threads are made (chrt, nice in front of the command), without --reset-on-fork",
            threads=tuple(had),
        )
    return None

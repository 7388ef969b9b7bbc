"""What a live view finds wrong: the findings of reports that its figures are enough for, by the same thresholds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bitnet_trace.analysis.findings.finding import plural, severity_of
from bitnet_trace.analysis.findings.memory import FAULTS_LEAST_NS, FAULTS_PCT, MAJOR_FAULTS
from bitnet_trace.analysis.findings.scheduling import OVERSUBSCRIBED_WAIT_PCT, PREEMPTED_LEAST_NS, PREEMPTED_PCT
from bitnet_trace.live.model import Notice, TokenLine
from bitnet_trace.render.format import duration

# A call that takes as many times as long as the median of the newest ones.
_SLOW_TIMES, _SLOW_LEAST_NS, _SLOW_OF = 5, 50_000_000, 20
_WORDS = {
    "compute_ns": "computing",
    "spin_ns": "spinning",
    "runq_ns": "waiting for a CPU",
    "fault_ns": "in page faults",
    "futex_ns": "asleep in futex calls",
    "io_ns": "in reads",
    "rest_ns": "off the CPU for another reason: asleep, or stopped",
}


class Computed(NamedTuple):
    """Threads that computed in the calls of one name."""

    n: int
    cpu_ns: int
    runq_ns: int


def notices(
    by_phase: list[dict[str, Any]],
    computed: Mapping[str, Computed],
    tokens: list[TokenLine],
    cpus: int,
    found: dict[str, Notice],
) -> list[Notice]:
    """All so far, the newest last: `found` keeps them from one moment to the next, each with its latest figure."""
    for notice in (*_waiting(computed, cpus), *_faults(by_phase, computed), *_slow(tokens)):
        found[notice.rule] = notice
    return list(found.values())


def _waiting(computed: Mapping[str, Computed], cpus: int) -> list[Notice]:
    result = []
    for name, one in computed.items():
        wait_pct = 100 * one.runq_ns / max(one.cpu_ns + one.runq_ns, 1)
        if one.n > cpus and wait_pct >= OVERSUBSCRIBED_WAIT_PCT:
            title = f"oversubscribed: {one.n} threads compute in {name} on {plural(cpus, 'CPU')}"
            result.append(Notice("oversubscription", severity_of(wait_pct), title, f"run it with -t {cpus}"))
        elif wait_pct >= PREEMPTED_PCT and one.runq_ns >= PREEMPTED_LEAST_NS:
            title = f"computing threads of {name} had no CPU for {wait_pct:.0f} % of the time they wanted one"
            advice = "end what runs there too, or keep it off these CPUs (taskset, cpuset)"
            result.append(Notice("preemption", severity_of(wait_pct), title, advice))
    return result


def _faults(by_phase: list[dict[str, Any]], computed: Mapping[str, Computed]) -> list[Notice]:
    result = []
    for row in by_phase:
        if row["phase"] != "decode":
            continue
        fault_ns, cpu_ns, major = (row.get(key) or 0 for key in ("fault_ns", "cpu_ns", "faults_major"))
        # threads that wait within faults are not on a CPU
        threads_ns = row["dur_ns"] * computed["decode"].n if "decode" in computed else 0
        pct = 100 * fault_ns / max(cpu_ns, threads_ns, 1)
        if pct >= FAULTS_PCT and fault_ns >= FAULTS_LEAST_NS:
            title = f"page faults take {pct:.0f} % of the time in decode"
            result.append(Notice("faults_in_decode", severity_of(pct), title, "bring its memory in before: --mlock"))
        if major >= MAJOR_FAULTS:
            title = f"{plural(major, 'major fault')} in decode: weights are read from the disk"
            result.append(Notice("major_faults_in_decode", "critical", title, "--mlock, or a machine with more memory"))
    return result


def _slow(tokens: list[TokenLine]) -> list[Notice]:
    decoded = [token for token in tokens if token.name == "decode" and token.ended]
    if len(decoded) < _SLOW_OF:
        return []
    median_ns = sorted(token.dur_ns for token in decoded)[len(decoded) // 2]
    worst = max(decoded, key=lambda token: token.dur_ns)
    if worst.dur_ns < max(_SLOW_TIMES * median_ns, _SLOW_LEAST_NS):
        return []
    took = f"took {duration(worst.dur_ns)} (median {duration(median_ns)})"
    title = f"token {worst.token} {took}, mostly {_WORDS[worst.mostly]}"
    return [Notice("slow_token", "warning", title, "record it, and see what its threads did: bitnet-trace report")]

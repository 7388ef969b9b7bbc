"""How far a recording can be trusted: what was lost, what was not attached, what the tracing cost."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from bitnet_trace.analysis.computing import Computing
from bitnet_trace.recording.meta import count

PROBE_KEYS = ("name", "role", "path", "offset", "attached", "reason", "cost_class", "hits", "windowed")


def health(meta: dict[str, Any], n_stored: int, complete: bool, warnings: list[str]) -> dict[str, Any]:
    """The health of a recording as the JSON output has it, of a meta that was read by `load_meta`.

    `events` is how many were received (stored, where the writer could not say), `lost` how many were not, `lost_by`
    its parts as {"events.fault": n, ...} without zeros; `coverage_pct` is received / (received + lost). `never_hit`
    are roles of engine probes that were attached and never fired. What is not known is None.
    """
    received = sum(n for _, n in _leaves(meta.get("received", {}))) or n_stored
    lost_by = {name: n for name, n in _leaves(meta.get("losses", {})) if n}
    lost = sum(lost_by.values()) if "losses" in meta else None
    of_all = received + (lost or 0)
    probes = [{key: probe.get(key) for key in PROBE_KEYS} for probe in meta.get("probes", [])]
    cost = meta.get("cost", {})
    return {
        "events": received,
        "lost": lost,
        "lost_by": lost_by,
        # rounded down: 100 is only said when nothing was lost
        "coverage_pct": None if lost is None or not of_all else 10_000 * received // of_all / 100,
        "complete": complete,
        "probes": probes,
        "never_hit": never_hit(probes),
        "overhead_pct_estimate": finite(cost.get("overhead_pct_estimate")),
        "bpf_ns": count(cost.get("bpf_ns")),
        "bpf_runs": count(cost.get("bpf_runs")),
        "tracer_cpu_ns": count(cost.get("tracer_cpu_ns")),
        "warnings": [*warnings, *meta.get("warnings", []), *_without_phases(meta)],
    }


def decode_slower_pct(overhead_pct: float | None, computing: Iterable[Computing]) -> float | None:
    """How much longer decode calls take, at most, when tracing takes so much of the target's CPU time.

    As much as if every delay of one thread were one of all, as where they meet at barriers: the share times the number
    of threads that computed side by side. None where either is not known.
    """
    calls = [one for one in computing if one.name == "decode" and one.dur_ns]
    if overhead_pct is None or not calls:
        return None
    side_by_side = sum(one.cpu_ns for one in calls) / sum(one.dur_ns for one in calls)
    return round(overhead_pct * max(side_by_side, 1.0), 3)


def never_hit(probes: list[dict[str, Any]]) -> list[str]:
    """Roles that have attached probes, all of which were hit 0 times; a probe whose hits are unknown counts as hit."""
    hits: dict[str, int] = {}
    for probe in probes:
        role = probe.get("role")
        if isinstance(role, str) and probe.get("attached") is True:
            n = count(probe.get("hits"))
            hits[role] = hits.get(role, 0) + (1 if n is None else n)
    return sorted(role for role, n in hits.items() if n == 0)


def unattached(probes: list[dict[str, Any]]) -> set[str]:
    """Names of probes that are nowhere attached."""
    attached = {str(probe.get("name")) for probe in probes if probe.get("attached") is True}
    return {str(probe.get("name")) for probe in probes if probe.get("attached") is False} - attached


def _without_phases(meta: dict[str, Any]) -> list[str]:
    """A line where an engine was recognised of which no decode call can be seen, as in stripped builds."""
    reasons = {one.get("role"): one.get("reason") for one in meta.get("missing_roles", [])}
    if not meta.get("engine") or not {"decode", "ubatch"} <= reasons.keys():
        return []
    return [f"no prefill and no decode: {reasons['decode']}; what a build needs: bitnet-trace probes PROGRAM"]


def finite(value: Any) -> float | None:
    """`value` as a float; None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The counts in nested dicts, with their keys joined by dots."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        n = count(value)
        if n is not None:
            yield prefix, n

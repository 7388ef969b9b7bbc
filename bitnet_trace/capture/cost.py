"""What tracing cost the target, as far as it can be known without running it again: an estimate, and its parts."""

from collections.abc import Iterable, Mapping
from typing import Any

# ns of a hit's trap by cost class of the probed instruction, outside of our program, which the kernel times itself: the
# upper ends measured in a virtual machine (6.18); bare metal is cheaper
TRAP_NS = {"nop": 200, "emulated": 1_000, "single-step": 21_000}


def estimate(
    bpf_ns: int, probes: Iterable[Mapping[str, Any]], tracer_cpu_ns: int, target_cpu_ns: int, wall_ns: int, cpus: int
) -> dict[str, Any]:
    """The parts in ns and their sum as a share of what the target used, in percent.

    `bpf_ns`: time in all our programs, on all processes: the kernel's own count. `tracer_cpu_ns`: our process's since
    the target's first instruction. It competes only as far as the target leaves no CPU free, which the share of the
    machine that the target used stands for.
    """
    trap_ns = sum(TRAP_NS.get(probe["cost_class"], 0) * probe.get("hits", 0) for probe in probes)
    busy_share = min(target_cpu_ns / (wall_ns * cpus), 1.0) if wall_ns and cpus else 1.0
    competing_ns = int(tracer_cpu_ns * busy_share)
    total_ns = bpf_ns + trap_ns + competing_ns
    return {
        "uprobe_trap_ns_estimate": trap_ns,
        "tracer_competing_ns_estimate": competing_ns,
        "overhead_pct_estimate": round(100 * total_ns / target_cpu_ns, 3) if target_cpu_ns else None,
    }

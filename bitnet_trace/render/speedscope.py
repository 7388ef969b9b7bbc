"""Stacks for speedscope.app: a profile per phase and one of all (https://www.speedscope.app/file-format-schema.json)."""

import json
from typing import Any

from bitnet_trace.analysis.stacks import Stacks
from bitnet_trace.printable import printable

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def render(stacks: Stacks, name: str) -> str:
    """The file, in ASCII. Weights are ns."""
    frames: dict[str, int] = {}
    of_phase: dict[str, Stacks] = {}
    for stack, ns in stacks.items():
        of_phase.setdefault(stack[0], Stacks())[stack[1:]] += ns
    longest_first = sorted(of_phase.items(), key=lambda item: -item[1].total())
    profiles = [_profile(title, own, frames) for title, own in [("all phases", stacks), *longest_first]]
    value = {
        "$schema": _SCHEMA,
        "name": printable(name, 200),
        "exporter": "bitnet-trace",
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": frame} for frame in frames]},
        "profiles": profiles,
    }
    return json.dumps(value) + "\n"


def _profile(name: str, stacks: Stacks, frames: dict[str, int]) -> dict[str, Any]:
    ordered = sorted(stacks.items())
    samples = [[frames.setdefault(printable(frame, 200), len(frames)) for frame in stack] for stack, _ in ordered]
    weights = [ns for _, ns in ordered]
    end = {"startValue": 0, "endValue": sum(weights)}
    return {"type": "sampled", "name": name, "unit": "nanoseconds", **end, "samples": samples, "weights": weights}

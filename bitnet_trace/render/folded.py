"""Stacks as lines `frame;frame;frame WEIGHT`: what flame-graph programs read."""

from bitnet_trace.analysis.stacks import Stacks
from bitnet_trace.printable import printable


def render(stacks: Stacks) -> str:
    """One line per stack, sorted; weights in microseconds, stacks below half of one left out."""
    lines = [(";".join(printable(frame, 200) for frame in stack), round(ns / 1000)) for stack, ns in stacks.items()]
    return "".join(f"{text} {weight}\n" for text, weight in sorted(lines) if weight)

"""Stacks with their weights, outermost frame first: what flame graphs are drawn from."""

from collections import Counter

import numpy as np
import pandas as pd

from bitnet_trace.analysis.profile import COMPLETE_ENOUGH_PCT, SPIN_ROLE, Profile, frames_of
from bitnet_trace.analysis.waits import reason_name
from bitnet_trace.engines.names import plain
from bitnet_trace.recording.reader import Recording

Stacks = Counter[tuple[str, ...]]


def on_cpu(recording: Recording, phases: pd.DataFrame, found: Profile | None, phase: str | None = None) -> Stacks:
    """Nanoseconds on a CPU by stack, from timer samples; of one phase name, or all with theirs as outermost frame.

    Where too few stacks are complete a stack says phase, role and function only: half stacks would draw a picture that
    is not true.
    """
    samples = recording.samples
    whole = found is not None and found.complete_pct is not None and found.complete_pct >= COMPLETE_ENOUGH_PCT
    return _stacks(recording, samples[samples["reason"] == 0], phases, phase, whole)


def off_cpu(recording: Recording, phases: pd.DataFrame, phase: str | None = None) -> Stacks:
    """Nanoseconds off the CPU by stack, of waits of 0.2 ms and more; what they waited in is the innermost frame."""
    samples = recording.samples
    return _stacks(recording, samples[samples["reason"] != 0], phases, phase, whole=True)


def _stacks(
    recording: Recording, samples: pd.DataFrame, phases: pd.DataFrame, phase: str | None, whole: bool
) -> Stacks:
    frames = frames_of(recording).sort_values(["stack", "level"], ascending=[True, False], kind="stable")
    names = dict(zip(phases["id"].astype(int), phases["name"].astype(str), strict=True))
    texts: dict[int, tuple[str, ...]] = {}
    for number, group in frames.groupby("stack", sort=False):
        texts[int(str(number))] = _names(group) if whole else _role_and_function(group.iloc[-1])
    result: Stacks = Counter()
    columns = (samples[key].to_numpy(dtype=np.int64) for key in ("stack", "phase", "reason", "period_ns"))
    for stack, phase_id, reason, ns in zip(*columns, strict=True):
        name = names.get(int(phase_id), "unknown")
        if phase in (None, name):
            last = (reason_name(int(reason)),) if reason else ()
            result[(name, *texts.get(int(stack), ("[unknown]",)), *last)] += int(ns)
    return result


def _names(frames: pd.DataFrame) -> tuple[str, ...]:
    spins = ("(spinning)",) if bool(frames["spins"].iloc[-1]) else ()
    return (*(_short(name) for name in frames["function"]), *spins)


def _role_and_function(leaf: "pd.Series[str]") -> tuple[str, ...]:
    role = SPIN_ROLE if leaf["spins"] else leaf["role"] if isinstance(leaf["role"], str) else "other"
    return str(role), _short(leaf["function"])


def _short(name: object) -> str:
    """Without parameters: stacks are read as a whole. `;` parts frames."""
    if not isinstance(name, str):
        return "[unknown]"
    return (name if name.startswith("[") else plain(name) or name).replace(";", ":")

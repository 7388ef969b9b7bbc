"""Does the runs of a plan, one after the other, and says what came of each."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitnet_trace import driver
from bitnet_trace.analysis.speed import reported_timings
from bitnet_trace.capture.identity import Identity
from bitnet_trace.capture.options import Options
from bitnet_trace.errors import TraceError
from bitnet_trace.experiment import conditions, loads
from bitnet_trace.experiment.factors import Machine
from bitnet_trace.experiment.figures import HARDWARE
from bitnet_trace.experiment.journal import Journal
from bitnet_trace.experiment.plan import TRACED, TRACING_S, UNTRACED, Cell, Trial
from bitnet_trace.experiment.readback import ReadBack, guaranteed
from bitnet_trace.experiment.setup import Setup, model_of
from bitnet_trace.experiment.spec import Measure
from bitnet_trace.loadlab import trials

# seldom enough not to disturb: a look takes 20 µs for a thread
_FIRST_LOOKS_S, _LOOK_S = 0.03, 0.1
_MANY_LOOKS = 20
# reading a recording, on one of several CPUs, beside making it
_READING_SHARE = 0.15


@dataclass
class Runner:
    """`done`: what came of earlier runs by Trial.key; they are not run again. `journal`: where settings are changed.
    `locks`: descriptors that runs must not keep open."""

    cells: Mapping[int, Cell]
    setups: Mapping[int, Setup]
    machine: Machine
    folder: Path
    user: Identity | None
    journal: Journal | None
    measure: Measure
    as_root: bool = False
    locks: Sequence[int] = ()
    done: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started_s = time.monotonic()
        self._took: dict[str, list[float]] = {UNTRACED: [], TRACED: []}

    def block(self, planned: list[Trial], must: bool) -> Iterator[tuple[Trial, dict[str, Any]]]:
        """Those of a block that are not done yet, with their results; unless they `must` be done, as many as the budget
        has room for."""
        for trial in planned:
            if trial.key in self.done:
                continue
            if not must and self._expected_s(trial.kind) + self._reading_s() > self.budget_left_s():
                return
            began_s = time.monotonic()
            result = self._run(trial)
            self.done[trial.key] = result
            time.sleep(self.measure.cool_down_s)
            kind = TRACED if trial.kind == TRACED else UNTRACED
            self._took[kind].append(time.monotonic() - began_s)
            yield trial, result

    def left_s(self, planned: list[Trial]) -> float:
        """About how long these take, from those that were done."""
        return sum(self._expected_s(trial.kind) for trial in planned if trial.key not in self.done)

    def budget_left_s(self) -> float:
        """Infinite without a budget."""
        if self.measure.budget_s is None:
            return math.inf
        return max(self.measure.budget_s - (time.monotonic() - self._started_s), 0.0)

    def _reading_s(self) -> float:
        """About how long the recordings that there are will take to be read."""
        n = sum(kind == TRACED for kind, _, _ in self.done)
        return n * _READING_SHARE * self._expected_s(TRACED)

    def _expected_s(self, kind: str) -> float:
        own, untraced = self._took[TRACED if kind == TRACED else UNTRACED], self._took[UNTRACED]
        if own:
            return sum(own) / len(own)
        run_s = sum(untraced) / len(untraced) if untraced else self.measure.expected_s or 5.0
        return run_s + (TRACING_S if kind == TRACED else 0.0)

    def _run(self, trial: Trial) -> dict[str, Any]:
        cell, setup = self.cells[trial.cell], self.setups[trial.cell]
        row: dict[str, Any] = {
            "kind": trial.kind, "block": trial.block, "cell": trial.cell, "levels": cell.levels, "at_s": time.time(),
        }  # fmt: skip
        if self.journal is not None:
            self.journal.apply(setup.settings)
        command = setup.arguments()
        if setup.page_cache is not None:
            row["cached_pct"] = _set_page_cache(model_of(command), setup.page_cache)
        options = Options(
            environment=setup.tunables(),
            prepare=setup.become,
            as_root=self.as_root,
            output=self._recording(trial),
            counters=HARDWARE if self.machine.host.pmu else (),
            force=True,
        )
        read_back = ReadBack(setup)
        with loads.running(setup.load, self.machine.cpus, self.user):
            before = conditions.now()
            start = driver.start_traced if trial.kind == TRACED else driver.start_untraced
            running = start(command, options, self.locks)
            try:
                with guaranteed(setup) as read_back.reserved:
                    in_time = self._watch(running, read_back)
            except BaseException:
                running.stop()
                raise
            after = conditions.now()
        own_s = running.rusage.ru_utime + running.rusage.ru_stime
        row.update(conditions.between(before, after, own_s), read_back=read_back.summary())
        return {**row, **_outcome(running, in_time, read_back, self.measure.timeout_s)}

    def _recording(self, trial: Trial) -> Path | None:
        if trial.kind != TRACED:
            return None
        return self.folder / "recordings" / self.cells[trial.cell].folder / f"{trial.block:03}.btrace"

    def _watch(self, running: driver.Running, read_back: ReadBack) -> bool:
        """False where the run had to be ended."""
        deadline = time.monotonic() + self.measure.timeout_s
        while not running.wait(_FIRST_LOOKS_S if read_back.looks < _MANY_LOOKS else _LOOK_S):
            if running.pid is not None:
                read_back.look(running.pid)
            if time.monotonic() > deadline:
                running.stop()
                return False
        return True


def _outcome(running: driver.Running, in_time: bool, read_back: ReadBack, timeout_s: float) -> dict[str, Any]:
    """`why` is None where the run counts."""
    if not in_time:
        return {"why": f"did not end within {timeout_s:g} s (timeout_s)"}
    try:
        ended = running.result()
    except TraceError as error:
        return {"why": error.message}
    figures = {**ended.usage, **_figures(ended.timings)}
    if ended.exit_status:
        said = ended.said.strip().splitlines()
        return {"why": f"ended with {ended.exit_status}{f': {said[-1][:300]}' if said else ''}", "figures": figures}
    why = f"not as asked: {next(iter(read_back.deviations.values()))}" if read_back.deviations else None
    recording = str(ended.recording) if ended.recording else None
    return {"why": why, "figures": figures, "recording": recording}


def _figures(timings: list[dict[str, Any]]) -> dict[str, float]:
    """What the engine printed: speeds, and times in ns."""
    found: dict[str, float] = {}
    for what, _, row in reported_timings(timings):
        ns, n = row["reported_ns"], row["reported_count"]
        if what in ("prefill", "decode"):
            if row["reported_tokens_per_s"]:
                found[f"{what}_tokens_per_s"] = row["reported_tokens_per_s"]
            if ns is not None and n:
                found[f"{what}_ns_per_token"] = ns / n
        elif ns is not None and what in ("load", "total"):
            found[f"{what}_ns"] = ns
    return found


def _set_page_cache(path: str, state: str) -> float | None:
    """Makes this file cold or warm; how much of it is in the page cache then, in percent."""
    size_bytes = trials.model_size(path)
    try:
        trials.set_page_cache(path, state)
        return trials.cached(path, size_bytes)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}", "the model's file could not be read") from None

"""From a spec to what is run: cells, and their runs in random order within blocks."""

import contextlib
import itertools
import math
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bitnet_trace.capture.identity import find_program
from bitnet_trace.errors import TraceError
from bitnet_trace.experiment.factors import Machine, factor
from bitnet_trace.experiment.factors.memory import THP_ENABLED
from bitnet_trace.experiment.setup import REAL_TIME, Setup, model_of
from bitnet_trace.experiment.spec import Spec
from bitnet_trace.loadlab import trials

MAX_CELLS = 500
# what tracing adds to a run, at its begin and end, and the report of its recording
TRACING_S = 3.5
# untraced ones, before the first traced one: speed is what the verdict is of
_FIRST_BLOCKS = 3
UNTRACED, TRACED, WARM_UP = "untraced", "traced", "warm-up"


@dataclass(frozen=True)
class Cell:
    """One combination of levels: their labels by factor. `number` counts from 1."""

    number: int
    levels: dict[str, str]

    @property
    def name(self) -> str:
        return ", ".join(f"{name} {label}" for name, label in self.levels.items())

    @property
    def folder(self) -> str:
        """The name that its recordings are stored under."""
        words = "-".join(re.sub(r"[^A-Za-z0-9.+]+", "_", label) for label in self.levels.values())
        return f"{self.number:03}-{words[:80]}"


@dataclass(frozen=True)
class Trial:
    """One run. A block has one of each cell; those of a kind are counted from 0."""

    kind: str
    block: int
    cell: int

    @property
    def key(self) -> tuple[str, int, int]:
        return self.kind, self.block, self.cell


def cells(spec: Spec) -> list[Cell]:
    """Every combination that is not excluded. Raises TraceError where there are none, or too many."""
    n = math.prod(len(levels) for _, levels in spec.factors)
    if n > MAX_CELLS:
        raise TraceError(
            f"{n:,} cells are more than the {MAX_CELLS} that can be run", "fewer levels, or one experiment a question"
        )
    names = [name for name, _ in spec.factors]
    combined = itertools.product(*([level.label for level in levels] for _, levels in spec.factors))
    chosen = [dict(zip(names, labels, strict=True)) for labels in combined]
    kept = [one for one in chosen if not any(rule and rule.items() <= one.items() for rule in spec.exclude)]
    if not kept:
        raise TraceError("all cells are excluded: the matrix is empty", "leave out an [[exclude]]")
    if spec.baseline not in kept:
        raise TraceError("the baseline's cell is excluded", "choose another [baseline]")
    return [Cell(number, levels) for number, levels in enumerate(kept, 1)]


def setup(spec: Spec, cell: Cell, machine: Machine) -> Setup:
    """What a cell's runs are to be."""
    assert spec.command is not None
    made = Setup(list(spec.command))
    kinds = [(factor(name), levels) for name, levels in spec.factors]
    for kind, levels in sorted(kinds, key=lambda pair: pair[0].order):
        level = next(one for one in levels if one.label == cell.levels[kind.name])
        kind.apply(level.value, made, machine)
    return made


def check(setups: Mapping[int, Setup], machine: Machine, environment: Mapping[str, str], system_allowed: bool) -> None:
    """Raises TraceError for what cannot be run, before anything is."""
    programs: set[str] = set()
    for one in setups.values():
        command = one.arguments()
        unfilled = next((word for word in command if re.fullmatch(r"\{[a-z_]\w*\}", word)), None)
        if unfilled:
            wanted = "threads" if unfilled == "{threads}" else f"argument.{unfilled[1:-1]}"
            raise TraceError(
                f"the command has a placeholder {unfilled} that no factor fills", f"add {wanted} to [factors]"
            )
        if command[0] not in programs:
            find_program(command[0], environment)
            programs.add(command[0])
        n_cpus = len(one.cpus or machine.cpus)
        if one.policy in REAL_TIME and (one.threads or 1) > n_cpus:
            raise TraceError(
                f"{one.threads} threads under {one.policy} on {n_cpus} CPUs: who spins keeps out whom it waits for",
                "take as many threads as CPUs, or leave the combination out with [[exclude]]",
            )
        if one.page_cache is not None:
            trials.model_size(model_of(command))
        thp_system = dict(one.settings).get(THP_ENABLED, machine.host.thp_enabled)
        if one.thp == "on" and thp_system in (None, "never"):
            raise TraceError(
                f"thp = 'on': transparent huge pages are off on this system ({thp_system or 'not known'})",
                'add the factor thp_system = ["madvise"], and --allow-system-changes',
            )
        if one.settings and not system_allowed:
            raise TraceError(
                f"this experiment changes {one.settings[0][0]} for the whole system", "allow it: --allow-system-changes"
            )


def files(setups: Mapping[int, Setup], environment: Mapping[str, str]) -> dict[str, list[int]]:
    """Size and time of change of the programs and models that are run: whether it is the same experiment still."""
    found = {}
    for one in setups.values():
        command = one.arguments()
        with contextlib.suppress(TraceError):
            found[os.path.realpath(model_of(command))] = _state(model_of(command))
        program = find_program(command[0], environment)
        found[os.path.realpath(program)] = _state(program)
    return {path: state for path, state in found.items() if state}


def _state(path: str) -> list[int]:
    try:
        facts = os.stat(path)
    except OSError:
        return []
    return [facts.st_size, facts.st_mtime_ns]


def blocks(spec: Spec, n_cells: int) -> Iterator[list[Trial]]:
    """The runs in their order: warm-up, three untraced blocks, then traced and untraced ones in turn. The seed decides,
    nothing else."""
    measure = spec.measure
    generator = random.Random(measure.seed)
    yield [Trial(WARM_UP, number, 1 + number % n_cells) for number in range(measure.warm_up)]
    untraced = [(UNTRACED, block) for block in range(measure.repeats)]
    traced = [(TRACED, block) for block in range(measure.traced)]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(traced, untraced[_FIRST_BLOCKS:]))
    for one in (*untraced[:_FIRST_BLOCKS], *in_turn):
        order = list(range(1, n_cells + 1))
        if measure.order == "random":
            generator.shuffle(order)
        if one is not None:
            yield [Trial(one[0], one[1], cell) for cell in order]


def n_trials(spec: Spec, n_cells: int) -> tuple[int, int]:
    """(untraced ones with warm-up, traced ones) of the whole plan."""
    return n_cells * spec.measure.repeats + spec.measure.warm_up, n_cells * spec.measure.traced


def length_s(spec: Spec, n_cells: int, run_s: float) -> float:
    """About how long all of it takes when a run takes `run_s`."""
    untraced, traced = n_trials(spec, n_cells)
    each = run_s + spec.measure.cool_down_s
    return (untraced + traced) * each + traced * TRACING_S

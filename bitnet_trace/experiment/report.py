"""Runs a plan to its end, and writes what came of it: Parquet, Markdown and HTML."""

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

from bitnet_trace import __version__
from bitnet_trace.capture.identity import Identity
from bitnet_trace.errors import TraceError
from bitnet_trace.experiment import conditions, plan
from bitnet_trace.experiment.factors import Machine
from bitnet_trace.experiment.outcome import Outcome, outcome
from bitnet_trace.experiment.plan import TRACED, UNTRACED, WARM_UP, Cell
from bitnet_trace.experiment.readback import deviation
from bitnet_trace.experiment.runner import Runner
from bitnet_trace.experiment.setup import Setup
from bitnet_trace.experiment.spec import Spec
from bitnet_trace.experiment.store import Store

# fewer tell nothing of chance
_ALWAYS = {(UNTRACED, 0), (UNTRACED, 1)}

Progress = Callable[[int, int, float, str], None]


def facts(spec: Spec, machine: Machine, files: Mapping[str, list[int]]) -> dict[str, Any]:
    """What is noted of an experiment when it begins. `files`: plan.files."""
    return {
        "version": __version__,
        "name": spec.name,
        "command": spec.command,
        "factors": {name: [level.label for level in levels] for name, levels in spec.factors},
        "baseline": spec.baseline,
        "headline": spec.headline,
        "seed": spec.measure.seed,
        "digest": spec.digest(),
        "files": files,
        "real_time_limit": conditions.real_time_limit(),
        "host": machine.host.to_dict(),
    }


def require_same(now: Mapping[str, Any], store: Store) -> None:
    """Raises TraceError where what is to go on is not the experiment of the store."""
    before = store.facts
    if before.get("digest") != now["digest"]:
        raise TraceError(
            f"{store.path} was made with another spec, command or seed", "begin anew: --force, or another -o"
        )
    files = before.get("files")
    for path, found in now["files"].items():
        if isinstance(files, dict) and files.get(path, found) != found:
            raise TraceError(f"{path} has changed since {store.path} was begun", "begin anew: --force, or another -o")


def import_early() -> None:
    """What each traced run imports: its process is a fork of this one, and finds it done."""
    from bitnet_trace.capture import bpf, session  # noqa: F401
    from bitnet_trace.capture.tracing import import_early as of_session

    of_session()


def go_on(spec: Spec, runner: Runner, store: Store, progress: Progress) -> None:
    """Makes all runs that are missing; those that the budget has no room for are left out."""
    blocks = [block for block in plan.blocks(spec, len(runner.cells)) if block]
    for number, block in enumerate(blocks):
        kind, must = block[0].kind, block[0].kind == WARM_UP or (block[0].kind, block[0].block) in _ALWAYS
        coming = [trial for one in blocks[number + 1 :] for trial in one]
        for trial, result in runner.block(block, must):
            store.add(result)
            if trial.kind == WARM_UP and result["why"]:
                raise TraceError(f"the first run failed: {result['why']}", "try the command by itself")
            rest = [one for one in [*block, *coming] if one.key not in runner.done]
            left_s = min(runner.left_s(rest), runner.budget_left_s())
            now = f"{runner.cells[trial.cell].name} ({kind})"
            progress(len(runner.done), len(runner.done) + len(rest), left_s, now)
    progress(1, 1, 0.0, "")


def finish(
    spec: Spec, cells: Mapping[int, Cell], setups: Mapping[int, Setup], store: Store, user: Identity | None
) -> Outcome:
    """Reads the recordings and writes the report. Traced runs whose threads did not end as asked do not count."""
    from bitnet_trace.experiment.recordings import read_all

    results = [one for one in store.results() if _belongs(one, cells)]
    latest = {(one["kind"], one["block"], one["cell"]): one for one in results}
    traced = read_all(list(latest.values()), user)
    for (cell, block), one in traced.items():
        wrong = [text for thread in one.scheduled if (text := deviation(thread, setups[cell]))]
        if wrong:
            latest[TRACED, block, cell]["why"] = f"not as asked: {wrong[0]}"
    counted = {key: one for key, one in traced.items() if not latest[(TRACED, key[1], key[0])]["why"]}
    facts_of_it = {**store.facts, "n_damaged": store.n_damaged}
    found = outcome(spec, cells, list(latest.values()), counted, facts_of_it)
    _write(found, store)
    return found


def _belongs(result: Mapping[str, Any], cells: Mapping[int, Cell]) -> bool:
    cell = cells.get(result["cell"])
    return result["kind"] in (UNTRACED, TRACED) and cell is not None and cell.levels == result["levels"]


def as_text(found: Outcome, width: int, color: bool) -> str:
    from bitnet_trace.experiment.sections import sections
    from bitnet_trace.render import text

    return text.render_sections(title(found), sections(found), width, color)


def title(found: Outcome) -> str:
    rest = f": {found.spec.title}" if found.spec.title else ""
    return f"bitnet-trace experiment {found.spec.name}{rest}"


def _write(found: Outcome, store: Store) -> None:
    from bitnet_trace.experiment import charts
    from bitnet_trace.experiment.sections import sections
    from bitnet_trace.render import html, markdown

    parts = sections(found)
    drawn = {"cells": [charts.of_cells(found)], "factors": [charts.of_factors(found)]}
    shown = {name: [one for one in own if one is not None] for name, own in drawn.items()}
    store.write("report.md", markdown.render_sections(title(found), parts).encode())
    store.write("report.html", html.render_sections(title(found), parts, shown).encode())
    data = io.BytesIO()
    with contextlib.closing(data):
        found.runs.to_parquet(data, index=False)
        store.write("results.parquet", data.getvalue())

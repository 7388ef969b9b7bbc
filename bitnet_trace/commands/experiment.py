"""`bitnet-trace experiment`: a matrix of settings over a command, measured, with a verdict."""

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from bitnet_trace.commands.tracing import as_root_option
from bitnet_trace.errors import TraceError

if TYPE_CHECKING:
    from bitnet_trace.capture.identity import Identity
    from bitnet_trace.experiment.factors import Machine
    from bitnet_trace.experiment.plan import Cell
    from bitnet_trace.experiment.setup import Setup
    from bitnet_trace.experiment.spec import Spec

_EXAMPLES = """\b
Examples:
  sudo bitnet-trace experiment cfs-vs-fifo --demo
  sudo bitnet-trace experiment thp -- llama-cli -m model.gguf -p hello -n 32
  sudo bitnet-trace experiment my.toml -o results --dry-run
  sudo bitnet-trace experiment my.toml -o results --resume
  sudo bitnet-trace experiment engines --binary bitnet=./a/llama-cli --binary tmac=./b/llama-cli -- llama-cli -m m.gguf
"""


# the signal that has come
_asked_to_end: list[int] = []


class _Ended(KeyboardInterrupt):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        self.number = number


@click.command(
    epilog=_EXAMPLES,
    short_help="Which settings make a command faster.",
)
@click.argument("spec", required=False)
@click.option("--demo", is_flag=True, help="Over the embedded workload.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The folder of results; default: SPEC.experiment here."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be run, and how long it takes.")
@click.option("--resume", is_flag=True, help="Go on with the experiment of that folder: only what is missing is run.")
@click.option("--force", is_flag=True, help="Replace the folder when it exists.")
@click.option("--repeats", type=click.IntRange(2, 10_000), help="Untraced runs of each cell, in place of the spec's.")
@click.option("--traced", type=click.IntRange(0, 1000), help="Traced runs of each cell, in place of the spec's.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the random order, in place of the spec's.")
@click.option("--budget", type=click.FloatRange(1), metavar="S", help="Begin no block that would end after that time.")
@click.option("--binary", "binaries", multiple=True, metavar="LABEL=PATH", help="A level of a factor `binary`.")
@click.option("--allow-system-changes", is_flag=True, help="Allow settings of the whole system; they are set back.")
@click.option("--restore", is_flag=True, help="Set back what a killed experiment has left changed; runs nothing.")
@as_root_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def experiment(
    spec: str | None,
    demo: bool,
    output: Path | None,
    dry_run: bool,
    resume: bool,
    force: bool,
    repeats: int | None,
    traced: int | None,
    seed: int | None,
    budget: float | None,
    binaries: tuple[str, ...],
    allow_system_changes: bool,
    restore: bool,
    as_root: bool,
    command: tuple[str, ...],
) -> int | None:
    """Run COMMAND with all combinations of the settings in SPEC, repeatedly, in random order, and say what mattered.

    SPEC is a TOML file or one of the ready ones: barrier-oversubscription, cfs-vs-fifo, engines, hugepages, load-path,
    numa, openmp-vs-threadpool, thp, threads. Each cell is run untraced, for its speed, and traced, for the reasons.
    """
    from bitnet_trace.capture.identity import calling_user, require_root

    if restore:
        require_root()
        return _restore()
    if spec is None:
        raise click.UsageError("name a SPEC: a TOML file, or a ready one (--help lists them)")
    from bitnet_trace.experiment.factors import this_machine

    machine = this_machine()
    measure = {"repeats": repeats, "traced": traced, "seed": seed, "budget_s": budget}
    user = calling_user(os.environ, as_root)
    chosen = _spec(spec, machine, binaries, demo, command, user, measure)
    from bitnet_trace import driver
    from bitnet_trace.capture.options import Options
    from bitnet_trace.experiment import plan

    cells = {cell.number: cell for cell in plan.cells(chosen)}
    setups = {number: plan.setup(chosen, cell, machine) for number, cell in cells.items()}
    environment = driver.environment_of(Options(as_root=as_root))
    plan.check(setups, machine, environment, allow_system_changes or dry_run)
    if dry_run:
        _show_plan(chosen, cells, setups)
        return None
    require_root()
    return _run(chosen, cells, setups, machine, user, output, resume, force, as_root, environment)


def _spec(
    name: str,
    machine: "Machine",
    binaries: tuple[str, ...],
    demo: bool,
    command: tuple[str, ...],
    user: "Identity | None",
    measure: dict[str, Any],
) -> "Spec":
    from dataclasses import replace

    from bitnet_trace.experiment.factors import factor
    from bitnet_trace.experiment.spec import load, with_command

    spec = load(name, machine)
    spec = replace(spec, measure=replace(spec.measure, **{key: one for key, one in measure.items() if one is not None}))
    if binaries:
        labels, words = zip(*map(_binary, binaries), strict=True)
        if len(set(labels)) < len(labels):
            raise click.BadParameter("each LABEL once", param_hint="--binary")
        kind = factor("binary")
        levels = tuple(kind.level(label, own, machine) for label, own in zip(labels, words, strict=True))
        factors = tuple(one for one in spec.factors if one[0] != "binary")
        others = {name: label for name, label in spec.baseline.items() if name != "binary"}
        spec = replace(spec, factors=(("binary", levels), *factors), baseline={"binary": labels[0], **others})
    if demo and command:
        raise click.UsageError("--demo brings its own COMMAND")
    if not demo and len(binaries) < spec.binaries:
        hint = "--binary LABEL=PATH, or LABEL='PATH ARGUMENTS', once for each"
        raise TraceError(f"{spec.name} compares programs: name at least {spec.binaries}", hint)
    if demo:
        return with_command(spec, _demo_command(spec, machine, user))
    if command:
        return with_command(spec, command)
    if spec.command is None:
        raise click.UsageError("which command? -- COMMAND, or --demo")
    return spec


def _binary(text: str) -> tuple[str, list[str]]:
    """LABEL=PATH, or LABEL='PATH ARGUMENTS'."""
    label, _, path = text.partition("=")
    try:
        words = shlex.split(path)
    except ValueError as error:
        raise click.BadParameter(f"{text}: {error}", param_hint="--binary") from None
    if not label or not words:
        raise click.BadParameter(f"{text}: LABEL=PATH", param_hint="--binary")
    return label, words


def _demo_command(spec: "Spec", machine: "Machine", user: "Identity | None") -> list[str]:
    import importlib.util

    from bitnet_trace.commands.demo import decode_command, make_model

    if "refused" in spec.demo:
        raise TraceError(f"{spec.name} has no demo", str(spec.demo["refused"]))
    if importlib.util.find_spec("xllamacpp") is None:
        raise TraceError("the demo's engine is not installed", f"{sys.executable} -m pip install xllamacpp")
    words = decode_command(make_model("default", user), int(spec.demo.get("tokens", 32)), len(machine.cpus))
    return [*words, *map(str, spec.demo.get("arguments", []))]


def _show_plan(spec: "Spec", cells: "dict[int, Cell]", setups: "dict[int, Setup]") -> None:
    from bitnet_trace.experiment import plan
    from bitnet_trace.experiment.sections import plan_grid
    from bitnet_trace.render import text
    from bitnet_trace.render.sections import Section

    untraced, traced = plan.n_trials(spec, len(cells))
    measure = spec.measure
    baseline = ", ".join(f"{name} {label}" for name, label in spec.baseline.items())
    lines = [f"{len(cells)} cells, baseline: {baseline}"]
    lines.append(
        f"{untraced} untraced runs: {measure.repeats} of each cell, {measure.warm_up} to warm up; {traced} traced"
    )
    lines.append(f"order: {measure.order}, in blocks of one run of each cell; seed {measure.seed}")
    expected = [measure.expected_s] if measure.expected_s else [1.0, 10.0, 60.0]
    lengths = ((run_s, _time(plan.length_s(spec, len(cells), run_s))) for run_s in expected)
    lines += [f"about {length} where a run takes {run_s:g} s" for run_s, length in lengths]
    if measure.budget_s:
        lines.append(f"nothing is begun that would end after {_time(measure.budget_s)} (budget_s)")
    changed = sorted({path for one in setups.values() for path, _ in one.settings})
    if changed:
        lines.append(f"changes, and sets back: {', '.join(changed)} (needs --allow-system-changes)")
    grid = plan_grid(cells, {number: one.arguments() for number, one in setups.items()})
    parts = [Section("cells", "Cells", [grid]), Section("plan", "Plan", [], lines)]
    title = f"bitnet-trace experiment {spec.name}: plan"
    click.echo(text.render_sections(title, parts, shutil.get_terminal_size((120, 24)).columns), nl=False)


def _run(
    spec: "Spec",
    cells: "dict[int, Cell]",
    setups: "dict[int, Setup]",
    machine: "Machine",
    user: "Identity | None",
    output: Path | None,
    resume: bool,
    force: bool,
    as_root: bool,
    environment: dict[str, str],
) -> int:
    from bitnet_trace import host
    from bitnet_trace.experiment import journal, plan, report
    from bitnet_trace.experiment.runner import Runner
    from bitnet_trace.experiment.store import Store

    host.require_supported()
    path = output or Path(f"{spec.name}.experiment")
    if journal.leftover():
        with journal.opened() as left:
            _tell_restored(left.restore())
    facts = report.facts(spec, machine, plan.files(setups, environment))
    store = Store.existing(path, user) if resume else Store.new(path, user, facts, force)
    if resume:
        report.require_same(facts, store)
    number = 0
    try:
        with _signals():
            with ExitStack() as stack:
                changes = any(one.settings for one in setups.values())
                settings = stack.enter_context(journal.opened()) if changes else None
                locks = [store.lock, *([settings.lock] if settings else [])]
                # what failed is missing still
                done = {(one["kind"], one["block"], one["cell"]): one for one in store.results() if one["why"] is None}
                runner = Runner(cells, setups, machine, path, user, settings, spec.measure, as_root, locks, done)
                for cell in cells.values():
                    store.recordings(cell.folder)
                report.import_early()
                report.go_on(spec, runner, store, _progress)
            found = report.finish(spec, cells, setups, store, user)
    except _Ended as ended:
        number = ended.number
    except KeyboardInterrupt:
        number = signal.SIGINT
    finally:
        store.close()
    if number or _asked_to_end:
        number = number or _asked_to_end[0]
        click.echo(f"bitnet-trace: ended by signal {number}; go on with --resume -o {path}", err=True)
        return 128 + number
    click.echo(report.as_text(found, shutil.get_terminal_size((120, 24)).columns, _color()), nl=False)
    for name in ("report.html", "report.md", "results.parquet", "recordings/"):
        click.echo(f"  {path / name}")
    return 0


def _restore() -> int:
    from bitnet_trace.experiment import journal

    with journal.opened() as left:
        restored = left.restore()
    if not restored:
        click.echo("nothing was left to set back")
    _tell_restored(restored)
    return 0


def _tell_restored(restored: list[tuple[str, str, str]]) -> None:
    for path, changed, before in restored:
        click.echo(f"{path}: set back from {changed} to {before}", err=True)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end an experiment as Ctrl-C does: what was changed is set back."""

    def end(number: int, _frame: FrameType | None) -> None:
        if not _asked_to_end:  # a second one would break into the setting back
            _asked_to_end.append(number)
            raise _Ended(number)

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {one: signal.getsignal(one) for one in numbers if signal.getsignal(one) is not signal.SIG_IGN}
    for one in before:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _progress(n_done: int, n_all: int, left_s: float, now: str) -> None:
    if _asked_to_end:  # and what the handler raised was lost: it came within a finaliser
        raise _Ended(_asked_to_end[0])
    if sys.stderr.isatty():
        line = f"{n_done} of {n_all} runs, {_time(left_s)} left: {now}"
        click.echo(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", err=True, nl=False)
        if n_done == n_all:
            click.echo("\r\033[K", err=True, nl=False)


def _time(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole} s"
        if whole < 120
        else f"{whole // 60} min {whole % 60} s"
        if whole < 7200
        else f"{whole / 3600:.1f} h"
    )


def _color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")

"""`bitnet-trace loadlab`: which way of loading a model file is the fastest on this machine."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitnet_trace.commands.files import put_out, refuse_existing, with_output
from bitnet_trace.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

    from bitnet_trace.loadlab.trials import Trial
    from bitnet_trace.loadlab.ways import Task

_EXAMPLES = """\b
Examples:
  bitnet-trace loadlab model.gguf
  bitnet-trace loadlab model.gguf --state cold --repeats 10 --way mmap --way read
  bitnet-trace loadlab model.gguf --format json -o loads.json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--state", type=click.Choice(["cold", "warm", "both"]), default="both", show_default=True,
    help="Of this file in the page cache, before each trial.",
)  # fmt: skip
@click.option("--repeats", type=click.IntRange(1, 1000), default=5, show_default=True, help="Trials of each way.")
@click.option("--way", "ways", multiple=True, metavar="NAME", help="Only this way; may be given several times.")
@click.option(
    "--block", type=click.Choice(["64", "256", "1024", "4096", "16384"]), default="1024", show_default=True,
    metavar="KIB", help="How much one read asks for.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Of the random order.")
@with_output("text", "json")
def loadlab(
    model: Path,
    state: str,
    repeats: int,
    ways: tuple[str, ...],
    block: str,
    seed: int,
    form: str,
    output: Path | None,
    force: bool,
) -> int:
    """Load MODEL in every way there is, cold and warm, in random order, and rank the ways.

    Needs no root; under sudo it loads as the calling user. Cold means that this file is taken out of the page cache,
    nothing else.
    """
    from bitnet_trace.capture.identity import calling_user
    from bitnet_trace.loadlab import compare, trials
    from bitnet_trace.loadlab.ways import WAYS, Task

    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of: {'; '.join(WAYS)}", param_hint="--way")
    refuse_existing(output, force)
    path = str(model)
    user = calling_user(os.environ, as_root=False) if os.geteuid() == 0 else None
    size_bytes = trials.model_size(path)
    _check_memory(size_bytes)
    states = [trials.COLD, trials.WARM] if state == "both" else [state]
    block_bytes = int(block) << 10
    planned = trials.plan(ways or WAYS, states, repeats, seed)
    task = Task(path, size_bytes, block_bytes)
    done = []
    for trial in trials.run(task, planned, user.assume if user else lambda: None):
        done.append(trial)
        if sys.stderr.isatty():
            click.echo(f"\r{len(done)} of {len(planned)} trials", err=True, nl=len(done) == len(planned))
    found = compare.table(done, size_bytes)
    text = _as_json(task, found, done) if form == "json" else _as_text(task, found)
    put_out(text, output, force)
    checksums = {int(one) for one in found["checksum"].dropna()}
    if len(checksums) > 1:
        raise TraceError(
            "what was loaded is not the same in every way", "the file was changed meanwhile, or a disk errs"
        )
    return 0


def _check_memory(size_bytes: int) -> None:
    from bitnet_trace import host

    available = host.gather().memory_available_bytes
    if available is not None and size_bytes * 2.2 > available:
        raise TraceError(
            f"{size_bytes >> 20} MiB do not fit twice, as page cache and copy, into {available >> 20} MiB of memory",
            "take a smaller file, or one part of a split one",
        )


def _as_json(task: "Task", found: "pd.DataFrame", done: "list[Trial]") -> str:
    from dataclasses import asdict

    from bitnet_trace import host
    from bitnet_trace.columns import LOADLAB
    from bitnet_trace.render.json import SCHEMA, records

    value: dict[str, Any] = {
        "schema": SCHEMA,
        "file": task.path,
        "size_bytes": task.size_bytes,
        "block_bytes": task.block_bytes,
        "host": host.gather().to_dict(),
        "ways": records(found, LOADLAB),
        "trials": [asdict(trial) for trial in done],
        "columns": {column.key: {"help": column.help, "how": column.how} for column in LOADLAB},
    }
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _as_text(task: "Task", found: "pd.DataFrame") -> str:
    from bitnet_trace.printable import printable
    from bitnet_trace.render import loadlab_grids, text
    from bitnet_trace.render.format import size
    from bitnet_trace.render.sections import Section

    title = f"bitnet-trace loadlab: {printable(task.path, 200)}, {size(task.size_bytes)}"
    width = shutil.get_terminal_size((120, 24)).columns
    return text.render_sections(title, [Section("loadlab", "", loadlab_grids.grids(found))], width)

"""`bitnet-trace top`: see it live, or see a recording as if it were live."""

import os
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bitnet_trace.commands.tracing import (
    as_root_option,
    environment_option,
    options_of,
    require_ring,
    ring_options,
    summary,
    tracing_options,
)

# it is emptied more often than that of a recording, and a view should be small
_BUFFER_MIB = "16"
INTERVAL_S = 1.0


@click.command(
    short_help="See it live: threads, phases, tokens, functions.",
)
@click.option("-p", "--pid", type=click.IntRange(1), metavar="PID", help="Watch a process that runs already.")
@click.option(
    "-d",
    "--interval",
    type=click.FloatRange(0.1, 60),
    default=INTERVAL_S,
    show_default=True,
    metavar="S",
    help="Seconds between two frames.",
)
@click.option("--plain", is_flag=True, help="A line for each interval instead of a screen; the rule off a terminal.")
@as_root_option
@environment_option
@ring_options
@tracing_options
@click.argument("what", nargs=-1, metavar="[REC | -- CMD ...]", type=click.UNPROCESSED)
def top(
    pid: int | None,
    interval: float,
    plain: bool,
    what: tuple[str, ...],
    output: Path | None,
    quiet: bool,
    **chosen: Any,
) -> int | None:
    """Show what a program does while it runs: a command, a running process, or a recording, which is replayed.

    Nothing is kept, unless -o names a recording. What the program prints is not shown; it ends when the view of it is
    left, unless it is recorded or was there before.

    \b
    Examples:
      sudo bitnet-trace top -- llama-cli -m model.gguf -p hello -n 500
      sudo bitnet-trace top -p $(pgrep -n llama-server)
      bitnet-trace top hello.btrace
      sudo bitnet-trace top --plain -p 4711 >> llama.log
    """
    plain = plain or not sys.stdout.isatty() or not sys.stdin.isatty()
    if pid is None and not what:
        raise click.UsageError("name a recording, a command behind --, or a process with -p")
    if pid is not None and what:
        raise click.UsageError("either a process with -p, or a recording or a command")
    require_ring(chosen)
    if pid is None and len(what) == 1 and is_recording(what[0]):
        replay(Path(what[0]), interval, plain)
        return None
    if click.get_current_context().get_parameter_source("buffer") is ParameterSource.DEFAULT:
        chosen["buffer"] = _BUFFER_MIB
    options = {**chosen, "output": output, "record": output is not None and not chosen["ring_s"]}
    options["no_output"] = not options["record"]
    return watch(pid, what, interval, plain, quiet, options)


def is_recording(word: str) -> bool:
    """Whether a word names a recording and not a program."""
    return Path(word).is_dir() or word.endswith(".btrace")


def watch(
    pid: int | None, command: tuple[str, ...], interval_s: float, plain: bool, quiet: bool, chosen: dict[str, Any]
) -> int:
    """Traces a process or a command with a view of it. Returns the exit code."""
    from bitnet_trace.capture import identity
    from bitnet_trace.live.screen import Screen, plain_lines

    identity.require_root()
    user = identity.calling_user(os.environ, as_root=False)
    # before anything is started: the screen's process has as little of ours as possible
    with plain_lines() if plain else Screen(user) as show:
        from bitnet_trace.capture.attach import attach
        from bitnet_trace.capture.session import trace
        from bitnet_trace.capture.tracing import tell
        from bitnet_trace.capture.view import View

        options = options_of(view=View(show, interval_s), **chosen)
        result = trace(command, options) if pid is None else attach(pid, options, quiet=True)
    if chosen["record"] and not quiet:
        for line in summary(result):
            tell(line)
    return 0 if pid is not None else result.exit_code()


def replay(path: Path, interval_s: float, plain: bool) -> None:
    """Shows a recording from its beginning to its end."""
    from bitnet_trace.live.plain import line
    from bitnet_trace.live.replay import Replay
    from bitnet_trace.recording.reader import open_recording

    recording = Replay(open_recording(path))
    if not plain:
        from bitnet_trace.live.replay_app import run_replay

        run_replay(recording, interval_s)
        return
    at_ns = 0
    while at_ns < recording.length_ns:
        at_ns += round(interval_s * 1e9)
        click.echo(line(recording.advance(at_ns)))

"""`bitnet-trace demo`: the whole way, from a model to a report, on a workload that is always at hand."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from bitnet_trace.capture.identity import Identity, calling_user, require_root
from bitnet_trace.errors import TraceError

PROMPT_TOKENS = 32


def make_model(size: str, identity: Identity | None) -> Path:
    """The path of the cached model, written by a process of the user that it is for.

    A process of its own: root never writes below a user's home, and the model's library stays out of the tracer.
    """
    command = [sys.executable, "-I", "-m", "bitnet_trace.demo.model", size]
    as_user: dict[str, Any] = {}
    if identity is not None:
        as_user = {"user": identity.uid, "group": identity.gid, "extra_groups": list(identity.groups), "cwd": "/"}
        as_user["env"] = {"HOME": identity.home, "PATH": os.defpath}
    unreadable = TraceError(
        f"{identity.name if identity else 'this user'} cannot read {sys.executable} or {Path(__file__).parents[1]}",
        "install bitnet-trace where that user can read it: the demo's program runs as that user",
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **as_user)
    except PermissionError:
        raise unreadable from None
    if "No module named 'bitnet_trace" in done.stderr:
        raise unreadable
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the demo's model cannot be written"])[-1]
        raise TraceError(reason, "the cache is below XDG_CACHE_HOME or ~/.cache: it needs 60 MB of room")
    return Path(done.stdout.strip())


def decode_command(model: Path, tokens: int, threads: int | None, mapped: bool = True) -> list[str]:
    """The program that is traced. -I: what lies in the current folder or in PYTHONPATH is no part of it."""
    options = [f"--prompt-tokens={PROMPT_TOKENS}", f"--tokens={tokens}"]
    if threads is not None:
        options.append(f"--threads={threads}")
    if not mapped:
        options.append("--no-mmap")
    return [sys.executable, "-I", "-m", "bitnet_trace.demo.decode", str(model), *options]


def next_commands(recording: Path) -> list[str]:
    """What is printed last."""
    return [
        "",
        "Next:",
        f"  bitnet-trace report {recording}",
        f"  bitnet-trace report {recording} --format json",
        "  sudo bitnet-trace run -- llama-cli -m model.gguf -p hello -n 32",
    ]


@click.command()
@click.option("--size", type=click.Choice(["default", "tiny"]), default="default", help="The model: 57 MB or 2 MB.")
@click.option("--tokens", type=click.IntRange(1, 512), default=32, show_default=True, help="Tokens to generate.")
@click.option("--threads", type=click.IntRange(1, 512), help="Threads of the engine; default: one per allowed CPU.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="demo.btrace", show_default=True, help="The recording."
)
@click.option("--force", is_flag=True, help="Replace the recording when it exists.")
@click.option(
    "--detail", type=click.Choice(["counts", "events", "ops"]), default="events", show_default=True, help="As in run."
)
@click.option("--no-mmap", is_flag=True, help="The engine reads the model instead of mapping it.")
@click.pass_context
def demo(
    ctx: click.Context,
    size: str,
    tokens: int,
    threads: int | None,
    output: Path,
    force: bool,
    detail: str,
    no_mmap: bool,
) -> int:
    """All of it on an embedded workload: make a model, trace its decoding, show the report.

    The model is a ternary (TQ2_0) one with random weights, kept in the user's cache; the engine is llama.cpp in the
    xllamacpp wheel, loaded by a Python program as it runs.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise TraceError("the demo's engine is not installed", f"{sys.executable} -m pip install xllamacpp")
    from bitnet_trace.capture.options import Options
    from bitnet_trace.capture.session import trace

    require_root()
    model = make_model(size, calling_user(os.environ, as_root=False))
    command = decode_command(model, tokens, threads, mapped=not no_mmap)
    click.echo(f"tracing: {' '.join(command)}", err=True)
    result = trace(command, Options(output=output, force=force, detail=detail))
    if result.exit_status == 0:
        from bitnet_trace.commands.report import report

        ctx.invoke(report, recording=result.recording, form="text", output=None, force=False)
        for line in next_commands(result.recording):
            click.echo(line)
    return result.exit_code()

"""`bitnet-trace run`: trace a program from its first instruction."""

import sys
from typing import Any

import click

from bitnet_trace.commands.tracing import as_root_option, environment_option, options_of, summary, tracing_options


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example: sudo bitnet-trace run -o hello.btrace -- llama-cli -m model.gguf -p hello -n 32",
)
@click.option("--no-output", is_flag=True, help="Keep nothing of what the program prints (prompts are private).")
@environment_option
@as_root_option
@click.option(
    "--allow-system-changes",
    is_flag=True,
    help="Set kernel.task_delayacct=1 for the run, and back after it: disk and memory delays per thread.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Watch it meanwhile, as with `top`; what the program prints is in the recording's stdout.log.",
)
@tracing_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], quiet: bool, live: bool, **chosen: Any) -> int:
    """Trace COMMAND from before its first instruction to its exit, and record it.

    The exit code is COMMAND's; 128+N when signal N ended it. Read the recording with: bitnet-trace report
    """
    if live:
        from bitnet_trace.commands.top import INTERVAL_S, watch

        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise click.UsageError("--live needs a terminal; lines for a log: bitnet-trace top --plain -o REC -- CMD")
        return watch(None, command, INTERVAL_S, False, quiet, {**chosen, "record": True})
    from bitnet_trace.capture.session import trace
    from bitnet_trace.capture.tracing import tell

    result = trace(command, options_of(**chosen))
    if not quiet:
        for line in summary(result):
            tell(line)
    return result.exit_code()

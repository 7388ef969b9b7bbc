"""`bitnet-trace attach`: trace a program that runs already."""

from typing import Any

import click

from bitnet_trace.commands.run import ring_options, tracing_options


@click.command(
    short_help="Trace a program that runs already.",
    epilog="Example: sudo bitnet-trace attach -p $(pgrep -n llama-server) --duration 30 -o busy.btrace",
)
@click.option("-p", "--pid", type=click.IntRange(1), required=True, metavar="PID", help="The process to trace.")
@click.option(
    "--duration", type=click.FloatRange(0.1), metavar="S", help="For so many seconds; default: until Ctrl-C or its end."
)
@ring_options
@tracing_options
def attach(pid: int, duration: float | None, quiet: bool, **chosen: Any) -> None:
    """Trace process PID, and all that it has started, from now on, and record it.

    The process is not stopped: it goes on as before while it is traced, and after. Ctrl-C ends the recording, not the
    process. What it does is counted from now on; which phase it is in is known from its next call of the engine.
    """
    from bitnet_trace.capture.attach import attach as trace
    from bitnet_trace.capture.session import tell
    from bitnet_trace.commands.run import options_of, require_ring, summary

    require_ring(chosen)
    view = None
    if chosen["ring_s"]:
        from bitnet_trace.capture.view import View

        view = View(lambda _frame: False, interval_s=1.0)  # it says which tokens are slow
    result = trace(pid, options_of(view=view, **chosen), duration, quiet)
    if not quiet and not view:
        for line in summary(result):
            tell(line)

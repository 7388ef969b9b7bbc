"""`bitnet-trace attach`: trace a program that runs already."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from bitnet_trace.commands.tracing import ring_options, tracing_options

if TYPE_CHECKING:
    from bitnet_trace.live.model import Frame

_INTERVAL_S = 1.0


def _address(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    from bitnet_trace.live.prometheus import address_of

    try:
        return address_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def exporter(address: tuple[str, int] | None) -> AbstractContextManager[Callable[["Frame"], bool]]:
    """What gets frames: something that serves them, or nobody."""
    if address is None:
        return contextlib.nullcontext(lambda _frame: False)
    from bitnet_trace.live.prometheus import Exporter

    return Exporter(*address)


@click.command(
    short_help="Trace a program that runs already.",
    epilog="Example: sudo bitnet-trace attach -p $(pgrep -n llama-server) --duration 30 -o busy.btrace",
)
@click.option("-p", "--pid", type=click.IntRange(1), required=True, metavar="PID", help="The process to trace.")
@click.option(
    "--duration", type=click.FloatRange(0.1), metavar="S", help="For so many seconds; default: until Ctrl-C or its end."
)
@click.option(
    "--prometheus",
    callback=_address,
    metavar="ADDR:PORT",
    help="Serve the figures at http://ADDR:PORT/metrics; a PORT alone is of this machine only. Records only with -o.",
)
@ring_options
@tracing_options
def attach(pid: int, duration: float | None, prometheus: tuple[str, int] | None, quiet: bool, **chosen: Any) -> None:
    """Trace process PID, and all that it has started, from now on, and record it.

    The process is not stopped: it goes on as before while it is traced, and after. Ctrl-C ends the recording, not the
    process. What it does is counted from now on; which phase it is in is known from its next call of the engine.
    """
    from bitnet_trace.capture.attach import attach as trace
    from bitnet_trace.capture.identity import require_root
    from bitnet_trace.capture.tracing import tell
    from bitnet_trace.commands.tracing import options_of, require_ring, summary

    require_ring(chosen)
    require_root()
    with exporter(prometheus) as show:
        view = None
        if chosen["ring_s"] or prometheus:
            from bitnet_trace.capture.view import View

            view = View(show, interval_s=_INTERVAL_S)  # also says which tokens are slow
            chosen["record"] = chosen["output"] is not None or not prometheus
        result = trace(pid, options_of(view=view, **chosen), duration, quiet)
    if not quiet and (view is None or (chosen["record"] and not chosen["ring_s"])):
        for line in summary(result):
            tell(line)

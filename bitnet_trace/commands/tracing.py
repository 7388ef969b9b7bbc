"""What the commands that trace share: their options, and what is said at the end."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

if TYPE_CHECKING:
    from bitnet_trace.capture.options import Options
    from bitnet_trace.capture.session import Result

_Command = Callable[..., Any]

_BUFFER_SIZES = [str(1 << n) for n in range(11)]


def _environment(_context: click.Context, _parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair or pair.startswith("="):
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _counter_names(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    from bitnet_trace.capture.perf_events import split_names

    names = split_names(text)
    if not names:
        raise click.BadParameter("no name of a counter in it")
    return tuple(names)


class Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`60`, `60s`, `2m`, `1h`, as seconds."""

    name = "time"
    _UNITS: ClassVar = {"s": 1, "m": 60, "h": 3600}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        number, unit = (text[:-1], text[-1]) if text[-1:] in self._UNITS else (text, "s")
        try:
            seconds = float(number) * self._UNITS[unit]
        except ValueError:
            seconds = 0.0
        if not 1 <= seconds <= 3600:
            self.fail(f"{text!r} is no time between 1s and 1h", param, ctx)
        return seconds


_TRACING = (
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        help="The recording; default of run and attach: NAME-DATE-TIME.btrace here.",
    ),
    click.option("--force", is_flag=True, help="Replace the recording when it exists."),
    click.option(
        "--detail",
        type=click.Choice(["counts", "events", "ops"]),
        default="events",
        show_default=True,
        help="counts: sums per thread and phase, kept in the kernel. events: every event, with its time. "
        "ops: operations of the engine's graph too, in windows.",
    ),
    click.option(
        "--buffer",
        type=click.Choice(_BUFFER_SIZES),
        default="64",
        show_default=True,
        metavar="MIB",
        help="The kernel's event buffer in MiB, a power of two.",
    ),
    click.option(
        "--sample-freq",
        type=click.IntRange(0, 999),
        default=99,
        show_default=True,
        metavar="HZ",
        help="Timer samples of where the program is, a second and CPU; 0: none.",
    ),
    click.option(
        "--debug-info",
        is_flag=True,
        help="Name inlined functions of files above 24 MB too: their debug information takes seconds to read, "
        "at the end.",
    ),
    click.option(
        "--overhead-budget",
        type=click.FloatRange(0, 100),
        default=2.0,
        show_default=True,
        metavar="PCT",
        help="What tracing may cost the program. What is always on is paid for first; what is left of it goes to "
        "windows: moments in which barriers are looked at. 0: none; 100: without bound.",
    ),
    click.option(
        "--page-sizes",
        is_flag=True,
        help="Resident memory by page size every second and at each process's end, with the sizes of folios.",
    ),
    click.option(
        "--functions",
        multiple=True,
        metavar="NAME",
        help="Count the calls of a function, in windows as the budget allows; `*` is any text. May be given several "
        "times.",
    ),
    click.option(
        "--counters",
        callback=_counter_names,
        metavar="NAMES",
        help="Count events by perf's names, per thread and phase: `cycles,instructions,dTLB-load-misses`, "
        "`cpu/event=0x3c/u`, `sched:sched_switch`; or a set: software, hardware, default (both).",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing of our own when all went well."),
)


environment_option = click.option(
    "--env",
    "environment",
    multiple=True,
    callback=_environment,
    metavar="K=V",
    help="Set in the program's environment (sudo drops most of yours).",
)

as_root_option = click.option(
    "--as-root", is_flag=True, help="Under sudo: run the program as root, not as the calling user."
)

_RING = (
    click.option(
        "--ring",
        "ring_s",
        type=Seconds(),
        metavar="S",
        help="Flight recorder: keep only the last seconds (60s, 2m), and record them when SIGUSR1 comes, a token is "
        "slow, or (top) `w` is pressed.",
    ),
    click.option(
        "--slower",
        "slower_ms",
        type=click.FloatRange(0, min_open=True),
        metavar="MS",
        help="With --ring: record when a decode call takes longer than so many ms.",
    ),
)


def ring_options(command: _Command) -> _Command:
    """The options of the flight recorder."""
    return _with(_RING, command)


def tracing_options(command: _Command) -> _Command:
    """The options that all commands have which trace."""
    return _with(_TRACING, command)


def _with(options: tuple[Callable[[_Command], _Command], ...], command: _Command) -> _Command:
    """The command with these options, in this order."""
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def require_ring(chosen: dict[str, Any]) -> None:
    """Raises UsageError when --slower stands alone."""
    if chosen["slower_ms"] is not None and chosen["ring_s"] is None:
        raise click.UsageError("--slower needs --ring: how many seconds are to be recorded")


def options_of(buffer: str, no_output: bool = False, **chosen: Any) -> "Options":
    """What the options of `tracing_options` say; others by the names of Options' fields."""
    from bitnet_trace.capture.options import Options
    from bitnet_trace.capture.sizes import Rings

    return Options(
        rings=Rings(events=int(buffer) << 20),
        keep_output=not no_output,
        sample_frequency=chosen.pop("sample_freq"),
        debug_information=chosen.pop("debug_info"),
        overhead_budget_pct=chosen.pop("overhead_budget"),
        **chosen,
    )


def summary(result: "Result") -> Iterator[str]:
    """What is said at the end of a run: how much was seen, what was lost, and what to type next."""
    from bitnet_trace.analysis.health import health

    meta = dict(result.meta)
    found = health(meta, n_stored=0, complete=True, warnings=[])
    coverage = 100.0 if found["coverage_pct"] is None else found["coverage_pct"]
    engine = meta["engine"] or "not recognised"
    yield f"{found['events']:,} events, {found['lost']:,} lost, coverage {coverage:.2f} %, engine {engine}"
    yield from found["warnings"]
    if "decode" in found["never_hit"]:
        yield "the engine's decode function was probed and never called: no phases"
    yield f"bitnet-trace report {result.recording}"

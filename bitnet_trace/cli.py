"""The command line: a group that imports a subcommand when it is named, and the exit codes.

| exit | when |
|---|---|
| 0 | done |
| the traced program's | `run`, `demo` (128 + N when signal N ended it) |
| 1 | something the user can mend: `bitnet-trace: MESSAGE`, then `  hint: WHAT TO DO` |
| 2 | wrong usage (click's own) |
| 130, 141 | interrupted (by SIGINT itself, so that a shell's loop ends too), reader of our output gone |

No logic here. A subcommand returns its exit code (None is 0); only this module ends the process.
BITNET_TRACE_DEBUG=1 shows the traceback of any error.
"""

import importlib
import io
import os
import sys
from typing import Any, NoReturn

import click

from bitnet_trace import __version__
from bitnet_trace.errors import TraceError
from bitnet_trace.printable import printable

READER_GONE = 141
_LINE_LIMIT = 1000

# name: (module:attribute, line in `bitnet-trace --help`). The line is here so that --help imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("bitnet_trace.commands.run:run", "Trace a program from its first instruction."),
    "attach": ("bitnet_trace.commands.attach:attach", "Trace a program that runs already."),
    "top": ("bitnet_trace.commands.top:top", "See it live: threads, phases, tokens, functions; or replay a recording."),
    "report": ("bitnet_trace.commands.report:report", "Show a recording: phases, threads, faults, waits, advice."),
    "compare": ("bitnet_trace.commands.compare:compare", "Which differences between recordings are real, and why."),
    "export": ("bitnet_trace.commands.export:export", "A recording for trace viewers, flame graphs, data frames."),
    "experiment": (
        "bitnet_trace.commands.experiment:experiment",
        "Which settings make a command faster, and why.",
    ),
    "probes": ("bitnet_trace.commands.probes:probes", "Show what would be probed in a binary, where, at what cost."),
    "loadlab": ("bitnet_trace.commands.loadlab:loadlab", "Which way of loading a model file is the fastest here."),
    "doctor": ("bitnet_trace.commands.doctor:doctor", "What this machine can do, and the fix for what it can't."),
    "demo": ("bitnet_trace.commands.demo:demo", "All of it on an embedded workload."),
}


class LazyGroup(click.Group):
    """A group whose commands are `COMMANDS`: start-up pays for the one that is called, not for pandas in another."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """The exit code of the subcommand, with click's exceptions let through and all others told in a line."""
        try:
            code = super().invoke(ctx)
            if sys.stdout is not None:  # None: our caller has closed it
                sys.stdout.flush()
            return code
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            raise click.Abort from None
        except BrokenPipeError:
            # The flush at exit would fail once more, and be reported.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return READER_GONE
        except Exception as error:
            if os.environ.get("BITNET_TRACE_DEBUG"):
                raise
            for line in describe(error):
                click.echo(line, err=True)
            return 1


def describe(error: Exception) -> list[str]:
    """What is printed for an error: what is wrong, then what to do."""
    if isinstance(error, TraceError):
        message, hint = error.message, error.hint
    elif isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        message, hint = f"{where}{error.strerror}", "check the path, its permissions, and the room on the disk"
    else:
        message = f"internal error: {type(error).__name__}: {error}"
        hint = "run it again with BITNET_TRACE_DEBUG=1 and report the traceback"
    lines = [f"bitnet-trace: {printable(message, _LINE_LIMIT)}"]
    return [*lines, f"  hint: {printable(hint, _LINE_LIMIT)}"] if hint else lines


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bitnet-trace", message="%(prog)s %(version)s")
def cli() -> None:
    """Trace CPU LLM inference from the kernel's side.

    In which phase, thread and tensor did page faults, TLB work, context switches, waits and I/O happen, and what did
    they cost? Start with: sudo bitnet-trace run -- llama-cli -m model.gguf -p "..."
    """


def main() -> NoReturn:
    _open_standard_streams()
    try:
        sys.exit(cli.main(prog_name="bitnet-trace", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None  # of which Python dies by SIGINT, after all that is to be done at an exit
    except OSError as error:  # the text of --help or --version cannot be written
        for line in describe(error):
            click.echo(line, err=True)
        sys.exit(1)


def _open_standard_streams() -> None:
    """Where the caller closed them (`>&-`): else the next file that is opened would be in their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a file name that is no text is shown as it can be, in every locale
        sys.stdout.reconfigure(errors="backslashreplace")

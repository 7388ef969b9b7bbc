"""Where commands print tables: a terminal, or what reads them from a pipe."""

import os
import sys

from rich.console import Console

_PIPE_WIDTH = 160


class _OwnConsole(Console):
    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 (called where BrokenPipeError is handled): the group has an exit code for it


def console() -> Console:
    """As wide as the terminal or COLUMNS; a pipe has no width, so lines are long there."""
    fits = sys.stdout.isatty() or "COLUMNS" in os.environ
    return _OwnConsole(width=None if fits else _PIPE_WIDTH, highlight=False)

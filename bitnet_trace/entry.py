"""Where the command begins: an interrupt ends it without a traceback, also while Python is still importing."""

import sys

_show = sys.excepthook
sys.excepthook = lambda kind, *rest: None if kind is KeyboardInterrupt else _show(kind, *rest)

import signal  # noqa: E402 - these take milliseconds, in which an interrupt may come
from typing import NoReturn  # noqa: E402


def main() -> NoReturn:
    """The command line, `bitnet_trace.cli`, from its first import on."""
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, as in the background
    if handled:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bitnet_trace import cli

    if handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()

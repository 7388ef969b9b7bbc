"""Where the command begins: an interrupt while Python is still importing ends it without a traceback."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """The command line, `bitnet_trace.cli`, from its first import on."""
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, as in the background
    if handled:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bitnet_trace import cli

    if handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()

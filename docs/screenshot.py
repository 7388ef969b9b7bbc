"""A picture of the beginning of a report, as a terminal shows it: `python docs/screenshot.py RECORDING PICTURE.svg`."""

import io
import sys

from rich.console import Console
from rich.text import Text

import bitnet_trace
from bitnet_trace.render.text import render

WIDTH, LINES = 84, 52


def main(recording: str, picture: str) -> None:
    shown = render(bitnet_trace.open(recording), WIDTH, color=True).splitlines()[:LINES]
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ bitnet-trace report hello.btrace", style="bold"))
    console.print(Text.from_ansi("\n".join(shown)))
    console.save_svg(picture, title="bitnet-trace")


if __name__ == "__main__":
    main(*sys.argv[1:])

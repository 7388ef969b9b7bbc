"""A picture of the beginning of a report, as a terminal shows it: `python docs/screenshot.py RECORDING PICTURE.svg`."""

import io
import re
import sys
from pathlib import Path

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
    # the fonts that rich refers to lie on the net; a terminal's own will do
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="bitnet-trace"), flags=re.DOTALL)
    Path(picture).write_text(svg)


if __name__ == "__main__":
    main(*sys.argv[1:])

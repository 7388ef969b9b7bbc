"""Pictures of a report, as a terminal and as a browser show it: `python docs/screenshot.py RECORDING FOLDER`.

Makes report.svg, and with Chromium report-desktop.png, report-dark.png and report-phone.png.
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

import bitnet_trace
from bitnet_trace.render import html, text

WIDTH, LINES = 84, 52
# Chromium's windows are at least 500 wide; that is a large phone.
PAGES = {
    "report-desktop.png": (1200, 1500, []),
    "report-dark.png": (1200, 900, ["--blink-settings=preferredColorScheme=0"]),
    "report-phone.png": (500, 1000, []),
}


def main(recording: str, folder: str) -> None:
    report = bitnet_trace.open(recording)
    shown = text.render(report, WIDTH, color=True).splitlines()[:LINES]
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ bitnet-trace report {Path(recording).name}", style="bold"))
    console.print(Text.from_ansi("\n".join(shown)))
    # the fonts that rich refers to lie on the net; a terminal's own will do
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="bitnet-trace"), flags=re.DOTALL)
    (Path(folder) / "report.svg").write_text(svg)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no Chromium for pictures of the HTML report: make browser")
    with tempfile.TemporaryDirectory() as temporary:
        page = Path(temporary) / "report.html"
        page.write_text(html.render(report))
        for name, (width, height, options) in PAGES.items():
            command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
            command += [f"--user-data-dir={temporary}/profile", "--virtual-time-budget=8000"]
            command += [
                f"--window-size={width},{height}",
                f"--screenshot={Path(folder).absolute() / name}",
                page.as_uri(),
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=300)


if __name__ == "__main__":
    main(*sys.argv[1:])

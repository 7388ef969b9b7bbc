"""Pictures of a report, as a terminal and as a browser show it: `python docs/screenshot.py RECORDING FOLDER`.

Makes report.svg, top.svg and top-faults.svg, and with Chromium report-desktop.png, report-dark.png and
report-phone.png.
"""

import asyncio
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
from bitnet_trace.live.replay import Replay
from bitnet_trace.live.replay_app import ReplayApp
from bitnet_trace.live.tabs import TABS
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.render import html, text

WIDTH, LINES = 84, 52
# Chromium's windows are at least 500 wide; that is a large phone.
PAGES = {
    "report-desktop.png": (1200, 1500, []),
    "report-dark.png": (1200, 900, ["--blink-settings=preferredColorScheme=0"]),
    "report-phone.png": (500, 1000, []),
}


async def live_view(recording: str, tab: str) -> str:
    """A tab of the screen of `bitnet-trace top RECORDING` at nine tenths of its length, as SVG."""
    opened = open_recording(recording)
    opened.meta["command"] = [Path(word).name for word in opened.meta["command"]]  # whose machine it was is no matter
    app = ReplayApp(Replay(opened), interval_s=1.0)
    app.paused = True
    async with app.run_test(size=(110, 26)) as pilot:
        app.at_ns = 0
        app.move(0.85 * app.recording.length_ns / 1e9)
        app.move(0.05 * app.recording.length_ns / 1e9)
        app.action_go(list(TABS).index(tab))
        await pilot.pause()
        return app.export_screenshot(title="bitnet-trace top")


def main(recording: str, folder: str) -> None:
    report = bitnet_trace.open(recording)
    shown = text.render(report, WIDTH, color=True).splitlines()[:LINES]
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ bitnet-trace report {Path(recording).name}", style="bold"))
    console.print(Text.from_ansi("\n".join(shown)))
    # the fonts that rich refers to lie on the net; a terminal's own will do
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="bitnet-trace"), flags=re.DOTALL)
    (Path(folder) / "report.svg").write_text(svg)
    for name, tab in (("top.svg", "Threads"), ("top-faults.svg", "Faults")):
        top = asyncio.run(live_view(recording, tab))
        (Path(folder) / name).write_text(re.sub(r"@font-face \{.*?\}", "", top, flags=re.DOTALL))
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

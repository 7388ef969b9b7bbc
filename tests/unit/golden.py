"""What reports of known recordings look like, kept in tests/golden; `python tests/unit/golden.py` writes it anew.

`events` and `counts` are recordings of the demo (5 tokens, 2 threads) that were made once, and stay: what an older
version has recorded can still be read. `everything` is a hand-made one, with what those lack.
"""

import html as html_module
import json
import re
import tarfile
import tempfile
from pathlib import Path

from everything import write_everything

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.reader import Recording, open_recording
from bitnet_trace.render import html, markdown, text
from bitnet_trace.render import json as json_form

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = ("events", "counts", "everything")
_WIDTH = 100
_HEADING_OR_CELLS = re.compile(r"<(h[1-6]|caption|tr)\b[^>]*>(.*?)</\1>", re.DOTALL)
_CELL = re.compile(r"<t[dh]\b[^>]*>(.*?)</t[dh]>", re.DOTALL)


def recording(name: str, folder: Path) -> Recording:
    """That recording, written to or unpacked in `folder`."""
    if name == "everything":
        return open_recording(write_everything(folder / "everything.btrace"))
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(folder)
    return open_recording(folder / f"{name}.btrace")


def outputs(of: Recording) -> dict[str, str]:
    """{file name's end: what a report of it says}."""
    report = build_report(of)
    return {
        "txt": text.render(report, _WIDTH),
        "md": markdown.render(report),
        "json": _compact(json_form.render(report)),
        "html.txt": tables(html.render(report)),
    }


def tables(page: str) -> str:
    """The headings and tables of an HTML report, a line each: what is drawn is left out."""
    lines = []
    for tag, inside in _HEADING_OR_CELLS.findall(page):
        cells = _CELL.findall(inside) if tag == "tr" else [f"# {inside}"]
        lines.append(" | ".join(html_module.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in cells))
    return "\n".join(lines) + "\n"


def _compact(output: str) -> str:
    """JSON with a line for each row of a table."""
    lines = []
    for key, value in json.loads(output).items():
        if isinstance(value, list):
            lines.append(f"{json.dumps(key)}:")
            lines += [f"  {json.dumps(row)}" for row in value]
        elif isinstance(value, dict):
            lines.append(f"{json.dumps(key)}:")
            for name, inner in value.items():
                if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                    lines.append(f"  {json.dumps(name)}:")
                    lines += [f"    {json.dumps(row)}" for row in inner]
                else:
                    lines.append(f"  {json.dumps(name)}: {json.dumps(inner)}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def renew() -> None:
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            for end, output in outputs(recording(name, Path(folder))).items():
                (FOLDER / f"{name}.{end}").write_text(output)


if __name__ == "__main__":
    renew()

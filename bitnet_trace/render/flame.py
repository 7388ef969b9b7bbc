"""A flame graph as one HTML page that needs no other file: width is time, a frame stands on its caller."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from zlib import crc32

from bitnet_trace.analysis.stacks import Stacks
from bitnet_trace.printable import printable
from bitnet_trace.render.format import duration, percent

_WIDTH, _ROW, _LEAST = 1200.0, 18, 0.4
_LETTER = 6.6
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff }}
svg {{ width: 100%; height: auto; font: 11px ui-monospace, monospace }}
rect {{ stroke: #fff; stroke-width: .5 }}
g:hover rect {{ stroke: #000 }}
text {{ pointer-events: none }}
p {{ max-width: 60em }}
</style></head><body>
<h1>{title}</h1><p>{subtitle}</p>
<svg viewBox="0 0 {width:.0f} {height}" role="img" aria-label="{title}">
{frames}
</svg></body></html>
"""


@dataclass
class _Frame:
    ns: int = 0
    inner: dict[str, "_Frame"] = field(default_factory=dict)


def render(stacks: Stacks, title: str, subtitle: str) -> str:
    """The page; text that came from the traced program is escaped."""
    root = _Frame()
    for stack, ns in stacks.items():
        frame = root
        frame.ns += ns
        for name in stack:
            frame = frame.inner.setdefault(name, _Frame())
            frame.ns += ns
    depth = max((len(stack) for stack in stacks), default=0) + 1
    drawn = "\n".join(_boxes("all", root, 0.0, 0, depth, root.ns)) if root.ns else ""
    return _PAGE.format(
        title=escape(printable(title, 200)),
        subtitle=escape(printable(subtitle, 400)),
        width=_WIDTH,
        height=depth * _ROW,
        frames=drawn,
    )


def _boxes(name: str, frame: _Frame, x: float, level: int, depth: int, total_ns: int) -> Iterator[str]:
    width = _WIDTH * frame.ns / total_ns
    if width < _LEAST:
        return
    y = (depth - 1 - level) * _ROW
    text = printable(name, 200)
    told = f"{text}: {duration(frame.ns)}, {percent(100 * frame.ns / total_ns)}"
    room = int(width / _LETTER)
    shown = text if len(text) <= room else text[: room - 1] + "…" if room > 3 else ""
    label = f'<text x="{x + 3:.1f}" y="{y + 13}">{escape(shown)}</text>' if shown else ""
    yield (
        f'<g><title>{escape(told)}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 1}" '
        f'fill="{_color(name)}"/>{label}</g>'
    )
    for inner_name, inner in sorted(frame.inner.items()):
        yield from _boxes(inner_name, inner, x, level + 1, depth, total_ns)
        x += _WIDTH * inner.ns / total_ns


def _color(name: str) -> str:
    """Warm, and the same for one name in every picture; the kernel's and unknown ones are grey."""
    number = crc32(name.encode())
    if name.startswith("["):
        return f"hsl(210 10% {75 + number % 10}%)"
    return f"hsl({number % 45 + 10} 85% {62 + number // 45 % 14}%)"

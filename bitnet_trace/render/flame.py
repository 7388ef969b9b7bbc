"""Flame graphs as frames for HTML: width is time, a frame hangs below its caller."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from zlib import crc32

from bitnet_trace.analysis.stacks import Stacks
from bitnet_trace.printable import printable
from bitnet_trace.render.format import duration, percent
from bitnet_trace.render.templates import page

_LEAST_PCT = 0.05
_NAME_LIMIT = 200


@dataclass(frozen=True)
class Frame:
    """One box: `left` and `width` in percent of the picture, `level` from 0 at the top."""

    name: str
    told: str
    left: float
    width: float
    level: int
    color: str


@dataclass(frozen=True)
class Flame:
    """One flame graph; `depth` is how many levels it has. `left_out` boxes were too narrow to be seen."""

    title: str
    frames: list[Frame]
    depth: int
    left_out: int


@dataclass
class _Node:
    ns: int = 0
    inner: dict[str, "_Node"] = field(default_factory=dict)


def flame(stacks: Stacks, title: str) -> Flame:
    """The graph of stacks that are outermost frame first."""
    root = _Node()
    for stack, ns in stacks.items():
        node = root
        node.ns += ns
        for name in stack:
            node = node.inner.setdefault(name, _Node())
            node.ns += ns
    every = list(_frames("all", root, 0.0, 0, root.ns)) if root.ns else []
    shown = [frame for frame in every if frame.width >= _LEAST_PCT]
    depth = max((frame.level for frame in shown), default=0) + 1
    return Flame(title, shown, depth, len(every) - len(shown))


def render(stacks: Stacks, title: str, subtitle: str) -> str:
    """A page of its own; text that came from the traced program is escaped."""
    shown = printable(title, _NAME_LIMIT)
    return page("flame.html.j2", title=shown, subtitle=printable(subtitle, 400), flame=flame(stacks, shown))


def _frames(name: str, node: _Node, left: float, level: int, total_ns: int) -> Iterator[Frame]:
    width = 100 * node.ns / total_ns
    text = printable(name, _NAME_LIMIT)
    told = f"{text}: {duration(node.ns)}, {percent(width)}"
    yield Frame(text, told, round(left, 3), round(width, 3), level, _color(name))
    for inner_name, inner in sorted(node.inner.items()):
        yield from _frames(inner_name, inner, left, level + 1, total_ns)
        left += 100 * inner.ns / total_ns


def _color(name: str) -> str:
    """Warm, and the same for one name in every picture; the kernel's and unknown ones are grey."""
    number = crc32(name.encode(errors="surrogatepass"))
    if name.startswith("["):
        return f"hsl(210 10% {75 + number % 10}%)"
    return f"hsl({number % 45 + 10} 85% {62 + number // 45 % 14}%)"

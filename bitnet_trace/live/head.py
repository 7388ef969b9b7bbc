"""What every screen of the live view has above and below its table."""

from rich.text import Text

from bitnet_trace.columns import PARTS
from bitnet_trace.live.model import Frame
from bitnet_trace.live.plain import rate
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, duration

# a letter and a colour for each of columns.PARTS, and for a call that is not over
PART_MARKS = {
    "compute_ns": ("C", "green"),
    "spin_ns": ("S", "yellow"),
    "runq_ns": ("R", "red"),
    "fault_ns": ("F", "magenta"),
    "futex_ns": ("X", "blue"),
    "io_ns": ("I", "cyan"),
    "rest_ns": ("O", "white"),
    "open": (".", "white"),
}
_SEVERITIES = {"critical": "bold red", "warning": "yellow", "note": "cyan"}


def header(frame: Frame, note: str) -> Text:
    """Four lines: what runs, how far it is, how fast, and how much of it was seen. `note`: the view's own state."""
    command = printable(" ".join(frame.command), 300)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{frame.engine or 'engine ' + MISSING}", "bold")
    text.append(f"  {command}\n")
    style = "bold red" if frame.ended else "bold yellow" if frame.status == "stopped" else "green"
    text.append(frame.status, style)
    text.append(f"  {frame.elapsed_ns / 1e9:.1f} s  phase ")
    text.append(frame.phase or MISSING, "bold")
    text.append(f"  tokens {_number(frame.prompt_tokens)} + {_number(frame.decoded_tokens)}")
    text.append(f"  {note}\n", "reverse" if note else "")
    text.append("decode ")
    text.append(f"{rate(frame.tokens_per_s_now)} tok/s", "bold")
    text.append(f" now, {rate(frame.tokens_per_s)} mean  prefill {rate(frame.prefill_tokens_per_s)} tok/s")
    text.append(f"  TTFT {MISSING if frame.ttft_ns is None else duration(frame.ttft_ns)}\n")
    lost = frame.lost or 0
    text.append(f"events {frame.events_per_s:,.0f}/s  ")
    text.append(f"lost {_number(frame.lost)}", "bold red" if lost else "")
    text.append(f"  tracer {_percent(frame.own_cpu_pct)} of a CPU  overhead {_percent(frame.overhead_pct)} est.")
    return text


def strip(frame: Frame, width: int) -> Text:
    """The last calls, a letter each for what took most of its time, the newest at the right; and the legend."""
    legend = Text(" ")
    for part in PARTS:
        letter, style = PART_MARKS[part.key]
        legend.append(letter, f"bold {style}")
        legend.append(f" {part.title} ")
    room = max(width - len(legend) - 1, 20)
    text = Text(no_wrap=True)
    for token in frame.tokens[-room:]:
        letter, style = PART_MARKS[token.mostly]
        text.append(letter.lower() if token.name == "decode" else letter, f"bold {style}")
    text.append(" " * max(room - len(text), 0))
    return text + legend if width - len(legend) > 20 else text


def notices(frame: Frame, n: int) -> Text:
    """The newest findings, a line each."""
    text = Text(no_wrap=True, overflow="ellipsis")
    if frame.message:
        text.append(frame.message, "bold")
        text.append("\n")
    for notice in frame.notices[::-1][: n - bool(frame.message)]:
        text.append(f"{notice.severity}: ", _SEVERITIES.get(notice.severity, ""))
        text.append(f"{printable(notice.title, 200)}; {notice.advice}\n")
    return text


def _number(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f} %"

"""A frame as one line, for logs and pipes."""

from bitnet_trace.live.model import Frame, ThreadLine
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, duration, three_digits


def line(frame: Frame) -> str:
    """`12.0 s  decode  token 96  41.9 tok/s (mean 40.2)  TTFT 34.9 ms  CPU 198 % ...`"""
    computing = [thread for thread in frame.threads if thread.role in ("main", "compute")]
    return "  ".join(
        [
            f"{frame.elapsed_ns / 1e9:.1f} s",
            frame.phase or frame.status,
            f"tokens {_number(frame.prompt_tokens)}+{_number(frame.decoded_tokens)}",
            f"{rate(frame.tokens_per_s_now)} tok/s (mean {rate(frame.tokens_per_s)})",
            f"TTFT {MISSING if frame.ttft_ns is None else duration(frame.ttft_ns)}",
            f"CPU {_sum(frame.threads, 'on_cpu_pct')}  run queue {_sum(computing, 'run_queue_pct')}",
            f"futex {_sum(computing, 'futex_pct')}",
            f"faults {sum(thread.faults_per_s for thread in frame.threads):,.0f}/s",
            f"events {frame.events_per_s:,.0f}/s  lost {_number(frame.lost)}",
            *([frame.status] if frame.ended or frame.status == "stopped" else []),
            *(printable(notice.title, 200) for notice in frame.notices[-1:]),
        ]
    )


def rate(value: float | None) -> str:
    """Tokens per second, `-` where there are none."""
    return MISSING if value is None else three_digits(value)


def _number(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _sum(threads: list[ThreadLine], key: str) -> str:
    known = [value for thread in threads if (value := getattr(thread, key)) is not None]
    return f"{sum(known):.0f} %" if known else MISSING

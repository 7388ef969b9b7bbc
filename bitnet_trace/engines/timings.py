"""The timing lines that the engines print themselves, to set against what was traced."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

What = Literal["prefill", "decode", "load", "sample", "total"]

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|-?nan|-?inf)"
_TIME = re.compile(
    r"(?P<what>prompt eval|\beval|load|sampling|sample|total) time\s*=\s*"
    rf"(?P<ms>{_NUMBER}) ms\b(?:\s*/\s*(?P<count>[0-9]+) (?P<unit>tokens|runs))?"
    rf"(?:\s*\(\s*{_NUMBER} ms per token,\s*(?P<rate>{_NUMBER}) tokens per second)?"
)
# Generated text may stand right before the name, hence no word boundary.
_SOURCE = re.compile(
    r"llama_perf_context_print|llama_perf_sampler_print|llama_print_timings|common_perf_print|"
    r"slot +print_timing|print_timings|main(?=:)"
)
_SLOT = re.compile(r"\bid +(?P<slot>[0-9]+) \| task +(?P<task>-?[0-9]+) \|")
_WHAT: dict[str, What] = {
    "prompt eval": "prefill",
    "eval": "decode",
    "load": "load",
    "sampling": "sample",
    "sample": "sample",
    "total": "total",
}

_BENCH_TEST = re.compile(r"(?P<prompt>pp[0-9]+)?(?P<plus>\+)?(?P<generate>tg[0-9]+)?(?P<depth> @ d[0-9]+)?")
_BENCH_RATE = re.compile(rf"(?P<rate>{_NUMBER})(?: ± {_NUMBER})?")


@dataclass(frozen=True, slots=True)
class Timing:
    """One figure that an engine printed.

    `source` is the function or tool that printed it ("llama_perf_context_print", "llama-bench", …; None when the
    line does not say). `ms` is milliseconds; llama-bench prints rates only, so its `ms` is count / rate. `count` is
    what `unit` says: "tokens", or "runs" (decode calls or samplings; one token each in single-stream programs).
    `line_number` counts from 1. `slot` and `task` are llama-server's. What is not printed, or not finite, is None.
    """

    source: str | None
    what: What
    ms: float | None
    count: int | None
    unit: str | None
    tokens_per_second: float | None
    line_number: int
    slot: int | None = None
    task: int | None = None


def parse_timings(text: str) -> list[Timing]:
    """All timing figures in a program's output, in the order of their lines.

    Reads the lines of llama.cpp since 2023 and its forks: llama_print_timings, llama_perf_context_print,
    llama_perf_sampler_print, common_perf_print, ik_llama.cpp's `main:`, llama-server's slots (one line each or a block
    under one heading) and llama-bench's Markdown table. Text before a figure, colours and carriage returns do not
    matter; a figure that is cut off is left out, not guessed.
    """
    timings: list[Timing] = []
    source: str | None = None
    slot: re.Match[str] | None = None
    columns: list[str] = []
    for number, line in enumerate(_ANSI.sub("", text).split("\n"), start=1):
        if line.lstrip().startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if "test" in cells and "t/s" in cells:
                columns = cells
            elif len(cells) == len(columns) and line.rstrip().endswith("|"):
                timings.extend(_bench_row(dict(zip(columns, cells, strict=True)), number))
            continue
        for part in line.split("\r"):
            figures = list(_TIME.finditer(part))
            named = list(_SOURCE.finditer(part, 0, figures[0].start() if figures else len(part)))
            if named:
                source = re.sub(" +", " ", named[-1][0])
                slot = _SLOT.search(part)
            elif part.strip() and not figures:
                # A heading names the lines right below it, not the rest of the output.
                source = slot = None
            timings.extend(_timing(figure, source, slot, number) for figure in figures)
    return timings


def _timing(figure: re.Match[str], source: str | None, slot: re.Match[str] | None, line_number: int) -> Timing:
    return Timing(
        source=source,
        what=_WHAT[figure["what"]],
        ms=_finite(figure["ms"]),
        count=int(figure["count"]) if figure["count"] else None,
        unit=figure["unit"],
        tokens_per_second=_finite(figure["rate"]),
        line_number=line_number,
        slot=int(slot["slot"]) if slot else None,
        task=int(slot["task"]) if slot else None,
    )


def _bench_row(row: dict[str, str], line_number: int) -> Iterator[Timing]:
    test = _BENCH_TEST.fullmatch(row["test"])
    rate = _BENCH_RATE.fullmatch(row["t/s"])
    if test is None or rate is None or not (test["prompt"] or test["generate"]):
        return
    count = sum(int(part[2:]) for part in (test["prompt"], test["generate"]) if part)
    per_second = _finite(rate["rate"])
    what: What = "total" if test["plus"] else "prefill" if test["prompt"] else "decode"
    ms = count / per_second * 1000 if per_second else None
    yield Timing("llama-bench", what, ms, count, "tokens", per_second, line_number)


def _finite(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None

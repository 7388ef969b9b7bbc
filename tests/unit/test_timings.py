"""The engines' own timing lines, from the sources of llama.cpp and its forks and from real runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_trace.engines.timings import Timing, parse_timings

LLAMA_PERF = """\
llama_perf_sampler_print:    sampling time =       0.13 ms /    12 runs   (    0.01 ms per token, 90909.09 tokens per second)
llama_perf_context_print:        load time =    2227.85 ms
llama_perf_context_print: prompt eval time =     258.68 ms /     2 tokens (  129.34 ms per token,     7.73 tokens per second)
llama_perf_context_print:        eval time =    1326.53 ms /     9 runs   (  147.39 ms per token,     6.78 tokens per second)
llama_perf_context_print:       total time =    1588.04 ms /    11 tokens
"""

PERF = "llama_perf_context_print"


def test_llama_perf_context_print() -> None:
    assert parse_timings(LLAMA_PERF) == [
        Timing("llama_perf_sampler_print", "sample", 0.13, 12, "runs", 90909.09, 1),
        Timing(PERF, "load", 2227.85, None, None, None, 2),
        Timing(PERF, "prefill", 258.68, 2, "tokens", 7.73, 3),
        Timing(PERF, "decode", 1326.53, 9, "runs", 6.78, 4),
        Timing(PERF, "total", 1588.04, 11, "tokens", None, 5),
    ]


def test_llama_print_timings_of_2023() -> None:
    text = """
llama_print_timings:        load time =     576.45 ms
llama_print_timings:      sample time =     283.10 ms /   400 runs   (    0.71 ms per token,  1412.91 tokens per second)
llama_print_timings: prompt eval time =     599.83 ms /    19 tokens (   31.57 ms per token,    31.68 tokens per second)
llama_print_timings:        eval time =   24513.59 ms /   399 runs   (   61.44 ms per token,    16.28 tokens per second)
llama_print_timings:       total time =   25431.49 ms
"""
    assert [(one.what, one.ms, one.count) for one in parse_timings(text)] == [
        ("load", 576.45, None),
        ("sample", 283.10, 400),
        ("prefill", 599.83, 19),
        ("decode", 24513.59, 399),
        ("total", 25431.49, None),
    ]


def test_common_perf_print_has_more_lines_than_are_figures() -> None:
    text = """\
common_perf_print:    sampling time =      12.29 ms
common_perf_print:    samplers time =       3.17 ms /    55 tokens
common_perf_print:        load time =     104.35 ms
common_perf_print: unaccounted time =       1.09 ms /   0.1 %      (total - sampling - prompt eval - eval) / (total)
common_perf_print:    graphs reused =         40
"""
    assert [(one.source, one.what, one.ms) for one in parse_timings(text)] == [
        ("common_perf_print", "sample", 12.29),
        ("common_perf_print", "load", 104.35),
    ]


def test_ik_llama_main() -> None:
    text = "main:        eval time =     512.00 ms /    64 tokens (    8.00 ms per token,   125.00 tokens per second)"
    assert parse_timings(text) == [Timing("main", "decode", 512.0, 64, "tokens", 125.0, 1)]


def test_server_slots_of_today() -> None:
    text = """\
slot print_timing: id  0 | task 0 | prompt eval time =    1475.34 ms /    57 tokens (   25.88 ms per token,    38.64 tokens per second)
0.12.345.678 I slot print_timing: id  1 | task 31 |        eval time =      90.00 ms /     9 tokens (   10.00 ms per token,   100.00 tokens per second)
"""
    assert parse_timings(text) == [
        Timing("slot print_timing", "prefill", 1475.34, 57, "tokens", 38.64, 1, 0, 0),
        Timing("slot print_timing", "decode", 90.0, 9, "tokens", 100.0, 2, 1, 31),
    ]


def test_server_slots_with_one_heading_above_the_block() -> None:
    text = (
        "slot print_timing: id  3 | task 17 | \n"
        "\rprompt eval time =      50.00 ms /     5 tokens (   10.00 ms per token,   100.00 tokens per second)\n"
        "\r       eval time =      90.00 ms /     9 tokens (   10.00 ms per token,   100.00 tokens per second)\n"
        "\r      total time =     140.00 ms /    14 tokens\n"
        "srv  update_slots: all slots are idle\n"
        "prompt eval time =      50.00 ms /     5 tokens\n"
    )
    timings = parse_timings(text)
    assert [(one.what, one.slot, one.task, one.line_number) for one in timings] == [
        ("prefill", 3, 17, 2),
        ("decode", 3, 17, 3),
        ("total", 3, 17, 4),
        ("prefill", None, None, 6),
    ]
    assert timings[-1].source is None


def test_server_log_of_early_2024() -> None:
    text = (
        "INFO [           print_timings] prompt eval time     =      50.00 ms /     5 tokens "
        '(   10.00 ms per token,   100.00 tokens per second) | tid="1" id_slot=0'
    )
    assert parse_timings(text) == [Timing("print_timings", "prefill", 50.0, 5, "tokens", 100.0, 1)]


BENCH = """\
| model                          |       size |     params | backend    | threads |          test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | ------: | ------------: | -------------------: |
| bitnet ?B I2_S - 2 bpw ternary |   5.30 MiB |    14.69 M | CPU        |       1 |         pp512 |       2000.00 ± 3.17 |
| bitnet ?B I2_S - 2 bpw ternary |   5.30 MiB |    14.69 M | CPU        |       1 |  tg128 @ d512 |        640.00 ± 0.00 |
| bitnet ?B I2_S - 2 bpw ternary |   5.30 MiB |    14.69 M | CPU        |       1 |    pp64+tg16 |         800.00 ± 1.00 |
| bitnet ?B I2_S - 2 bpw ternary |   5.30 MiB |    14.69 M | CPU        |       1 |         tg12

build: unknown (0)
"""


def test_llama_bench_table() -> None:
    assert parse_timings(BENCH) == [
        Timing("llama-bench", "prefill", 256.0, 512, "tokens", 2000.0, 3),
        Timing("llama-bench", "decode", 200.0, 128, "tokens", 640.0, 4),
        Timing("llama-bench", "total", 100.0, 80, "tokens", 800.0, 5),
    ]


def test_other_tables_are_not_llama_bench() -> None:
    assert parse_timings("| test | value |\n| pp512 | 5.0 |\n| a | t/s |\n") == []


def test_colours_carriage_returns_and_text_before_do_not_matter() -> None:
    line = "eval time = 90.00 ms / 9 runs ( 10.00 ms per token, 100.00 tokens per second)"
    text = f"\x1b[32mhello there\x1b[0m\r\n and thenllama_perf_context_print: \x1b[1m{line}\x1b[0m\r\n"
    assert parse_timings(text) == [Timing(PERF, "decode", 90.0, 9, "runs", 100.0, 2)]


def test_two_writers_on_one_line() -> None:
    text = "llama_perf_context_print: load time = 5.00 ms llama_perf_context_print: total time = 9.00 ms / 3 tokens"
    assert [(one.what, one.ms) for one in parse_timings(text)] == [("load", 5.0), ("total", 9.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("llama_perf_context_print: prompt eval time =     258.68", []),
        ("llama_perf_context_print: prompt eval time =     258.68 m", []),
        ("llama_perf_context_print: prompt eval time =     258.68 ms /     2", [(258.68, None, None)]),
        (
            "llama_perf_context_print: prompt eval time =     258.68 ms /     2 tokens ( 129.34 ms per",
            [(258.68, 2, None)],
        ),
        ("eval time = 0.00 ms / 1 runs ( 0.00 ms per token, inf tokens per second)", [(0.0, 1, None)]),
        ("eval time = 0.00 ms / 0 tokens ( -nan ms per token, -nan tokens per second)", [(0.0, 0, None)]),
        ("retrieval time = 5.00 ms", []),
    ],
)
def test_what_is_cut_off_or_not_finite_is_none(text: str, expected: list[tuple[object, ...]]) -> None:
    assert [(one.ms, one.count, one.tokens_per_second) for one in parse_timings(text)] == expected


@given(st.text(st.sampled_from("|\r\n\x1b[mpt/s eval time=0.5±tg"), max_size=300), st.integers(0, 800))
def test_any_text_gives_an_answer(noise: str, cut: int) -> None:
    for one in parse_timings(noise + LLAMA_PERF[:cut] + BENCH[cut:]):
        assert one.ms is None or one.ms >= 0

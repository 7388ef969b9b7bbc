"""The memory of the live view does not grow with what it has seen: a short one of `make soak`, with many more tokens."""

from tests.bench import soak

TOKEN_US = "400"  # some two thousand a second: what is kept of phases is at its bound after the warm-up


def test_memory_does_not_grow(program):
    found = soak.measure([str(program("endless.c")), TOKEN_US], seconds=7, warm_up_s=10)
    print(f"\n{found}")
    assert found.last_kb < 1.1 * found.first_kb  # a quarter more where phases are not put together


def test_growth_is_said():
    grown = soak.Soak(seconds=1, cpu_pct=1, first_kb=100_000, last_kb=110_000)
    assert grown.verdict() == ["memory has grown from 97.7 to 107.4 MiB"]
    assert not soak.Soak(seconds=1, cpu_pct=1, first_kb=100_000, last_kb=104_000).verdict()
    assert soak.Soak(seconds=1, cpu_pct=4, first_kb=300_000, last_kb=300_000).verdict() == [
        "more than 200 MiB",
        "more than 3 % of a CPU",
    ]

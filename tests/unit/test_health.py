"""How much slower decoding may be for what tracing took of the CPU time."""

import pytest

from bitnet_trace.analysis.computing import Computing
from bitnet_trace.analysis.health import decode_slower_pct


def calls(name="decode", dur_ns=1_000, cpu_ns=1_000):
    return Computing(name=name, dur_ns=dur_ns, tids=(1,), cpu_ns=cpu_ns, runq_ns=0)


@pytest.mark.parametrize(
    ("found", "slower_pct"),
    [
        ([calls()], 1.5),
        ([calls(cpu_ns=4_000)], 6.0),  # four threads side by side: a delay of one is one of all
        ([calls(cpu_ns=500)], 1.5),  # it waited for half of the time: what it lost is no less
        ([calls(cpu_ns=4_000), calls(dur_ns=3_000, cpu_ns=4_000)], 3.0),  # of two processes
        ([calls("prefill", cpu_ns=4_000)], None),
        ([calls(dur_ns=0)], None),
        ([], None),
    ],
)
def test_a_delay_of_one_thread_is_one_of_all(found, slower_pct):
    assert decode_slower_pct(1.5, found) == slower_pct


def test_an_unknown_cost_stays_unknown():
    assert decode_slower_pct(None, [calls()]) is None

"""TLB flushes against a program that makes a known number of them."""

import os

import pytest

from bitnet_trace.recording.layout import Kind, TlbEvent

TIMES = 1009
TLB = ("tlb_flushes", "tlb_full_flushes", "tlb_flush_pages", "tlb_ipis_sent", "tlb_shootdowns_received")
# flushes, full ones, pages: per time
BEGUN = {
    "protect": (2, 0, 2),  # mprotect, there and back
    "discard": (1, 0, 3),
    "unmap": (1, 0, 1),
    "large": (1, 1, 0),
    "alone": (2, 0, 2),
    "nothing": (0, 0, 0),
}
TWO_CPUS = len(os.sched_getaffinity(0)) > 1


@pytest.fixture(scope="module", params=BEGUN)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def run(trace, program, detail, kind):
    done = trace([program("tlb.c"), kind, TIMES], detail)
    done.assert_nothing_lost()
    return done


@pytest.fixture(scope="module")
def in_call(run):
    """Counters of the phase in which the flushes are made: of the thread that makes them, and of the other one."""
    [line] = run.lines
    [phase] = run.calls(line["pid"])["id"]
    return run.total([line["tid"]], [phase]), run.total([line["other_tid"]], [phase])


def test_each_flush_that_a_thread_began_is_counted_with_its_pages(in_call, kind):
    own, other = in_call
    flushes, full, pages = (TIMES * n for n in BEGUN[kind])
    assert [int(own[name]) for name in TLB[:3]] == [flushes, full, pages]
    assert [int(other[name]) for name in TLB[:3]] == [0, 0, 0]


def test_a_flush_sends_at_most_one_round_of_interrupts_which_the_other_thread_receives(in_call, kind):
    own, other = in_call
    assert own["tlb_ipis_sent"] <= own["tlb_flushes"]
    # fewer where the other CPU runs something else at that moment, and flushes when it comes back
    assert other["tlb_shootdowns_received"] <= own["tlb_ipis_sent"]
    assert own["tlb_shootdowns_received"] <= own["tlb_flushes"] // 100  # another program's, if any
    if TWO_CPUS and BEGUN[kind][0] and kind != "alone":
        assert other["tlb_shootdowns_received"] > 0


def test_interrupts_are_sent_before_the_cpu_flushes_itself(trace, program):
    run = trace([program("tlb.c"), "discard", TIMES])
    [line] = run.lines
    events = run.recording.events
    mine = events[(events["kind"] == Kind.TLB) & (events["tid"] == line["tid"]) & (events["arg1"] == 3)]
    begun, sent = (mine[mine["arg0"] == what]["ts_ns"] for what in (TlbEvent.BEGUN, TlbEvent.IPI_SENT))
    assert len(begun) == TIMES
    if len(sent) == TIMES:
        assert (sent < begun).all()

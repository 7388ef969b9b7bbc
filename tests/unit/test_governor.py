"""What windows may cost."""

import os
import time

import pytest

from bitnet_trace.capture import governor
from bitnet_trace.capture.governor import Governor

MS = 1_000_000


@pytest.fixture
def used(monkeypatch):
    """CPU time that every process has used, as the test sets it."""
    state = {"ns": 1000 * MS}
    monkeypatch.setattr(governor, "process_cpu_ns", lambda pid: state["ns"])
    return state


def test_what_is_always_on_is_paid_first(used):
    account = Governor(2.0, lambda used_ns: used_ns * 15 // 1000)  # 1.5 %
    assert account.left_ns(1, "barriers", 1) == 0  # nothing was computed since it was first seen
    used["ns"] += 10_000 * MS
    assert account.left_ns(1, "barriers", 1) == pytest.approx(50 * MS, rel=1e-6)
    assert account.left_ns(1, "barriers", 2) == pytest.approx(25 * MS, rel=1e-6)
    account.charge("barriers", 30 * MS, MS, 10 * MS, 2)
    assert account.left_ns(1, "barriers", 1) == pytest.approx(19 * MS, rel=1e-6)
    assert account.left_ns(1, "function:f", 1) == pytest.approx(50 * MS, rel=1e-6)


def test_nothing_is_left_when_that_costs_too_much(used):
    account = Governor(0.5, lambda used_ns: used_ns // 100)
    account.left_ns(1, "barriers", 1)
    used["ns"] += 10_000 * MS
    assert account.left_ns(1, "barriers", 1) < 0
    assert account.share_left_pct == pytest.approx(-0.5)


def test_what_loading_cost_is_not_of_tokens(used):
    """The estimate of all that was spent includes 100 ms of start and loading: 10 % of the process's time until then."""
    account = Governor(2.0, lambda used_ns: 100 * MS + (used_ns - 1000 * MS) // 100)
    assert account.left_ns(1, "barriers", 1) == 0
    assert account.share_left_pct > 0
    used["ns"] += 1000 * MS
    assert account.left_ns(1, "barriers", 1) == pytest.approx(10 * MS, rel=1e-6)


def test_a_budget_of_two_percent_opens_a_window_within_a_second(used):
    """Always on takes 1 %; a token of 10 ms on two CPUs, and a window of 2.2 of them."""
    account = Governor(2.0, lambda used_ns: used_ns // 100)
    account.left_ns(1, "barriers", 1)
    used["ns"] += 2 * 1000 * MS
    assert account.left_ns(1, "barriers", 1) > account.forecast_ns("barriers", 22 * MS, 2)


def test_without_bound(used):
    account = Governor(100.0, lambda used_ns: 10 * used_ns)
    assert account.left_ns(1, "barriers", 1) > 1 << 60


def test_forecasts_follow_what_windows_cost(used):
    account = Governor(2.0, lambda used_ns: 0)
    first = account.forecast_ns("barriers", 10 * MS, 2)
    assert account.forecast_ns("function:f", 10 * MS, 2) > first
    for _ in range(50):
        cost = account.charge("barriers", 7 * MS, MS, 10 * MS, 2)
    assert cost == 8 * MS
    assert account.forecast_ns("barriers", 10 * MS, 2) == pytest.approx(8 * MS, rel=0.05)
    assert account.spent_ns == {"barriers": 400 * MS}


def test_cpu_time_of_a_process():
    before = governor.process_cpu_ns(os.getpid())
    begin = time.process_time_ns()
    while time.process_time_ns() - begin < 20 * MS:
        pass
    assert 20 * MS <= governor.process_cpu_ns(os.getpid()) - before < 500 * MS
    with pytest.raises(ProcessLookupError):
        governor.process_cpu_ns(2**22 + 1)

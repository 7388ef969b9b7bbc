"""kernel.task_delayacct: switched on for a run, and back whatever becomes of it."""

import os
import subprocess
import time

import pytest

from bitnet_trace.capture import delay_accounting
from bitnet_trace.errors import TraceError


@pytest.fixture
def places(tmp_path):
    switch = tmp_path / "task_delayacct"
    switch.write_text("0\n")
    return {"switch": switch, "journal": tmp_path / "run" / "task_delayacct"}


def value(places):
    return places["switch"].read_text().strip()


def test_delay_accounting_is_switched_on_and_back(places):
    with delay_accounting.switched_on(True, **places):
        assert value(places) == "1"
        assert places["journal"].read_text() == "0"
        assert delay_accounting.leftover(places["journal"]) is None  # somebody will set it back
    assert value(places) == "0"
    assert places["journal"].read_text() == ""


def test_nothing_is_changed_without_the_wish_or_the_need(places):
    with delay_accounting.switched_on(False, **places):
        assert value(places) == "0"
    assert not places["journal"].exists()
    places["switch"].write_text("1\n")
    with delay_accounting.switched_on(True, **places):
        assert value(places) == "1"
    assert value(places) == "1"


def test_it_is_set_back_after_an_error(places):
    with pytest.raises(KeyboardInterrupt), delay_accounting.switched_on(True, **places):
        raise KeyboardInterrupt
    assert value(places) == "0"


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_the_last_of_two_runs_sets_it_back(places, first_ends_first):
    first, second = (delay_accounting.switched_on(True, **places) for _ in range(2))
    first.__enter__()
    second.__enter__()
    order = (first, second) if first_ends_first else (second, first)
    order[0].__exit__(None, None, None)
    assert value(places) == "1"
    order[1].__exit__(None, None, None)
    assert value(places) == "0"


def killed(places, statement):
    """A process that has run the statement is killed."""
    code = (
        "import os, sys; from pathlib import Path; from bitnet_trace.capture import delay_accounting\n"
        f"switch, journal = map(Path, sys.argv[1:]); run = {statement}\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [os.sys.executable, "-c", code, places["switch"], places["journal"]]
    assert subprocess.run(command, check=False).returncode == -9


def test_it_is_set_back_when_the_run_is_killed(places):
    killed(places, "delay_accounting.switched_on(True, switch, journal); run.__enter__()")
    deadline = time.monotonic() + 20
    while value(places) == "1" or places["journal"].read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert delay_accounting.leftover(places["journal"]) is None


def test_a_process_that_outlives_a_run_takes_nothing_from_the_next(places):
    """A fork of the first run has its lock open for longer."""
    first = delay_accounting.switched_on(True, **places)
    first.__enter__()
    alive, held = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(held)
        os.read(alive, 1)
        os._exit(0)
    first.__exit__(None, None, None)
    assert value(places) == "0"
    with delay_accounting.switched_on(True, **places):
        assert value(places) == "1"
    assert value(places) == "0"
    os.close(held)
    os.waitpid(pid, 0)


def test_what_a_killed_run_left_is_told_and_set_back_by_the_next(places):
    killed(places, "delay_accounting._switch_on(switch, journal)")
    assert value(places) == "1"
    assert delay_accounting.leftover(places["journal"]) == "0"
    with delay_accounting.switched_on(False, **places):
        assert value(places) == "0"
    assert delay_accounting.leftover(places["journal"]) is None


def test_a_kernel_without_the_switch_is_an_error_with_a_way_out(places):
    places["switch"].unlink()
    with (
        pytest.raises(TraceError, match="task_delayacct cannot be set") as caught,
        delay_accounting.switched_on(True, **places),
    ):
        pass
    assert "--allow-system-changes" in caught.value.hint
    assert "no kernel.task_delayacct" in delay_accounting.why_off(places["switch"])


def test_doctor_tells_what_was_left():
    from bitnet_trace.commands import doctor

    assert list(doctor._leftover(None)) == []
    (check,) = doctor._leftover("0")
    assert check.state == "warning"
    assert "sysctl kernel.task_delayacct=0" in check.fix

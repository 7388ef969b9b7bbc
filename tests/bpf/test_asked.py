"""Affinity and priority: what programs ask the kernel for, what they have in the end, and what is said when that differs."""

import os

import pytest

from bitnet_trace.analysis.report import build_report

pytestmark = pytest.mark.untimed


N_CPUS = len(os.sched_getaffinity(0))
NO_SUCH_CPU = (os.cpu_count() or 1) + 1


@pytest.fixture(scope="module")
def ask(trace, program, tmp_path_factory):
    """The report of meet.c, two threads, run behind the words of a command that changes how it is scheduled."""

    def run(*before, after=()):
        folder = tmp_path_factory.mktemp("meet")
        command = [*before, program("meet.c", "-fopenmp"), "futex", "none", 2, 5, 50, folder / "log", *after]
        return build_report(trace(command, options=["--overhead-budget", "0", "--as-root"]).recording)

    return run


def titles(report, rule):
    return [one.title for one in report.findings if one.rule == rule]


def told(report):
    """Findings of this kind; of others it depends on what else runs here."""
    return [one for one in report.findings if one.rule.endswith(("not-applied", "priority"))]


def test_what_threads_had_in_the_end(ask):
    report = ask("taskset", "-c", "0", "chrt", "-r", "3")
    (main,) = set(report.recording.phases["pid"])
    computing = [tid for tid in report.by_thread["tid"] if tid in report.scheduling.had]
    assert len(computing) == 2
    for tid in computing:
        had = report.scheduling.had[tid]
        assert (had.cpus, had.described()) == ({0}, "RR 3")
    asked = {one.call: one for one in report.scheduling.asked}
    assert (asked["sched_setaffinity"].described(), asked["sched_setaffinity"].tid) == ("CPUs 0", main)
    assert (asked["sched_setscheduler"].described(), asked["sched_setscheduler"].error) == ("RR 3", 0)
    assert not titles(report, "affinity-not-applied")
    assert not titles(report, "priority-not-applied")
    # of the CPUs that the threads may use, not of those that the tracer may
    assert titles(report, "oversubscription")[0].endswith("on 1 CPU")


def test_nothing_is_said_where_all_was_applied(ask):
    assert not told(ask("nice", "-n", "3", "taskset", "-c", f"0-{NO_SUCH_CPU + 5}"))


def test_a_cpu_that_there_is_not(ask):
    report = ask("taskset", "-c", f"0,{NO_SUCH_CPU}")
    (title,) = titles(report, "affinity-not-applied")
    assert title == f"affinity asked for and not applied: CPUs 0, {NO_SUCH_CPU}, it had 0"


def test_a_nice_value_without_the_right(ask):
    report = ask("setpriv", "--bounding-set", "-sys_nice", "--inh-caps", "-sys_nice", "nice", "-n", "-5")
    (title,) = titles(report, "priority-not-applied")
    assert title == "priority asked for and not applied: nice -5, Permission denied"


def test_a_policy_that_the_workers_do_not_have(ask):
    report = ask("chrt", "--reset-on-fork", "--fifo", "7")
    (title,) = titles(report, "uneven-priority")
    assert title == "priority not on all computing threads: FIFO 7 and OTHER in decode"
    assert not titles(report, "priority-not-applied")


def test_options_that_the_program_ignores(ask):
    report = ask(after=("--prio", "2", "--cpu-mask", "0x3"))
    assert titles(report, "affinity-not-applied") == ["affinity asked for and not applied: --cpu-mask 0x3"]
    assert titles(report, "priority-not-applied") == ["priority asked for and not applied: --prio 2"]
    assert not told(ask(after=("--prio", "0", "--cpu-mask", "0x0")))

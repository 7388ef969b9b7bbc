"""The kernel's exit statistics beside what was counted."""

import json

import pandas as pd
import pytest
from exit_statistics import payload
from traces import MS, PID, event, events, phase_row, phase_table

from bitnet_trace.analysis import taskstats as analysis
from bitnet_trace.analysis.fold import fold_events
from bitnet_trace.analysis.phases import name_phases
from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture.taskstats_layout import decode, to_row
from bitnet_trace.recording.layout import Kind, SwitchFlag
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import TASKSTATS_SCHEMA
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as as_json
from bitnet_trace.render import markdown, text


def stats_table(*rows):
    names = TASKSTATS_SCHEMA.names
    values = [[row.get(name, pd.NA) for name in names] for row in rows]
    types = {name: "string" if name in ("at", "comm") else "UInt64" for name in names}
    return pd.DataFrame(values, columns=names).astype(types)


def account(at="exit", tid=PID, pid=PID, **values):
    zero = dict.fromkeys(
        ("nvcsw", "nivcsw", "min_flt", "maj_flt", "cpu_count", "cpu_delay_ns", "cpu_run_virtual_ns"), 0
    )
    return {"at": at, "tid": tid, "pid": pid, **zero, **values}


def thread_table(*rows):
    columns = {"tid": "Int64", "pid": "Int64", "comm": "string", "end_ns": "Int64", "exit_code": "Int64"}
    return pd.DataFrame(list(rows), columns=list(columns)).astype(columns)


def switches(n, tid=PID, on_ns=MS, queue_ns=0, flags=SwitchFlag.VOLUNTARY):
    return [
        one
        for i in range(n)
        for one in (
            event(Kind.SWITCH_OUT, 10 * MS + i, tid=tid, arg0=flags, arg1=on_ns),
            event(Kind.SWITCH_IN, 10 * MS + i, tid=tid, arg2=queue_ns),
        )
    ]


PHASES = name_phases(phase_table(phase_row(1, 0, 1000 * MS, role="startup")))
THREADS = thread_table(
    {"tid": PID, "pid": PID, "comm": "main", "end_ns": 9, "exit_code": 0},
    {"tid": PID + 1, "pid": PID, "comm": "worker", "end_ns": 9, "exit_code": 0},
)


def compare(stats, stream, threads=THREADS, blind=()):
    return analysis.compare(stats, fold_events(events(*stream), PHASES), PHASES, threads, blind)


def test_what_is_not_of_the_same_span_is_taken_out():
    table = compare(
        stats_table(
            account("before", nvcsw=4, nivcsw=1, cpu_delay_ns=100, min_flt=300, cpu_run_virtual_ns=MS),
            account("exit", nvcsw=9, nivcsw=1, cpu_delay_ns=5 * MS + 100, min_flt=300, cpu_run_virtual_ns=6 * MS),
            account("after", nvcsw=2, nivcsw=0, cpu_delay_ns=2 * MS, cpu_run_virtual_ns=2 * MS),
        ),
        switches(7, queue_ns=MS),
    )
    (row,) = table.to_dict("records")
    assert (row["switches_voluntary"], row["kernel_switches_voluntary"], row["difference_switches_voluntary"]) == (
        5,
        5,
        0,
    )
    assert (row["runq_wait_ns"], row["difference_runq_wait_ns"]) == (5 * MS, 0)
    assert (row["cpu_ns"], row["difference_cpu_ns"]) == (5 * MS, 0)
    assert (row["kernel_all_faults_minor"], row["agrees"], row["comm"]) == (0, True, "main")


def test_a_difference_is_seen_by_thread():
    table = compare(
        stats_table(
            account(nvcsw=7, cpu_run_virtual_ns=7 * MS),
            account(tid=PID + 1, nvcsw=4, cpu_run_virtual_ns=3 * MS),
        ),
        [*switches(7), *switches(3, tid=PID + 1)],
    ).set_index("tid")
    assert table["agrees"].tolist() == [True, False]
    assert table.loc[PID + 1, "difference_switches_voluntary"] == -1
    found = analysis.summary(table.reset_index(), {"taskstats": {"version": 16}})
    assert (found["agrees"], found["n_threads"], found["n_differing"], found["version"]) == (False, 2, 1, 16)


def test_rounding_of_times_is_no_difference():
    waits = [account(nvcsw=3, cpu_count=3, cpu_delay_ns=3 * MS, cpu_run_virtual_ns=3 * MS)]
    assert compare(stats_table(*waits), switches(3, queue_ns=MS + 10_000))["agrees"].all()
    assert not compare(stats_table(*waits), switches(3, queue_ns=2 * MS))["agrees"].any()
    assert not compare(stats_table(*waits), switches(3, on_ns=11 * MS, queue_ns=MS))["agrees"].any()


def test_a_thread_that_runs_still_is_shown_and_not_judged():
    table = compare(stats_table(account("running", nvcsw=99)), switches(7))
    assert table["agrees"].isna().all()
    assert table["at"].tolist() == ["running"]
    assert analysis.summary(table, {})["agrees"] is None


def test_a_thread_that_made_an_execve_is_counted_to_its_leader():
    threads = thread_table(
        {"tid": PID, "pid": PID, "comm": "new", "end_ns": 9, "exit_code": 0},
        {"tid": PID + 1, "pid": PID, "comm": "caller", "end_ns": 5, "exit_code": None},
    )
    stats = stats_table(account(nvcsw=1, cpu_run_virtual_ns=MS), account(nvcsw=5, cpu_run_virtual_ns=5 * MS))
    table = compare(stats, [*switches(3), *switches(3, tid=PID + 1)], threads)
    assert table[["tid", "switches_voluntary", "kernel_switches_voluntary"]].values.tolist() == [[PID, 6, 6]]
    assert table["agrees"].all()


def test_what_a_probe_that_is_not_attached_feeds_is_missing():
    table = compare(stats_table(account(nvcsw=7)), [], blind={"sched_switch"})
    assert table["switches_voluntary"].isna().all()
    assert table["difference_switches_voluntary"].isna().all()
    assert table["agrees"].all()


def test_damaged_numbers_are_no_error():
    huge = {name: 2**64 - 1 for name in TASKSTATS_SCHEMA.names if name not in ("at", "tid", "pid", "comm", "version")}
    for at in ("before", "exit", "after", "nonsense"):
        compare(stats_table(account(), {**account(at), **huge}), switches(1))
    assert len(compare(stats_table(), [])) == 0


@pytest.fixture
def recording(tmp_path):
    def made(*rows, told=None, stream=()):
        writer = Writer(tmp_path / "a.btrace", {"taskstats": told or {"version": 16, "reason": None}})
        writer.phases([phase_row(1, 0, 1000 * MS, role="startup")])
        writer.events(events(*stream))
        writer.threads([{"tid": PID, "pid": PID, "comm": "main", "start_ns": 0, "end_ns": 9, "exit_code": 0}])
        writer.taskstats(rows)
        writer.close(0)
        return open_recording(tmp_path / "a.btrace")

    return made


def test_recorded_and_read_back(recording):
    row = {"at": "exit", "tid": PID, "pid": PID, **to_row(decode(payload(nvcsw=7, ac_comm=b"ma\xffin")), False, True)}
    read = recording(row, {"at": "after", "tid": PID, "pid": PID, "nvcsw": 1})
    assert read.complete
    assert read.warnings == []
    assert read.taskstats["at"].tolist() == ["exit", "after"]
    assert read.taskstats["nvcsw"].tolist() == [7, 1]
    assert read.taskstats["blkio_count"].isna().all()


def test_agreement_is_a_line_and_no_table(recording):
    stream = switches(7)
    report = build_report(recording(account(nvcsw=7, cpu_run_virtual_ns=7 * MS), stream=stream))
    for shown in (text.render(report, width=200), markdown.render(report)):
        assert "taskstats agrees: 1 thread, switches and faults equal" in shown
        assert "own accounting" not in shown
    found = json.loads(as_json.render(report))["taskstats"]
    assert (found["agrees"], found["version"], found["n_threads"]) == (True, 16, 1)
    (row,) = found["threads"]
    assert (row["tid"], row["switches_voluntary"], row["kernel_switches_voluntary"], row["agrees"]) == (PID, 7, 7, True)
    assert row["blkio_delay_ns"] is None


def test_a_difference_is_a_table(recording):
    report = build_report(recording(account(nvcsw=9, cpu_run_virtual_ns=7 * MS), stream=switches(7)))
    for shown in (text.render(report, width=200), markdown.render(report)):
        assert "taskstats differs in 1 of 1 thread" in shown
        assert "own accounting" in shown


def test_why_there_is_none_is_said(recording):
    report = build_report(recording(told={"reason": "pyroute2 cannot be imported"}))
    assert "taskstats: - (pyroute2 cannot be imported)" in text.render(report, width=200)
    assert json.loads(as_json.render(report))["taskstats"]["agrees"] is None

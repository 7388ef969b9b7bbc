"""Findings of hand-made recordings: each at its threshold, none on a healthy run."""

import json

import pytest
from traces import MS, PID, event, events, inference, write_inference

from bitnet_trace.analysis import asked
from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture.asked import cpu_list
from bitnet_trace.recording.layout import Kind, SwitchFlag
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as json_form
from bitnet_trace.render import markdown, text

HOG = 777


def call_ids(script, n_tokens=1):
    return [row for row in script.rows() if row["role"] == "decode" and row["n_tokens"] == n_tokens]


def run_of(folder, rows, scheduling=(), windows=(), host=(0, 1), command=("llama-cli",), threads=3):
    """The report of `inference` with these events of its decode calls."""
    meta = {"host": {"cpus_online": list(host)}, "neighbours": {str(HOG): "stress"}, "command": list(command)}
    writer = Writer(folder / "x.btrace", {**meta, "start_ns": 1000 * MS})
    writer.phases(inference().rows())
    writer.events(events(*sorted(rows)))
    writer.threads({"tid": PID + i, "pid": PID, "comm": f"llama-{i}", "start_ns": 1000 * MS} for i in range(threads))
    writer.scheduling(scheduling)
    writer.windows(windows)
    writer.close(0)
    return build_report(open_recording(folder / "x.btrace"))


def rules(report):
    return [one.rule for one in report.findings]


def busy(call, tid, off_ns=0, following=HOG, queued=True):
    """One thread in one call: it runs but for a preemption of `off_ns` in the middle."""
    begin, end, phase = call["begin_ns"], call["end_ns"], call["id"]
    leave = begin + MS
    return [
        event(Kind.SWITCH_OUT, leave, phase, tid, 0, MS, following),
        event(Kind.SWITCH_IN, leave + off_ns, phase, tid, 0, off_ns, off_ns if queued else 0),
        event(Kind.SWITCH_OUT, end - 1, phase, tid, SwitchFlag.VOLUNTARY, end - 1 - leave - off_ns),
    ]


def test_a_healthy_run_has_none(tmp_path):
    report = build_report(open_recording(write_inference(tmp_path / "a.btrace")))
    assert report.findings == ()
    assert "Findings\n  none" in text.render(report)
    assert "## Findings\n\n*none" in markdown.render(report)
    assert json_form.to_dict(report)["findings"] == []


@pytest.mark.parametrize(("threads", "cpus", "found"), [(2, (0, 1), False), (3, (0, 1), True), (3, (0, 1, 2), False)])
def test_more_threads_than_cpus(tmp_path, threads, cpus, found):
    rows = [
        row
        for call in call_ids(inference())
        for i in range(threads)
        for row in busy(call, PID + i, 3 * MS, PID + (i + 1) % threads)
    ]
    report = run_of(tmp_path, rows, host=cpus)
    assert ("oversubscription" in rules(report)) is found
    if found:
        first = report.findings[0]
        assert (first.severity, first.figure, first.threshold, first.phase) == ("critical", 3, 2, "decode")
        assert first.title == "oversubscribed: 3 threads compute in decode on 2 CPUs"
        # it is the one reason: that they preempt each other is not told once more
        assert rules(report) == ["oversubscription"]


def test_threads_that_never_wait_are_not_too_many(tmp_path):
    rows = [row for call in call_ids(inference()) for i in range(3) for row in busy(call, PID + i)]
    assert rules(run_of(tmp_path, rows)) == []


# five calls of 10 ms
@pytest.mark.parametrize(("off_ns", "found"), [(3 * MS, False), (5 * MS, True)])
def test_preemption_is_told_from_20_ms_on(tmp_path, off_ns, found):
    rows = [row for call in call_ids(inference()) for row in (*busy(call, PID, off_ns), *busy(call, PID + 1))]
    report = run_of(tmp_path, rows)
    assert rules(report) == (["preemption"] if found else [])
    if found:
        (one,) = report.findings
        assert (
            one.title
            == "preempted while computing: llama-0 (100) was off its CPU for 50 % of decode, mostly for stress (777)"
        )
        assert one.threads == (PID,)


def test_two_threads_on_one_cpu_preempt_each_other_though_there_are_two(tmp_path):
    calls = call_ids(inference())
    rows = [row for call in calls for i in range(2) for row in busy(call, PID + i, 5 * MS, PID + 1 - i)]
    (one,) = run_of(tmp_path, rows).findings
    assert one.title.endswith("mostly for llama-1 (101)")


def meetings(call, late_ns, n=10):
    """Two threads at n barriers of a call; the second comes late to each."""
    step = (call["end_ns"] - call["begin_ns"]) // (n + 1)
    for i in range(n):
        at = call["begin_ns"] + (i + 1) * step - MS // 2
        yield event(Kind.BARRIER, at, call["id"], PID, 0, 4096)
        yield event(Kind.BARRIER, at + late_ns, call["id"], PID + 1, 0, 4096)


WINDOW = {"what": "barriers", "begin_ns": 0, "end_ns": 1 << 40, "hits": 100, "cost_ns": 5}


@pytest.mark.parametrize(
    ("late_ns", "n_calls", "found"), [(MS // 20, 5, False), (MS // 5, 5, True), (MS // 5, 3, True), (MS // 5, 2, False)]
)
def test_a_straggler_needs_a_tenth_of_the_time_and_three_calls(tmp_path, late_ns, n_calls, found):
    rows = [row for call in call_ids(inference())[:n_calls] for row in meetings(call, late_ns)]
    report = run_of(tmp_path, rows, windows=[WINDOW])
    assert rules(report) == (["straggler"] if found else [])
    if found:
        assert (
            report.findings[0].title == "straggler: llama-1 (101) keeps the others waiting for 20 % of decode, slower"
        )


def test_one_bad_call_makes_no_straggler(tmp_path):
    calls = call_ids(inference())
    rows = [row for call in calls[1:] for row in meetings(call, 1)] + list(meetings(calls[0], MS // 3))
    assert rules(run_of(tmp_path, rows, windows=[WINDOW])) == []


def request(tid=PID, call=None, error=None, **values):
    row = dict.fromkeys(("cpus", "policy", "priority", "nice"))
    return {**row, "ts_ns": 1, "pid": PID, "caller": tid, "tid": tid, "call": call, "error": error, **values}


HAD = {"cpus": "0-1", "policy": 0, "priority": 0, "nice": 0}


@pytest.mark.parametrize(
    ("asked_for", "had", "title"),
    [
        ({"call": "sched_setaffinity", "error": 0, "cpus": "0"}, {**HAD, "cpus": "0"}, None),
        ({"call": "sched_setaffinity", "error": 0, "cpus": "0-63"}, HAD, None),
        ({"call": "sched_setaffinity", "error": 0, "cpus": "1-3"}, {**HAD, "cpus": "1"}, "CPUs 1, 2, 3, it had 1"),
        ({"call": "sched_setaffinity", "error": 22, "cpus": "7"}, HAD, "CPUs 7, Invalid argument"),
        ({"call": "sched_setaffinity", "error": 14, "cpus": ""}, HAD, None),
        (
            {"call": "sched_setscheduler", "error": 1, "policy": 1, "priority": 20},
            HAD,
            "FIFO 20, Operation not permitted",
        ),
        ({"call": "sched_setscheduler", "error": 0, "policy": 1 | 1 << 30, "priority": 5}, {**HAD, "policy": 1, "priority": 5}, None),
        ({"call": "sched_setattr", "error": 0, "policy": 0, "priority": 0, "nice": -5}, HAD, "OTHER nice -5, it had OTHER"),
        ({"call": "setpriority", "error": 0, "nice": 3}, {**HAD, "nice": 3}, None),
        ({"call": "setpriority", "error": 13, "nice": -3}, HAD, "nice -3, Permission denied"),
    ],
)  # fmt: skip
def test_what_was_asked_for(tmp_path, asked_for, had, title):
    report = run_of(tmp_path, [event(Kind.MIGRATE, 1000 * MS)], scheduling=[request(**asked_for), request(**had)])
    found = [one.title.partition(" applied: ")[2] for one in report.findings]
    assert found == ([] if title is None else [title])
    json.dumps(json_form.to_dict(report)["findings"])


def test_a_try_after_success_is_no_refusal(tmp_path):
    rows = [request(call="sched_setaffinity", error=error, cpus="0") for error in (0, 22)]
    assert run_of(tmp_path, [event(Kind.MIGRATE, 1000 * MS)], scheduling=rows).findings == ()


def test_an_option_of_the_command_line_that_nobody_asked_the_kernel_for(tmp_path):
    command = ("llama-cli", "--prio", "2", "-C", "0x3")
    report = run_of(tmp_path, [event(Kind.MIGRATE, 1000 * MS)], scheduling=[request(**HAD)], command=command)
    assert rules(report) == ["affinity-not-applied", "priority-not-applied"]


@pytest.mark.parametrize("cpus", [set(), {0}, {0, 1, 2, 3}, {0, 2, 3, 7}, set(range(512)), {511}])
def test_lists_of_cpus(cpus):
    assert asked.cpus_of(cpu_list(sum(1 << cpu for cpu in cpus))) == cpus


@pytest.mark.parametrize(
    "damaged", ["x", "-", "5-", "3-1", "0-99999999999999999999", "0-9999999," * 100_000, ",", "1,,2", "-5"]
)
def test_damaged_lists_of_cpus(damaged):
    assert len(asked.cpus_of(damaged)) <= 1 << 15

"""The kernel's exit statistics: decoded in every version, taken from netlink messages, compared with what was counted."""

import errno
import json
import os
import struct
import subprocess
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from compiled import compiled
from hypothesis import given
from hypothesis import strategies as st
from traces import MS, PID, event, events, phase_row, phase_table

from bitnet_trace.analysis import taskstats as analysis
from bitnet_trace.analysis.fold import fold_events
from bitnet_trace.analysis.phases import name_phases
from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture import delay_accounting, taskstats
from bitnet_trace.capture.taskstats import Taskstats, messages
from bitnet_trace.capture.taskstats_layout import NEWEST_VERSION, decode, layout, to_row
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.layout import Kind, SwitchFlag
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import TASKSTATS_SCHEMA
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as as_json
from bitnet_trace.render import markdown, text

VERSIONS = range(8, NEWEST_VERSION + 1)
IN_16 = layout(16)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """Of each version: the struct as the compiler lays it out, and name: (offset, value)."""
    made = {}
    for version in VERSIONS:
        program = compiled(tmp_path_factory.mktemp("taskstats"), "taskstats_struct.c", f"-DVERSION={version}")
        raw = subprocess.run([program, "raw"], check=True, capture_output=True).stdout
        members = json.loads(subprocess.run([program], check=True, capture_output=True).stdout)
        made[version] = (raw, {name: tuple(pair) for name, pair in members.items() if not name.startswith("pad")})
    return made


def payload(version=16, **values):
    record = bytearray(layout(version).itemsize)
    for name, value in {"version": version, **values}.items():
        kind, offset = layout(version).fields[name][:2]
        data = value if isinstance(value, bytes) else int(value).to_bytes(kind.itemsize, "little")
        record[offset : offset + len(data)] = data
    return bytes(record)


def attribute(kind, data):
    return struct.pack("<HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def exit_message(tid, stats, tgid_stats=b"", padding=False):
    """As kernel/taskstats.c sends it; `padding`: of architectures that align 64-bit attributes with an empty one."""
    inner = attribute(1, struct.pack("<I", tid)) + (attribute(6, b"") if padding else b"") + attribute(3, stats)
    body = struct.pack("<BBH", 2, 1, 0) + attribute(4, inner)
    if tgid_stats:
        body += attribute(5, attribute(2, struct.pack("<I", tid)) + attribute(3, tgid_stats))
    return struct.pack("<IHHII", 16 + len(body), 27, 0, 0, 0) + body


# ---- the struct ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_member_is_where_the_compiler_puts_it(kernel, version):
    raw, members = kernel[version]
    size, _ = members.pop("size")
    assert len(raw) == size == layout(version).itemsize
    offsets = {name: offset for name, (_, offset) in layout(version).fields.items()}
    assert {name: offset for name, (offset, _) in members.items()} == {
        name: offset for name, offset in offsets.items() if name not in ("ac_pad", "ac_comm")
    }
    found = decode(raw)
    assert found.pop("ac_comm") == "a thread's name"
    assert found == {name: value for name, (_, value) in members.items()}


def test_the_header_of_this_system_says_the_same(tmp_path):
    """Whatever version the installed header has, its members are known here."""
    source = tmp_path / "header.c"
    source.write_text(
        "#include <linux/taskstats.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        'int main(void) { printf("%d %zu %zu", TASKSTATS_VERSION, sizeof(struct taskstats), '
        "offsetof(struct taskstats, nvcsw)); }\n"
    )
    built = subprocess.run(["gcc", source, "-o", tmp_path / "header"], check=False, capture_output=True)
    if built.returncode:
        pytest.skip("no linux/taskstats.h: apt-get install linux-libc-dev")
    version, size, nvcsw = map(int, subprocess.run([tmp_path / "header"], capture_output=True).stdout.split())
    assert (layout(version).itemsize, layout(version).fields["nvcsw"][1]) == (size, nvcsw)


@pytest.mark.parametrize("version", VERSIONS)
def test_pyroute2_decodes_the_same(kernel, version):
    """Version 15 it knows whole, of the others what stands before freepages_count."""
    from pyroute2.netlink.taskstats import taskstatsmsg

    raw, _ = kernel[version]
    message = taskstatsmsg(exit_message(4711, raw))
    message.decode()
    theirs = message.get_attr("TASKSTATS_TYPE_AGGR_PID").get_attr("TASKSTATS_TYPE_STATS")
    ours = decode(raw)
    common = [name for name in ("nvcsw", "nivcsw", "cpu_delay_total", "ac_minflt", "ac_utime") if name in theirs]
    assert len(common) == 5
    assert {name: theirs[name] for name in common} == {name: ours[name] for name in common}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_truncated_struct_is_decoded_as_far_as_it_goes(kernel, version):
    raw, _ = kernel[version]
    whole = decode(raw)
    for length in range(2, len(raw)):
        found = decode(raw[:length])
        assert found == {name: whole[name] for name in found}
        ends = {name: offset + kind.itemsize for name, (kind, offset) in layout(version).fields.items()}
        assert set(found) == {name for name, end in ends.items() if end <= length and name != "ac_pad"}
    for length in (0, 1):
        with pytest.raises(ValueError, match="no struct taskstats"):
            decode(raw[:length])


def test_a_newer_version_is_decoded_as_the_newest_known(kernel):
    raw, _ = kernel[NEWEST_VERSION]
    newer = struct.pack("<H", NEWEST_VERSION + 3) + raw[2:] + b"\xff" * 64
    assert decode(newer) == {**decode(raw), "version": NEWEST_VERSION + 3}


@given(st.binary(min_size=2, max_size=800))
def test_any_bytes_are_decoded_and_make_a_row(data):
    row = to_row(decode(data), True, True)
    names = set(TASKSTATS_SCHEMA.names)
    assert set(row) == names - {"at", "tid", "pid"}
    assert all(value is None or isinstance(value, int | str) for value in row.values())


def test_what_the_kernel_does_not_account_is_missing_and_not_zero():
    stats = decode(payload(cpu_count=3, cpu_delay_total=7, hiwater_rss=5, blkio_count=0, wpcopy_count=4, irq_count=0))
    off = to_row(stats, False, False)
    assert (off["blkio_count"], off["blkio_delay_ns"], off["wpcopy_count"], off["read_bytes"]) == (None,) * 4
    on = to_row(stats, True, True)
    assert (on["blkio_count"], on["blkio_delay_ns"], on["wpcopy_count"], on["read_bytes"]) == (0, 0, 4, 0)
    assert (on["irq_count"], on["irq_delay_ns"]) == (None, None)
    assert (on["cpu_delay_ns"], on["hiwater_rss_bytes"]) == (7, 5 << 10)
    nothing = to_row(decode(payload(nvcsw=9)), True, True)
    assert [nothing[name] for name in ("cpu_count", "cpu_delay_ns", "cpu_run_virtual_ns", "hiwater_rss_bytes")] == [
        None
    ] * 4
    assert nothing["read_char_bytes"] is None
    assert nothing["nvcsw"] == 9
    assert to_row(decode(payload(14, cpu_count=1)), True, True)["cpu_delay_max_ns"] is None


# ---- netlink ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [False, True])
def test_messages_of_one_read(padding):
    one, two = payload(nvcsw=1), payload(nvcsw=2)
    data = exit_message(11, one, tgid_stats=payload(nvcsw=99), padding=padding) + exit_message(12, two)
    assert list(messages(data)) == [(11, one), (12, two)]


def test_an_error_of_the_kernel_is_raised_and_an_acknowledgement_is_not():
    def answer(number):
        return struct.pack("<IHHII", 36, 2, 0, 0, 0) + struct.pack("<i", -number) + bytes(16)

    assert list(messages(answer(0))) == []
    with pytest.raises(OSError, match="Operation not permitted") as caught:
        list(messages(answer(errno.EPERM)))
    assert caught.value.errno == errno.EPERM


@given(st.binary(max_size=200), st.integers(0, 700))
def test_damaged_messages_are_left_out(noise, cut):
    good = exit_message(11, payload())
    for data in (noise, good[:cut], good + noise, good[:20] + noise):
        try:
            found = list(messages(data))
        except OSError:
            continue
        assert all(isinstance(tid, int) and len(stats) >= 2 for tid, stats in found)


class Exits(Taskstats):
    """Without a socket: messages are put where the socket's would come."""

    def _register(self, cpus):
        pass

    def arrive(self, tid, pid, **values):
        self._received.append((tid, payload(ac_pid=tid, ac_tgid=pid, cpu_count=1, **values)))


def thread(tid, pid=PID, start_ns=1, exit_code=None):
    end_ns = None if exit_code is None else start_ns + 9
    return {"tid": tid, "pid": pid, "start_ns": start_ns, "end_ns": end_ns, "exit_code": exit_code}


def test_only_threads_of_the_target_are_kept():
    exits = Exits()
    exits.arrive(11, PID, nvcsw=5)
    exits.arrive(12, 7777)  # the number of ours, in another process
    exits.arrive(13, PID)  # unknown
    known = {11: thread(11, exit_code=0), 12: thread(12)}
    (row,) = exits.take(known)
    assert (row["at"], row["tid"], row["pid"], row["nvcsw"], row["version"]) == ("exit", 11, PID, 5, 16)
    assert exits.lost(known) == 0


def test_an_exit_that_came_before_its_fork_was_told_waits_one_turn():
    exits = Exits()
    exits.arrive(11, PID)
    assert exits.take({}) == []
    assert [row["tid"] for row in exits.take({11: thread(11, exit_code=0)})] == [11]
    exits.arrive(12, PID)
    assert exits.take({}) == []
    assert exits.take({}) == []
    assert exits.take({12: thread(12, exit_code=0)}) == []  # it was somebody else's


def test_a_number_that_is_used_again():
    exits = Exits()
    exits.arrive(11, PID, nvcsw=1)
    exits.take({11: thread(11, exit_code=0)})
    exits.arrive(11, PID, nvcsw=2)  # by a stranger whose process has our number too
    assert exits.take({11: thread(11, exit_code=0)}) == []
    exits.arrive(11, PID, nvcsw=3)
    assert [row["nvcsw"] for row in exits.take({11: thread(11, start_ns=50, exit_code=0)})] == [3]


def test_an_ended_thread_without_a_message_is_lost():
    exits = Exits()
    exits.arrive(11, PID)
    known = {11: thread(11, exit_code=0), 12: thread(12, exit_code=256), 13: thread(13)}
    exits.take(known)
    assert exits.lost(known) == 1
    exits.reason = "refused"
    assert exits.lost(known) == 0  # not lost: never to be had


class Refusing:
    """A socket as pyroute2 has it, where the kernel says no."""

    def __init__(self, error):
        self.asyncore = SimpleNamespace()
        self.error = error

    def bind(self):
        raise self.error

    def close(self):
        pass


@pytest.mark.parametrize("error", [OSError(errno.EPERM, "not permitted"), RuntimeError("no loop"), KeyError("family")])
def test_a_kernel_without_taskstats_is_a_reason_and_no_error(monkeypatch, error):
    monkeypatch.setattr(taskstats, "import_pyroute2", lambda: lambda: Refusing(error))
    refused = Taskstats()
    assert "taskstats cannot be had" in refused.reason
    assert refused.take({}) == refused.of_running({1: thread(1)}) == []
    assert refused.meta()["dropped_messages"] == 0
    refused.close()


def test_no_pyroute2_is_a_reason_and_no_error(monkeypatch):
    def missing():
        raise ImportError("No module named 'pyroute2'")

    monkeypatch.setattr(taskstats, "import_pyroute2", missing)
    assert "pyroute2 cannot be imported" in Taskstats().reason


def test_pyroute2_is_whole_for_who_imports_it_later():
    code = (
        "import sys; from bitnet_trace.capture.taskstats import import_pyroute2; import_pyroute2()\n"
        "assert 'pyroute2.ndb' not in sys.modules\n"
        "import pyroute2; assert pyroute2.IPRoute and pyroute2.TaskStats is import_pyroute2()\n"
    )
    subprocess.run([os.sys.executable, "-c", code], check=True, timeout=60)


# ---- kernel.task_delayacct -------------------------------------------------------------------------------------------


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


# ---- compared --------------------------------------------------------------------------------------------------------


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


def test_doctor_tells_what_was_left():
    from bitnet_trace.commands import doctor

    assert list(doctor._leftover(None)) == []
    (check,) = doctor._leftover("0")
    assert check.state == "warning"
    assert "sysctl kernel.task_delayacct=0" in check.fix

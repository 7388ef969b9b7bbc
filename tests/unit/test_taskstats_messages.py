"""The kernel's exit statistics: decoded in every version, taken from netlink messages."""

import errno
import json
import os
import struct
import subprocess
from types import SimpleNamespace

import pytest
from compiled import compiled
from exit_statistics import payload
from hypothesis import given
from hypothesis import strategies as st
from traces import PID

from bitnet_trace.capture import taskstats
from bitnet_trace.capture.taskstats import Taskstats, messages
from bitnet_trace.capture.taskstats_layout import NEWEST_VERSION, decode, layout, to_row
from bitnet_trace.recording.schema import TASKSTATS_SCHEMA

VERSIONS = range(8, NEWEST_VERSION + 1)


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

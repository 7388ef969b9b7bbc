"""Offsets that capture/btf.py takes from the kernel's type information: what they find is what /proc says."""

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from bitnet_trace.capture import btf
from bitnet_trace.capture.bpf import Programs, Rings
from tests.bpf.conftest import PAGE, PROGRAMS

# BCC warns of each name that is no bytes object
pytestmark = [pytest.mark.untimed, pytest.mark.filterwarnings("ignore:not a bytes object")]

GETPPID = 110
RAW_TRACEPOINT = 17
PF_KTHREAD, PF_FORKNOEXEC = 0x200000, 0x40


@pytest.fixture(scope="module")
def programs():
    loaded = Programs(False, Rings(events=1 << 20), extra=PROGRAMS / "facts.bpf.c")
    for tracepoint, function in (("sys_enter", "take_facts"), ("sched_process_exec", "take_program")):
        loaded._bpf.load_func(function, RAW_TRACEPOINT)
        loaded.attach_function(tracepoint, function)
    yield loaded
    loaded.close()


def facts_of_this_thread(programs, descriptor):
    programs.table("subject")[ctypes.c_int(0)] = ctypes.c_uint32(threading.get_native_id())
    libc = ctypes.CDLL(None)
    seen = programs.table("facts")[ctypes.c_int(0)].seen
    libc.syscall(ctypes.c_long(GETPPID), ctypes.c_long(descriptor))
    facts = programs.table("facts")[ctypes.c_int(0)]
    assert facts.seen == seen + 1
    return facts


def schedstat():
    return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1])


def status(name):
    return re.search(rf"^{name}:\s+(\S+)", Path("/proc/thread-self/status").read_text(), re.MULTILINE)[1]


def test_numbers_and_name(programs, tmp_path):
    found = []

    def in_a_thread():
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("a-known-name")
        found.append((threading.get_native_id(), facts_of_this_thread(programs, 0)))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    ((tid, facts),) = found
    assert (facts.pid, facts.tgid) == (tid, os.getpid())
    assert tid != os.getpid()
    assert facts.comm == b"a-known-name"
    assert facts.state == 0  # it runs
    assert facts.exit_code == 0
    assert not facts.flags & PF_KTHREAD


def test_counts_and_times(programs):
    resource.getrusage(resource.RUSAGE_THREAD)
    before, cpu_before, delay_before = (
        resource.getrusage(resource.RUSAGE_THREAD), time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID), schedstat()
    )  # fmt: skip
    time.sleep(0.01)
    facts = facts_of_this_thread(programs, 0)
    after, cpu_after, delay_after = (
        resource.getrusage(resource.RUSAGE_THREAD), time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID), schedstat()
    )  # fmt: skip
    assert before.ru_minflt <= facts.minor <= after.ru_minflt
    assert before.ru_majflt <= facts.major <= after.ru_majflt
    assert before.ru_nvcsw < facts.voluntary <= after.ru_nvcsw
    assert before.ru_nivcsw <= facts.involuntary <= after.ru_nivcsw
    assert cpu_before <= facts.ran_ns + 10_000_000  # brought up to date by the tick
    assert facts.ran_ns <= cpu_after
    if btf.kernel_constants(btf.load_vmlinux())["TASK_RUN_DELAY"]:
        assert delay_before <= facts.run_delay_ns <= delay_after
        assert facts.run_delay_ns > 0


def test_blocked_signals(programs):
    blocked = {signal.SIGURG, signal.SIGUSR2, signal.SIGRTMIN + 3}
    old = signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        facts = facts_of_this_thread(programs, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    assert facts.blocked == sum(1 << (number - 1) for number in blocked)


def test_resident_size(programs):
    facts = facts_of_this_thread(programs, 0)
    accuracy = 3 * max(32, 2 * os.cpu_count()) * os.cpu_count() * PAGE
    assert abs(facts.resident - int(status("VmRSS")) * 1024) <= accuracy
    large = b"\1" * (64 << 20)
    grown = facts_of_this_thread(programs, 0).resident - facts.resident
    assert abs(grown - len(large)) <= 2 * accuracy


def test_files(programs, tmp_path):
    path = tmp_path / "a-file-of-1009-bytes"
    path.write_bytes(b"x" * 1009)
    with path.open("rb") as file:
        facts = facts_of_this_thread(programs, file.fileno())
        truth = os.fstat(file.fileno())
        assert facts.max_fds >= int(status("FDSize"))
    assert (facts.inode, facts.size) == (truth.st_ino, 1009)
    assert facts.name == path.name.encode()
    # the kernel's own form of a device number: 12 bits major, 20 bits minor
    assert (facts.device >> 20, facts.device & 0xFFFFF) == (os.major(truth.st_dev), os.minor(truth.st_dev))


def test_name_of_what_is_executed(programs, tmp_path):
    path = tmp_path / "a-known-program"
    shutil.copy("/bin/true", path)
    programs_before = programs.table("facts")[ctypes.c_int(0)].program
    for _ in range(50):  # others execute programs too
        subprocess.run([path], check=True)
        if programs.table("facts")[ctypes.c_int(0)].program == str(path).encode()[:63]:
            break
    else:
        pytest.fail(f"{programs_before} and {programs.table('facts')[ctypes.c_int(0)].program}")

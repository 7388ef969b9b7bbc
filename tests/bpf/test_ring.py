"""The ring: the same records as by BCC's own reader, at least 20 times as fast, and none that is not accounted for."""

import ctypes
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bitnet_trace.capture.address_spaces import AddressSpaces
from bitnet_trace.capture.bpf import Programs, Rings
from bitnet_trace.capture.drain import Drain
from bitnet_trace.capture.page_sizes import ResidencyLog
from bitnet_trace.capture.ring import Ring
from bitnet_trace.recording.layout import EVENT_DTYPE, Kind
from bitnet_trace.recording.writer import Writer

# BCC warns of each name that is no bytes object
pytestmark = [pytest.mark.requires_bpf, pytest.mark.filterwarnings("ignore:not a bytes object")]

SOURCE = Path(__file__).parent.parent / "programs" / "generator.bpf.c"
EVENTS_PER_CALL = 100
FLOOD_SECONDS = float(os.environ.get("BITNET_TRACE_FLOOD_SECONDS", "3"))
FLOOD_RATE = 1_000_000  # a second and CPU

# calls getppid() at a rate, on one CPU, until its standard input is closed
CALLER = """
import os, select, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
interval = 0.002
batch = int(int(sys.argv[2]) * interval)
sys.stdin.readline()
deadline = time.monotonic() + float(sys.argv[3])
while (now := time.monotonic()) < deadline:
    for _ in range(batch):
        os.getppid()
    time.sleep(max(now + interval - time.monotonic(), 0))
"""


@pytest.fixture
def programs():
    loaded = Programs(False, Rings(), extra=SOURCE)
    loaded._bpf.load_func("generate", 17)  # BPF_PROG_TYPE_RAW_TRACEPOINT
    loaded.attach_function("sys_enter", "generate")
    kinds = loaded.table("kinds")
    assert len(kinds) == len(Kind), "N_KINDS of generator.bpf.c has to grow with enum kind"
    for turn, kind in enumerate(Kind):
        kinds[ctypes.c_int(turn)] = ctypes.c_uint32(kind)
    yield loaded
    loaded.close()


def choose(programs, tid):
    generators = programs.table("generators")
    generators[ctypes.c_uint32(tid)] = ctypes.c_uint64(0)


def produced(programs):
    table = programs.table("produced")
    return {kind: int(table.sum(ctypes.c_int(kind)).value) for kind in Kind}


def generate(calls):
    for _ in range(calls):
        os.getppid()


def test_records_and_speed_against_bccs_own_reader(programs):
    """10 rounds of 100,000 events by each reader in turn; the ring is filled before, so that only reading is timed."""
    rounds, per_round = 10, 100_000
    choose(programs, os.getpid())
    ring = Ring(programs.ring_descriptor("events"), programs.rings.events, EVENT_DTYPE)
    by_callback = []

    def callback(_context, data, size):
        by_callback.append(ctypes.string_at(data, size))

    programs.table("events").open_ring_buffer(callback)
    ours_s, bccs_s = [], []
    for turn in range(rounds):
        first = 2 * turn * per_round
        generate(per_round // EVENTS_PER_CALL)
        begin = time.perf_counter()
        records = ring.drain()
        ours_s.append(time.perf_counter() - begin)
        assert np.array_equal(records["arg1"], np.arange(first, first + per_round))

        generate(per_round // EVENTS_PER_CALL)
        by_callback.clear()
        begin = time.perf_counter()
        programs._bpf.ring_buffer_consume()
        bccs_s.append(time.perf_counter() - begin)
        theirs = np.frombuffer(b"".join(by_callback), EVENT_DTYPE)
        assert np.array_equal(theirs["arg1"], np.arange(first + per_round, first + 2 * per_round))
        assert (theirs["arg2"] == ~theirs["arg1"]).all()
    ring.close()
    ours, bccs = (per_round / statistics.median(seconds) / 1e6 for seconds in (ours_s, bccs_s))
    print(f"\n{ours:.1f} M events/s by numpy, {bccs:.2f} M by BCC's callback: x{ours / bccs:.0f}")
    assert ours >= 20 * bccs


def test_records_do_not_change_on_their_way_around_the_ring(programs):
    """More than the ring holds, in uneven turns: the area is mapped twice, a turn may lie across its end."""
    choose(programs, os.getpid())
    ring = Ring(programs.ring_descriptor("events"), programs.rings.events, EVENT_DTYPE)
    taken = 0
    total = 2 * programs.rings.events // 48
    while taken < total:
        generate(997)
        while len(records := ring.drain(31_337)):
            assert (records["arg1"] == np.arange(taken, taken + len(records))).all()
            assert (records["tid"] == os.getpid()).all()
            taken += len(records)
    ring.close()


def test_what_does_not_fit_is_counted(programs):
    choose(programs, os.getpid())
    ring = Ring(programs.ring_descriptor("events"), programs.rings.events, EVENT_DTYPE)
    generate(20_000)  # 2 million, the ring holds 1.4
    received = np.bincount(ring.drain(1 << 22)["kind"], minlength=max(Kind) + 1)
    lost = programs.losses()["events"]
    assert sum(lost.values()) > 0
    for kind, count in produced(programs).items():
        assert received[kind] + lost.get(kind.name.lower(), 0) == count, kind
    ring.close()


def test_a_flood_through_the_writer_is_accounted_for(programs, tmp_path):
    """One generator on each CPU; the reader has to get along with what they leave it. All of it is on the disk or counted."""
    writer = Writer(tmp_path / "flood.btrace", {"command": ["flood"]})
    drain = Drain(programs, writer, AddressSpaces(), ResidencyLog(False))
    drain.begin(os.getpid(), {os.getpid(): "flood"}, time.monotonic_ns())
    callers = []
    for cpu in sorted(os.sched_getaffinity(0)):
        arguments = [str(cpu), str(FLOOD_RATE // EVENTS_PER_CALL), str(FLOOD_SECONDS)]
        caller = subprocess.Popen([sys.executable, "-c", CALLER, *arguments], stdin=subprocess.PIPE)
        choose(programs, caller.pid)
        callers.append(caller)
    for caller in callers:
        caller.stdin.close()
    while any(caller.poll() is None for caller in callers):
        drain.step()
        time.sleep(0.02)
    programs.detach()
    drain.finish(time.monotonic_ns())
    writer.close(0)
    received, lost, meant = drain.received, programs.losses()["events"], produced(programs)
    for kind, count in meant.items():
        name = kind.name.lower()
        assert received.get(name, 0) + lost.get(name, 0) == count, name
    with pa.OSFile(str(tmp_path / "flood.btrace" / "events.arrows")) as file:
        stored = sum(batch.num_rows for batch in pa.ipc.open_stream(file))
    assert stored == sum(received.get(kind.name.lower(), 0) for kind in meant)
    rate = sum(meant.values()) / FLOOD_SECONDS
    print(f"\n{rate / 1e6:.2f} M events/s produced, {100 * sum(lost.values()) / sum(meant.values()):.2f} % lost")
    assert rate >= 0.5 * FLOOD_RATE


def test_records_wait_for_a_longer_turn_while_there_is_room_for_them(programs, tmp_path):
    writer = Writer(tmp_path / "patient.btrace", {"command": ["patient"]})
    drain = Drain(programs, writer, AddressSpaces(), ResidencyLog(False))
    drain.begin(os.getpid(), {os.getpid(): "patient"}, time.monotonic_ns())
    drain.step()
    choose(programs, os.getpid())
    generate(10)
    assert drain.step(patience_s=60.0) == 0
    generate(2_000)  # 200,000: a seventh of the ring
    assert drain.step(patience_s=60.0) > 200_000
    generate(10)
    assert drain.step(patience_s=0.0) >= 1_000
    programs.detach()
    drain.finish(time.monotonic_ns())
    writer.close(0)

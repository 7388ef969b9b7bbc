"""Where faults fell: address spaces that change, resolved by what was mapped at the time."""

import random
import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import META, MS, PID, event, events, phase_row

from bitnet_trace.analysis.address_space import AddressSpace
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.fault_places import PlaceGatherer
from bitnet_trace.analysis.phases import name_phases
from bitnet_trace.analysis.tensors import Coverage, TensorTable, layer_of
from bitnet_trace.recording.layout import EVENT_DTYPE, READ_DIRECT, FaultFlag, Kind, MemoryDetail
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer

PAGE = 4096
BASE = 0x7F0000000000
PRIVATE = MemoryDetail.READ | MemoryDetail.WRITE | MemoryDetail.ANONYMOUS
DEVICE, INODE, MODEL = 8 << 20, 77, "/models/m.gguf"

# ---- an address space against a list of pages ---------------------------------------------------------------------------

place = st.integers(0, 40)
steps = st.lists(st.tuples(st.sampled_from(["put", "fill", "remove", "move"]), place, place, place), max_size=40)


NOWHERE = (-1, 0)


@given(steps)
def test_an_address_space_is_its_pages_at_every_time(made):
    space, pages = AddressSpace(), {}
    history = []
    for number, (how, begin, length, to) in enumerate(made):
        end = begin + length
        history.append(dict(pages))
        space.now_ns = 10 * (number + 1)
        if how == "put":
            space.put(begin, end, number, number)
            pages.update(dict.fromkeys(range(begin, end), (number, number)))
        elif how == "fill":
            space.fill(begin, end, number, number)
            pages.update({page: (number, number) for page in range(begin, end) if page not in pages})
        elif how == "remove":
            space.remove(begin, end)
            for page in range(begin, end):
                pages.pop(page, None)
        elif to >= end or to + length <= begin:  # mremap refuses places that overlap
            space.move(begin, end, to, to + length)
            moved = {page - begin + to: pages.pop(page) for page in range(begin, end) if page in pages}
            for page in range(to, to + length):
                pages.pop(page, None)
            moved = {page: (region, shift + to - begin if shift else 0) for page, (region, shift) in moved.items()}
            last = max(moved, default=None)
            if last is not None:  # it was made as long as was asked for
                moved.update(dict.fromkeys(range(last, to + length), moved[last]))
            pages.update(moved)
    history.append(pages)
    assert [space.at(page) for page in range(100)] == [pages.get(page, NOWHERE) for page in range(100)]
    times_ns, places = (axis.ravel() for axis in np.meshgrid(np.arange(0, 10 * len(history), 5), np.arange(100)))
    shuffled = np.random.default_rng(1).permutation(len(places))
    times_ns, places = times_ns[shuffled], places[shuffled]
    regions, shifts = space.lookup(times_ns, places)
    wanted = [history[at // 10].get(page, NOWHERE) for at, page in zip(times_ns.tolist(), places.tolist(), strict=True)]
    assert list(zip(regions.tolist(), shifts.tolist(), strict=True)) == wanted
    space.forget_past()
    now = np.full(100, 10 * len(history))
    assert space.lookup(now, np.arange(100))[0].tolist() == [pages.get(page, NOWHERE)[0] for page in range(100)]


def test_a_place_that_is_mapped_again_and_again_is_found_at_each_time():
    space, rounds = AddressSpace(), 3000
    for number in range(rounds):
        space.now_ns = 10 * number
        space.put(0, 1000, number)
    rng = np.random.default_rng(2)
    times_ns, places = rng.integers(0, 10 * rounds, 20_000), rng.integers(0, 1100, 20_000)
    begun_s = time.process_time()
    regions, _ = space.lookup(times_ns, places)
    assert time.process_time() - begun_s < 2
    assert regions.tolist() == np.where(places < 1000, times_ns // 10, -1).tolist()


# ---- recordings ---------------------------------------------------------------------------------------------------------


def gathered(recording, phases, batches):
    gatherer = PlaceGatherer(recording, phases)
    for batch in batches:
        gatherer.add(ByKind(batch))
    return gatherer.result()


@pytest.fixture
def recorded(tmp_path):
    """`recorded(rows, maps=, areas=, tensors=, threads=, phases=)`: the places of a recording of those."""

    def record(rows, meta=META, **streams):
        with_phases = {"phases": [phase_row(1, 0, 100 * MS, "load"), phase_row(2, 100 * MS, None)], **streams}
        writer = Writer(tmp_path / "x.btrace", meta, force=True)
        for name, table in with_phases.items():
            getattr(writer, name)(table)
        writer.events(rows if isinstance(rows, np.ndarray) else events(*rows))
        writer.close(0)
        recording = open_recording(tmp_path / "x.btrace")
        assert not recording.warnings
        return gathered(recording, name_phases(recording.phases), recording.event_batches(1000))

    return record


def fault(ts_ns, address, flags=0, phase=1, tid=PID):
    return event(Kind.FAULT, ts_ns, phase, tid, flags, address, 700)


def mmap(ts_ns, address, pages, detail=PRIVATE, phase=1, tid=PID, duration=10):
    return event(Kind.MMAP, ts_ns, phase, tid, pages, address | detail, duration)


def mapped_model(ts_ns, pages=100, offset=0):
    row = {"pid": PID, "ts_ns": ts_ns - 10, "address": 0, "length": pages * PAGE, "offset": offset}
    return [{**row, "device": DEVICE, "inode": INODE, "path": MODEL}]


def tensor(name, offset, size, kind="I2_S"):
    row = {"device": DEVICE, "inode": INODE, "path": MODEL, "name": name, "type": 36, "type_name": kind}
    return {**row, "elements": size * 4, "rows": 1, "offset": offset, "size_bytes": size}


def counts(table, key="region"):
    return dict(zip(table[key], table["faults_minor"] + table["faults_major"], strict=True))


def test_an_address_is_what_was_mapped_at_its_time(recorded):
    places = recorded(
        [
            mmap(10, BASE, 4),
            fault(20, BASE),
            event(Kind.MUNMAP, 40, 1, PID, 4, BASE, 15),
            fault(22, BASE + PAGE),
            fault(30, BASE),  # while it is taken away
            mmap(50, BASE, 4, PRIVATE | MemoryDetail.HUGETLB, phase=2),
            fault(60, BASE, FaultFlag.MAJOR, phase=2),
            fault(70, BASE + 4 * PAGE),
            fault(80, 5, FaultFlag.FAILED),
        ]
    )
    assert counts(places.by_region) == {"anonymous, mapped in load": 2, "unknown": 2, "hugetlb memory": 1}
    row = places.by_region.set_index("region").loc["hugetlb memory"]
    assert (row["faults_major"], row["fault_ns"], row["bytes"]) == (1, 700, PAGE)
    assert row["phases"] == {"prefill": {"faults_major": 1, "fault_ns": 700, "bytes": PAGE}}


def test_two_threads_and_one_place(recorded):
    """One unmaps, another is given the same place before that call has returned."""
    places = recorded(
        [
            mmap(10, BASE, 1),
            mmap(30, BASE, 1, PRIVATE | MemoryDetail.SHARED, tid=PID + 1),
            event(Kind.MUNMAP, 40, 1, PID, 1, BASE, 20),
            fault(50, BASE),
        ]
    )
    assert counts(places.by_region) == {"shared memory": 1}


def test_heap_and_moved_memory(recorded):
    places = recorded(
        [
            event(Kind.BRK, 5, 1, PID, 0, BASE, 1),
            event(Kind.BRK, 6, 1, PID, 0, BASE + 3 * PAGE, 1),
            fault(7, BASE + 2 * PAGE),
            fault(8, BASE + 3 * PAGE),
            mmap(10, BASE + 8 * PAGE, 2, PRIVATE | MemoryDetail.STACK),
            event(Kind.MREMAP_FROM, 20, 1, PID, 2, BASE + 8 * PAGE, 0),
            event(Kind.MREMAP, 20, 1, PID, 5, BASE + 20 * PAGE, 3),
            fault(21, BASE + 8 * PAGE),
            fault(22, BASE + 24 * PAGE),
            event(Kind.BRK, 30, 1, PID, 0, BASE + PAGE, 1),
        ]
    )
    assert counts(places.by_region) == {"heap": 1, "unknown": 2, "thread stack": 1}


def test_a_child_has_what_its_parent_had(recorded):
    thread = {"comm": "x", "end_ns": None, "exit_code": None}
    threads = [
        {**thread, "tid": PID, "pid": PID, "parent_tid": None, "start_ns": 1},
        {**thread, "tid": 200, "pid": 200, "parent_tid": PID, "start_ns": 20},
    ]
    phases = [phase_row(1, 0, None, "startup"), {**phase_row(9, 20, None, "startup"), "pid": 200}]
    execs = dict.fromkeys(("begin", "end", "offset", "device", "inode", "protection"), 0)
    areas = [{**execs, "pid": 200, "ts_ns": 40, "moment": "exec", "path": "/bin/true"}]
    places = recorded(
        [
            mmap(10, BASE, 4),
            fault(30, BASE, phase=9, tid=200),
            event(Kind.MUNMAP, 32, 1, PID, 4, BASE, 1),
            fault(34, BASE + PAGE, phase=9, tid=200),
            fault(36, BASE + PAGE),
            fault(50, BASE, phase=9, tid=200),
        ],
        threads=threads,
        phases=phases,
        areas=areas,
    )
    assert counts(places.by_region) == {"anonymous, mapped in startup": 2, "unknown": 2}


def test_tensors_and_layers(recorded):
    tensors = [tensor("token_embd.weight", 8000, 1000), tensor("blk.11.ffn_up.weight", 9000, 20000)]
    places = recorded(
        [
            event(Kind.POPULATE, 10, 1, PID, 9, 3 | 1 << 32, 6 * PAGE),
            mmap(10, BASE, 6, MemoryDetail.READ | MemoryDetail.POPULATE),
            fault(20, BASE + 8500),
            fault(21, BASE + 9000, FaultFlag.MAJOR | FaultFlag.KERNEL),
            fault(22, BASE + 5),
        ],
        maps=mapped_model(10),
        tensors=tensors,
    )
    region = places.by_region.iloc[0]
    assert (region["region"], region["path"], region["faults_populate"]) == ("model", MODEL, 4)
    assert (region["faults_minor"], region["faults_major"], region["faults_kernel"]) == (2, 1, 1)
    assert region["populated_bytes"] == 6 * PAGE
    assert counts(places.by_tensor, "tensor") == {"token_embd.weight": 1, "blk.11.ffn_up.weight": 1}
    populated = dict(zip(places.by_tensor["tensor"], places.by_tensor["populated_bytes"], strict=True))
    assert populated == {"token_embd.weight": 1000, "blk.11.ffn_up.weight": 6 * PAGE - 9000}
    assert places.by_layer["layer"].tolist() in ([11, pd.NA], [pd.NA, 11])
    assert places.by_tensor.set_index("tensor")["type"].to_dict() == dict.fromkeys(populated, "I2_S")


def test_read_bytes(recorded):
    """Calls of the read family that took parts of a model, by tensor; past the page cache or not."""
    tensors = [tensor("blk.0.a", 100, 50), tensor("blk.0.b", 150, 50), tensor("blk.1.c", 256, 1000)]
    rows = []
    for number, (offset, length) in enumerate([(0, 160), (160, 40), (256 | READ_DIRECT, 512)]):
        rows.append(event(Kind.FILE_READ, 10 + number, 1, PID, DEVICE, offset, INODE))
        rows.append(event(Kind.READ, 10 + number, 1, PID, 3, length, 5))
    rows.append(event(Kind.READ, 20, 1, PID, 3, 99, 5))
    places = recorded(rows, tensors=tensors)
    read = dict(zip(places.by_tensor["tensor"], places.by_tensor["read_bytes"], strict=True))
    assert read == {"blk.0.a": 50, "blk.0.b": 50, "blk.1.c": 512}
    assert places.by_region["read_bytes"].sum() == 160 + 40 + 512
    once = dict(zip(places.by_tensor["tensor"], places.by_tensor["read_once_bytes"], strict=True))
    assert once == read


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12), st.integers(0, 3))
def test_coverage_is_its_bytes(spans, piece):
    read, pages = Coverage(), set()
    for begin, length in spans:
        read.add(np.array([begin]), np.array([begin + length]))
        pages.update(range(begin, begin + length))
    begins = np.arange(80)
    assert read.within(begins, begins + piece).tolist() == [
        len(pages & set(range(begin, begin + piece))) for begin in range(80)
    ]
    assert read.total() == len(pages)


def test_buffers_by_the_size_that_the_engine_prints(recorded):
    pages = (16 << 20) // PAGE + 1
    meta = {**META, "buffers_reported": [["KV cache", 16 << 20], ["x"], ["x", "y"], ["tiny", 4]]}
    places = recorded([mmap(10, BASE, pages), fault(20, BASE), mmap(30, BASE // 2, 9), fault(40, BASE // 2)], meta=meta)
    assert counts(places.by_region) == {"KV cache": 1, "anonymous, mapped in load": 1}


@pytest.mark.parametrize(
    ("name", "layer"),
    [("blk.0.attn_q.weight", 0), ("enc.blk.31.x", 31), ("blk.x.y", None), ("output.weight", None), ("v.blk.2.a", 2)],
)
def test_layer_of(name, layer):
    assert layer_of(name) == layer


def test_overlaps_of_a_file_without_tensors():
    assert list(
        TensorTable(pd.DataFrame(columns=["path", "offset", "name", "type", "type_name", "size_bytes"])).overlaps(
            "x", 0, 5
        )
    ) == [(-1, 5)]


def test_a_million_faults_in_a_second(recorded, tmp_path):
    """Between 2,000 changes of the address space, into 1,009 tensors."""
    size, generator = 100 * PAGE, random.Random(5)
    tensors = [tensor(f"blk.{number // 9}.t{number % 9}", number * size, size) for number in range(1009)]
    rows = np.zeros(1_000_000, EVENT_DTYPE)
    rows["ts_ns"] = 1000 + np.arange(len(rows)) * 1000
    rows["kind"], rows["tid"], rows["phase"], rows["arg2"] = Kind.FAULT, PID, 1, 900
    rows["arg1"] = BASE + np.random.default_rng(1).integers(0, 1009 * size, len(rows))
    changes = [mmap(500, BASE, 1009 * 100, MemoryDetail.READ)]
    for number in range(1000):
        at = 2000 + generator.randrange(len(rows)) * 1000
        changes += [
            mmap(at + 1, BASE // 2 + number * size, 100),
            event(Kind.MUNMAP, at + 9000, 1, PID, 50, BASE // 2 + number * size, 1),
        ]
    both = np.concatenate([rows, events(*changes)])
    both = both[np.argsort(both["ts_ns"], kind="stable")]
    writer = Writer(tmp_path / "million.btrace", META)
    writer.phases([phase_row(1, 0, None, "load")])
    writer.maps(mapped_model(500))
    writer.tensors(tensors)
    writer.events(both)
    writer.close(0)
    recording = open_recording(tmp_path / "million.btrace")
    phases = name_phases(recording.phases)
    batches = list(recording.event_batches(500_000))
    took_s = []
    for _ in range(3):  # of three, for a machine that does other things as well
        begin_s = time.process_time()
        places = gathered(recording, phases, batches)
        took_s.append(time.process_time() - begin_s)
    assert len(places.by_tensor) == 1009
    assert counts(places.by_region) == {"model": 1_000_000}
    assert min(took_s) < 1.0
    tracemalloc.start()
    gathered(recording, phases, batches)
    assert tracemalloc.get_traced_memory()[1] < 1 << 30
    tracemalloc.stop()

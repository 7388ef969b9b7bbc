"""What had to be brought into the page cache, and what was there: one file, cold and warm."""

import contextlib
import ctypes
import mmap
import os

import pytest
from model_files import write_spaced

from bitnet_trace.analysis.report import build_report


def evict(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


@contextlib.contextmanager
def held_in_memory(path):
    """A machine may reclaim memory ahead of need, a file that was just read too; not what a process has locked."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        here = ctypes.c_char.from_buffer(mapped)
        locked = ctypes.CDLL(None, use_errno=True).mlock(ctypes.byref(here), ctypes.c_size_t(len(mapped)))
        del here
        assert locked == 0, os.strerror(ctypes.get_errno())
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    write_spaced(path, 101)
    return path


def load_row(traced):
    (row,) = build_report(traced.recording).load_path.to_dict("records")
    return row


def test_cold_and_warm_by_read(model, trace):
    size = model.stat().st_size
    evict(model)
    cold = load_row(trace(["cat", model]))
    assert cold["missed_bytes"] == -(-size // 4096) * 4096
    assert (cold["cache"], cold["cached_read_bytes"]) == ("cold", size)
    assert cold["readahead_waited"] >= 1
    with held_in_memory(model):
        warm = load_row(trace(["cat", model]))
    assert (warm["cache"], warm["cached_read_bytes"], warm["missed_bytes"]) == ("warm", size, 0)


def test_past_the_page_cache(model, trace):
    size = model.stat().st_size // 65536 * 65536
    evict(model)
    command = ["dd", f"if={model}", "of=/dev/null", "bs=64K", f"count={size // 65536}", "iflag=direct"]
    row = load_row(trace(command))
    assert (row["direct_read_bytes"], row["missed_bytes"]) == (size, 0)

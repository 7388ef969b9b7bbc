"""What the BPF programs have counted of perf's counters, as rows of a recording."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitnet_trace.recording.schema import PERF_DTYPE

_VALUE = np.dtype([("count", "<u8"), ("enabled_ns", "<u8"), ("running_ns", "<u8")])  # struct bpf_perf_event_value


def perf_rows(taken: bytes, numbers: Sequence[int]) -> npt.NDArray[np.void]:
    """schema.PERF_DTYPE of each thread and phase, without counters that its CPUs did not have.

    `taken`: `struct counter_key` and `struct counted` of bpf/counter.bpf.c one after the other; `numbers` of its events
    in meta["counters"].
    """
    of_each = np.dtype([("tid", "<u4"), ("phase", "<u4"), ("until_ns", "<u8"), ("of", _VALUE, (len(numbers),))])
    found = np.frombuffer(taken, of_each)
    rows = np.empty((len(found), len(numbers)), PERF_DTYPE)
    for name in ("tid", "phase", "until_ns"):
        rows[name] = found[name][:, np.newaxis]
    for name in ("count", "enabled_ns", "running_ns"):
        rows[name] = found["of"][name]
    rows["counter"] = np.array(numbers, "<u4")
    chosen: npt.NDArray[np.void] = rows[rows["enabled_ns"] > 0]
    return chosen

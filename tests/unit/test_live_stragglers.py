import numpy as np

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.live.stragglers import Stragglers
from bitnet_trace.recording.layout import EVENT_DTYPE, Kind

CALL = {"id": 5, "role": "decode", "begin_ns": 1_000, "end_ns": 9_000, "overlapped": False}
WINDOW = {"what": "barriers", "begin_ns": 500, "end_ns": 9_500, "hits": 6}


def entries(*arrivals, phase=5):
    """(time, tid) each, at one barrier."""
    events = np.zeros(len(arrivals), EVENT_DTYPE)
    events["kind"], events["phase"], events["arg1"] = Kind.BARRIER, phase, 0x7000
    for row, (ts_ns, tid) in zip(events, arrivals, strict=True):
        row["ts_ns"], row["tid"] = ts_ns, tid
    return ByKind(events)


def test_who_came_last_in_the_newest_window():
    found = Stragglers()
    found.take_events(entries((2000, 7), (2500, 8), (3000, 7), (3600, 8), (4400, 7), (4000, 8)))
    found.take_windows([WINDOW])
    found.update([CALL], 9_000)
    assert found.barriers == 0  # its last events may still come
    found.update([CALL], 9_501)
    assert (found.last, found.barriers) == ({8: 2, 7: 1}, 3)

    later = {**CALL, "id": 6, "begin_ns": 11_000, "end_ns": 19_000}
    found.take_events(entries((12_000, 8), (12_400, 7), phase=6))
    found.take_windows([{**WINDOW, "begin_ns": 10_500, "end_ns": 19_500}])
    found.update([CALL, later], 20_000)
    assert (found.last, found.barriers) == ({7: 1}, 1)


def test_calls_that_reach_over_the_window_say_nothing():
    found = Stragglers()
    found.take_events(entries((2000, 7), (2500, 8)))
    found.take_windows([{**WINDOW, "begin_ns": 1_500}, {**WINDOW, "what": "function:x"}])
    found.update([CALL], 10_000)
    assert (found.last, found.barriers) == ({}, 0)

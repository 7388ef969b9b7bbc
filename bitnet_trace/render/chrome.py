"""A trace in Chrome's JSON form (Trace Event Format), for chrome://tracing, Perfetto and Speedscope.

Times are microseconds of CLOCK_MONOTONIC, with the nanoseconds behind the point.
"""

import json
from collections.abc import Iterator
from typing import Any

from bitnet_trace.analysis.trace import Trace, Track

# Viewers know processes and threads only: CPUs are threads of one process, phases a thread of theirs.
_CPUS_PID = 0
_PHASES_TID = 1 << 30  # beyond all threads


def chunks(trace: Trace) -> Iterator[bytes]:
    """The file in pieces, one event a line, in ASCII."""
    yield b'{"displayTimeUnit": "ns", "traceEvents": [\n'
    separator = ""
    for event in _events(trace):
        yield f"{separator}{json.dumps(event)}".encode("ascii")
        separator = ",\n"
    yield b"\n]}\n"


def _events(trace: Trace) -> Iterator[dict[str, Any]]:
    if any(track.kind == "cpu" for track in trace.tracks):
        yield _named("process_name", _CPUS_PID, 0, "CPUs")
    for pid, name in trace.processes.items():
        yield _named("process_name", pid, 0, name)
    for track in trace.tracks:
        pid, tid = _place(track)
        yield _named("thread_name", pid, tid, track.name)
        slices = track.slices
        columns = (slices.name.tolist(), slices.begin_ns.tolist(), (slices.end_ns - slices.begin_ns).tolist())
        for code, begin_ns, dur_ns in zip(*columns, strict=True):
            times = {"ts": begin_ns / 1000, "dur": dur_ns / 1000}
            yield {"ph": "X", "cat": track.kind, "name": slices.names[code], "pid": pid, "tid": tid, **times}
    for series in trace.series:
        for ts_ns, value in zip(series.ts_ns.tolist(), series.values.tolist(), strict=True):
            yield {"ph": "C", "name": series.name, "pid": series.pid, "ts": ts_ns / 1000, "args": {series.unit: value}}
    yield from _wakeups(trace)


def _wakeups(trace: Trace) -> Iterator[dict[str, Any]]:
    pids = {track.tid: track.pid for track in trace.tracks if track.kind == "thread"}
    wakeups = trace.wakeups
    columns = (wakeups.ts_ns, wakeups.waker, wakeups.woken, wakeups.runs_ns)
    for number, (ts_ns, waker, woken, runs_ns) in enumerate(zip(*(one.tolist() for one in columns), strict=True), 1):
        arrow = {"cat": "wakeup", "name": "wakes", "id": number}
        yield {"ph": "s", **arrow, "pid": pids[waker], "tid": waker, "ts": ts_ns / 1000}
        yield {"ph": "f", "bp": "e", **arrow, "pid": pids[woken], "tid": woken, "ts": runs_ns / 1000}


def _place(track: Track) -> tuple[int, int]:
    if track.kind == "cpu":
        return _CPUS_PID, track.tid
    return track.pid, track.tid if track.kind == "thread" else _PHASES_TID + max(track.tid, 0)


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}

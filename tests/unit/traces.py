"""Small hand-made recordings for tests: events, phase records, and a whole run on disk."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bitnet_trace.recording.layout import EVENT_DTYPE, FaultFlag, Kind, PhaseEnd, Role, SwitchFlag
from bitnet_trace.recording.phase_log import PhaseLog
from bitnet_trace.recording.writer import Writer

MS = 1_000_000
PID = 100


def event(
    kind: int, ts_ns: int, phase: int = 1, tid: int = PID, arg0: int = 0, arg1: int = 0, arg2: int = 0, cpu: int = 0
) -> tuple[int, ...]:
    return (ts_ns, tid, phase, int(kind), cpu, int(arg0), int(arg1), int(arg2))


def events(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(list(rows), dtype=EVENT_DTYPE)


def begin(
    ts_ns: int, phase: int, role: int, tid: int = PID, pid: int = PID, context: int = 0, n_tokens: int = 0
) -> tuple[int, ...]:
    return event(Kind.PHASE_BEGIN, ts_ns, phase, tid, role, context, n_tokens | pid << 32)


def end(ts_ns: int, phase: int, how: int = PhaseEnd.RETURN, tid: int = PID, pid: int = PID) -> tuple[int, ...]:
    return event(Kind.PHASE_END, ts_ns, phase, tid, how, 0, pid << 32)


def mark(ts_ns: int, phase: int, role: int, argument: int = 0, tid: int = PID, pid: int = PID) -> tuple[int, ...]:
    return event(Kind.PHASE_MARK, ts_ns, phase, tid, role, argument, pid << 32)


def ubatch(ts_ns: int, phase: int, n_tokens: int, tid: int = PID, pid: int = PID) -> tuple[int, ...]:
    return event(Kind.PHASE_TOKENS, ts_ns, phase, tid, Role.UBATCH, 0, n_tokens | pid << 32)


def phase_row(phase: int, begin_ns: int, end_ns: int | None, role: str = "decode", **values: Any) -> dict[str, Any]:
    row = {
        "id": phase,
        "pid": PID,
        "tid": PID,
        "context": 1,
        "role": role,
        "begin_ns": begin_ns,
        "end_ns": end_ns,
        "end_kind": None if end_ns is None else int(PhaseEnd.RETURN),
        "n_tokens": None,
        "n_sampled": 0,
        "n_logits": 0,
        "warmup": False,
        "before_reset": False,
        "overlapped": False,
    }
    return {**row, **values}


_TYPES = {"end_ns": "Int64", "end_kind": "Int64", "n_tokens": "Int64", "context": "UInt64"}


def phase_table(*rows: dict[str, Any]) -> pd.DataFrame:
    columns = list(phase_row(0, 0, 0))
    return pd.DataFrame(list(rows), columns=columns).astype(_TYPES)


class Script:
    """Phase records of one process in the order of an inference, as the kernel side sends them."""

    def __init__(self, pid: int = PID, start_ns: int = 1000 * MS, first_id: int = 1) -> None:
        self.pid = pid
        self.now_ns = start_ns
        self.id = first_id
        self.records = [begin(start_ns, first_id, Role.STARTUP, pid, pid)]

    def call(
        self,
        role: int,
        dur_ns: int,
        n_tokens: int = 0,
        before_ns: int = MS,
        context: int = 1,
        samples: int = 0,
        idle_ns: int = 0,
    ) -> int:
        """A gap of `before_ns`, the last `idle_ns` of it idle, then the call, then `samples` marks. The call's id."""
        pid = self.pid
        self.now_ns += before_ns - idle_ns
        if idle_ns:
            self._next(Role.IDLE, PhaseEnd.GAP)
            self.now_ns += idle_ns
        call = self._next(role, PhaseEnd.GAP, context, n_tokens)
        self.now_ns += dur_ns
        gap = self._next(Role.GAP, PhaseEnd.RETURN)
        self.records += [mark(self.now_ns + 1 + i, gap, Role.SAMPLE, tid=pid, pid=pid) for i in range(samples)]
        return call

    def mark(self, role: int, argument: int = 0) -> None:
        self.records.append(mark(self.now_ns, self.id, role, argument, self.pid, self.pid))

    def exit(self, after_ns: int = MS) -> "Script":
        self.now_ns += after_ns
        self.records.append(end(self.now_ns, self.id, PhaseEnd.EXIT, self.pid, self.pid))
        return self

    def rows(self) -> list[dict[str, Any]]:
        rows = {row["id"]: row for row in PhaseLog().fold(events(*self.records))}
        return list(rows.values())

    def table(self) -> pd.DataFrame:
        return phase_table(*self.rows())

    def _next(self, role: int, how: int, context: int = 0, n_tokens: int = 0) -> int:
        self.records.append(end(self.now_ns, self.id, how, self.pid, self.pid))
        self.id += 1
        self.records.append(begin(self.now_ns, self.id, role, self.pid, self.pid, context, n_tokens))
        return self.id


def inference(slow: float = 1.0, rng: np.random.Generator | None = None) -> Script:
    """Load, init, warm-up, a prompt of 12 tokens, five decoded tokens, exit.

    `slow` stretches the decode calls; with `rng` all lengths vary by 1 %.
    """

    def length(ns: int) -> int:
        return round(ns * (1.0 if rng is None else rng.normal(1.0, 0.01)))

    script = Script()
    script.call(Role.LOAD, length(100 * MS))
    script.call(Role.INIT, length(20 * MS))
    script.mark(Role.WARMUP, 1)
    script.call(Role.DECODE, length(8 * MS), n_tokens=2)
    script.mark(Role.WARMUP, 0)
    script.call(Role.DECODE, length(60 * MS), n_tokens=12, samples=1)
    for _ in range(5):
        script.call(Role.DECODE, round(length(10 * MS) * slow), n_tokens=1, samples=1)
    return script.exit(2 * MS)


META: dict[str, Any] = {
    "version": "0.1.0",
    "command": ["llama-cli", "-m", "model.gguf", "-p", "hello"],
    "engine": "llama.cpp",
    "host": {"kernel": "6.18.0", "cpu_model": "Example CPU", "cpus_online": [0, 1]},
    "options": {"detail": "events"},
    "start_ns": 1000 * MS,
    "clock_offset_ns": 5,
    "wall_ns": 270 * MS,
    "probes": [
        {"name": "llama_decode", "role": "decode", "attached": True, "reason": None, "cost_class": "cheap", "hits": 7},
        {"name": "llama_free", "role": "teardown", "attached": True, "reason": None, "cost_class": "cheap", "hits": 0},
        {"name": "sched_switch", "role": None, "attached": True, "reason": None, "cost_class": "cheap", "hits": None},
        *(
            {"name": name, "role": None, "attached": False, "reason": "no such tracepoint", "cost_class": "kernel"}
            for name in ("io_uring_submit_req", "io_uring_complete", "tlb_flush")
        ),
    ],
    "losses": {"events": {"fault": 3}, "tasks": 0, "recursion": 1},
    "received": {"fault": 996},
    "cost": {"bpf_ns": 1234, "bpf_runs": 10, "overhead_pct_estimate": 1.25},
    "timings_reported": [
        {"what": "load", "ms": 125.0, "count": None, "unit": None, "tokens_per_second": None, "slot": None},
        {"what": "prefill", "ms": 59.0, "count": 12, "unit": "tokens", "tokens_per_second": 203.39, "slot": None},
        {"what": "decode", "ms": 49.5, "count": 5, "unit": "runs", "tokens_per_second": 101.01, "slot": None},
    ],
    "warnings": [],
}


def inference_events(script: Script) -> np.ndarray:
    """In every phase of `script`: a fault by the main thread, and a switch of a worker that ran half of it."""
    rows = []
    for row in script.rows():
        half = (row["end_ns"] - row["begin_ns"]) // 2
        ts_ns = row["begin_ns"] + half
        rows.append(event(Kind.FAULT, ts_ns, row["id"], arg0=FaultFlag.WRITE, arg1=4096, arg2=1000 + row["id"]))
        rows.append(event(Kind.SWITCH_OUT, ts_ns, row["id"], PID + 1, SwitchFlag.VOLUNTARY, half))
    return events(*rows)


def write_inference(path: Path, **meta: Any) -> Path:
    """A complete recording of `inference` at `path`."""
    script = inference()
    writer = Writer(path, {**META, **meta})
    writer.phases(script.rows())
    writer.events(inference_events(script))
    writer.threads(
        [
            {"tid": PID, "pid": PID, "comm": "llama-cli", "parent_tid": 1, "start_ns": 1000 * MS, "end_ns": None},
            {"tid": PID + 1, "pid": PID, "comm": "worker", "parent_tid": PID, "start_ns": 1001 * MS, "end_ns": None},
        ]
    )
    writer.maps([{"pid": PID, "ts_ns": 1, "address": 1 << 46, "length": 4096, "offset": 0, "path": "/m.gguf"}])
    area = {"pid": PID, "ts_ns": 1, "moment": "held", "begin": 4096, "end": 8192, "offset": 0, "device": 1, "inode": 2}
    writer.areas([{**area, "protection": 5, "path": "/bin/llama-cli"}, {**area, "moment": "exec", "protection": 0}])
    writer.residency([{**area, "page_bytes": 4096, "file": True, "moment": "decode"}])
    tensor = {
        "device": 1,
        "inode": 2,
        "path": "/m.gguf",
        "type": 36,
        "type_name": "I2_S",
        "elements": 64,
        "rows": 8,
        "offset": 0,
    }
    writer.tensors([{**tensor, "name": "blk.0.attn_q.weight", "size_bytes": 4096}])
    writer.close(0)
    return path


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """A recording of these files, in place of the one that was put there before."""
    path = folder / "x.btrace"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path

"""A recording with rows in every stream but the counters, those that only some runs have among them."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from busy import N_THREADS, PERIOD_NS, write_busy
from traces import META, MS, PID, event, events

from bitnet_trace.recording.layout import Kind, MemoryDetail
from bitnet_trace.recording.schema import PERF_DTYPE, SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE
from bitnet_trace.recording.writer import Writer

MODEL_AT, MODEL_BYTES = 1 << 46, 64 << 20
DEVICE, INODE = 8 << 20, 77
START_NS = 1000 * MS
BARRIERS_A_CALL = 8
TENSOR_AT = 1 << 44
FUTEX = 202 + 1


def write_everything(path: Path, name: str = "llama-worker") -> Path:
    """write_busy, and where memory lay and in which pages, tensors, taskstats, windows with barriers, operations and
    counted calls, what threads asked of the scheduler, and stacks of waits. `name` is that of files and tensors too."""
    return write_busy(path, name, more=partial(_more, name=name))


def _more(writer: Writer, phases: list[dict[str, Any]], name: str) -> None:
    decodes = [row for row in phases if row["role"] == "decode"]
    writer.events(_barriers(decodes[:2]))
    writer.events(_operations(decodes[3]))
    file = {"device": DEVICE, "inode": INODE, "path": f"/{name}.gguf"}
    area = {"pid": PID, "ts_ns": START_NS + 1, "moment": "held", "offset": 0, "device": 0, "inode": 0, "protection": 3}
    code = {"device": 1, "inode": 2, "protection": int(MemoryDetail.READ | MemoryDetail.EXEC)}
    writer.areas(
        [
            {**area, "ts_ns": START_NS, "moment": "exec", "begin": 0, "end": 0, "path": f"/bin/{name}"},
            {**area, "begin": 1 << 22, "end": 1 << 23, **code, "path": f"/bin/{name}"},
            {**area, "begin": 1 << 24, "end": 1 << 25, "path": "[heap]"},
            {**area, "begin": MODEL_AT, "end": MODEL_AT + MODEL_BYTES, "protection": 1, **file},
        ]
    )
    resident = {"pid": PID, "page_bytes": 4096, "file": True, "begin": MODEL_AT}
    writer.residency(
        {**resident, "ts_ns": row["end_ns"], "moment": moment, "end": MODEL_AT + (number << 20)}
        for number, (moment, row) in enumerate(
            (("after load", phases[1]), ("decode", decodes[0]), ("end", phases[-1])), 1
        )
    )
    huge = {"page_bytes": 2 << 20, "file": False, "begin": 1 << 24, "end": 1 << 25, "moment": "end"}
    writer.residency([{**resident, **huge, "ts_ns": phases[-1]["end_ns"]}])
    writer.numa(
        {
            "pid": PID,
            "ts_ns": phases[-1]["end_ns"],
            "moment": "end",
            "begin": MODEL_AT + (node << 20),
            "end": MODEL_AT + (node + 1 << 20),
            "node": node,
        }
        for node in range(2)
    )
    tensor = {**file, "type": 36, "type_name": "I2_S", "elements": 4096 * 64, "rows": 64, "size_bytes": 1 << 20}
    writer.tensors(
        {**tensor, "name": tensor_name, "offset": number << 20}
        for number, tensor_name in enumerate(("blk.0.attn_q.weight", "blk.1.ffn_down.weight", f"{name}.weight"))
    )
    spans = [(row["begin_ns"] - 10, row["end_ns"] + 10) for row in decodes]
    hits = BARRIERS_A_CALL * N_THREADS
    kinds = ("barriers", "barriers", f"function:{name}", "operations", f"function:{name}")
    writer.windows(
        {"what": what, "begin_ns": begin, "end_ns": end, "hits": hits, "cost_ns": 2000 * hits}
        for what, (begin, end) in zip(kinds, spans, strict=False)
    )
    writer.calls(
        {"probe": 1, "phase": decodes[i]["id"], "calls": n, "begin_ns": spans[i][0], "end_ns": spans[i][1]}
        for i, n in ((2, 64), (4, 67))
    )
    edges = {"begin_ns": spans[2][0], "end_ns": spans[2][1]}
    writer.durations(
        {"probe": 0, "phase": decodes[2]["id"], "bucket": bucket, "calls": 7 * bucket, "total_ns": ns, **edges}
        for bucket, ns in ((61, 410_000), (64, 470_000))
    )
    account = {
        "at": "exit",
        "pid": PID,
        "comm": name,
        "version": 16,
        "nvcsw": 8,
        "nivcsw": 8,
        "min_flt": 8,
        "maj_flt": 0,
    }
    account |= {"cpu_count": 17, "cpu_delay_ns": 5 * MS, "cpu_run_virtual_ns": 200 * MS}
    writer.taskstats({**account, "tid": PID + number} for number in range(N_THREADS))
    asked = {"ts_ns": START_NS + 2, "pid": PID, "caller": PID, "error": None, "cpus": "0-3", "policy": 0, "nice": 0}
    writer.scheduling({**asked, "tid": PID + number, "priority": 0} for number in range(N_THREADS))
    writer.scheduling(
        [
            {**asked, "tid": PID, "call": "sched_setaffinity", "error": 0, "cpus": "0-1", "policy": None, "nice": None},
            {**asked, "tid": PID, "call": "sched_setscheduler", "error": 1, "cpus": None, "policy": 1, "priority": 5},
        ]
    )
    edges = [(PID, row["id"], 0, 1_000_000, 9 * MS, 9 * MS, row["end_ns"]) for row in decodes]
    writer.perf(np.array(edges, PERF_DTYPE))
    writer.graph_tensors(
        {"ts_ns": START_NS, "pid": PID, "address": TENSOR_AT + number, "name": f"{name}-{number}"}
        for number in range(2)
    )
    counter = {"name": name, "unit": None, "scale": 1.0, "reason": None}
    windows = {
        "budget_pct": 2.0,
        "spent_ns": 4000 * hits,
        "reason": None,
        "functions": {},
        "durations": {name: {"reason": name}},
    }
    probes = [{**one, "symbol": name} for one in META["probes"] if one["attached"]]
    probes[1]["symbol"] = f"{name}memcpy"
    writer.update_meta(numa={"0": [0], "1": [1]}, probes=probes)
    windows["operations"] = {"names": {str(PID): ["NONE", "MUL_MAT", name]}, "layout": "version", "reason": None}
    writer.update_meta(
        options={"detail": "ops"}, counters=[counter, {**counter, "name": "cycles", "reason": name}], windows=windows
    )
    waits = [(row["begin_ns"] + 5 * MS, PERIOD_NS // 4, 9, PID + 1, PID, row["id"], 0, FUTEX) for row in decodes]
    frames = [(9, level, PID, 2000 + level) for level in range(2)]
    writer.samples(np.array(waits, SAMPLE_ROW_DTYPE), np.array(frames, STACK_ROW_DTYPE))


def _operations(row: dict[str, Any]) -> np.ndarray:
    """Of one call: each thread computes two nodes of the graph."""
    rows = [
        event(
            Kind.OPERATION, row["begin_ns"] + (2 * node + 1) * MS, row["id"], PID + thread, 1 + node, TENSOR_AT + node
        )
        for node in range(2)
        for thread in range(N_THREADS)
    ]
    return events(*rows)


def _barriers(calls: list[dict[str, Any]]) -> np.ndarray:
    """Each thread enters in turn, the last one late."""
    rows = []
    for row in calls:
        for number in range(BARRIERS_A_CALL):
            at_ns = row["begin_ns"] + (number + 1) * MS // 2
            for thread in range(N_THREADS):
                late_ns = 20_000 * thread + (100_000 if thread == number % N_THREADS else 0)
                rows.append(event(Kind.BARRIER, at_ns + late_ns, row["id"], PID + thread, 0, 1 << 40))
    return events(*sorted(rows))

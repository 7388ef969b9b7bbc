"""A recording with something in nearly every table: several threads, waits, samples, a hostile name where one may be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from traces import META, MS, PID, event, events, inference

from bitnet_trace.recording.layout import FaultFlag, Kind, SwitchFlag
from bitnet_trace.recording.schema import SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE
from bitnet_trace.recording.writer import Writer

N_THREADS = 4
PERIOD_NS = 10_101_010
STACKS = {
    1: ["ggml_vec_dot_i2_i8_s", "ggml_compute_forward_mul_mat", "main"],
    2: ["ggml_barrier", "main"],
    3: ["memcpy"],
}
OTHER_TID = 999


def write_busy(
    path: Path,
    name: str = "llama-worker",
    slow: float = 1.0,
    hog: float = 0.0,
    seed: int = 0,
    more: Callable[[Writer, list[dict[str, Any]]], None] = lambda writer, phases: None,
) -> Path:
    """The phases of traces.inference; `name` is that of threads, functions, files and the command.

    `hog`: for this share of each decode call, one of the threads waits for a CPU that another program has. `more` writes
    other streams too, given the rows of the phases.
    """
    rng = np.random.default_rng(seed)
    script = inference(slow, rng)
    stream, samples = [], []
    for row in script.rows():
        dur_ns = row["end_ns"] - row["begin_ns"]
        at = {"phase": row["id"]}
        for number in range(N_THREADS if row["role"] == "decode" else 1):
            tid = PID + number
            waited_ns = int(dur_ns * hog) if number == 1 and row["role"] == "decode" else dur_ns // 50
            middle_ns = row["begin_ns"] + (dur_ns - waited_ns) // 2
            stream.append(
                event(Kind.SWITCH_OUT, middle_ns, tid=tid, arg1=middle_ns - row["begin_ns"], arg2=OTHER_TID, **at)
            )
            back_ns = middle_ns + waited_ns
            stream.append(event(Kind.SWITCH_IN, back_ns, tid=tid, arg1=waited_ns, arg2=waited_ns, cpu=number % 2, **at))
            flags = SwitchFlag.VOLUNTARY
            stream.append(
                event(Kind.SWITCH_OUT, row["end_ns"], tid=tid, arg0=flags, arg1=row["end_ns"] - back_ns, **at)
            )
            stream.append(event(Kind.WAKEUP, back_ns - 1, tid=tid, arg0=PID, **at))
            stream.append(
                event(Kind.FAULT, middle_ns - 10, tid=tid, arg0=FaultFlag.WRITE, arg1=1 << 46, arg2=1500, **at)
            )
            samples += [
                (row["begin_ns"] + n * PERIOD_NS, PERIOD_NS, 1 + (n + number) % 3, tid, PID, row["id"], number % 2, 0)
                for n in range(dur_ns // PERIOD_NS)
            ]
        at["ts_ns"] = row["end_ns"]
        stream += [event(kind, arg0=50, arg1=1 << 30, arg2=77_777, **at) for kind in (Kind.MMAP, Kind.MUNMAP)]
        stream.append(event(Kind.READ, arg1=123_456, arg2=55_555, **at))
        stream.append(event(Kind.RSS, arg0=PID, arg1=987_654_321, **at))
        stream.append(event(Kind.TLB, arg0=1, arg1=33, **at))
        stream.append(event(Kind.IO_SUBMIT, arg0=22, **at))
        stream.append(event(Kind.IO_COMPLETE, arg0=22 | 256, arg1=4096, arg2=9_000, **at))
    ordered = events(*stream)
    meta = {**META, "command": [name, "-m", name], "engine": name, "neighbours": {str(OTHER_TID): name}}
    meta["io_uring_opcodes"] = [""] * 22 + ["READ"]
    meta["probes"] = [one for one in META["probes"] if one["attached"]]
    meta["warnings"] = [name]
    writer = Writer(path, meta)
    writer.phases(script.rows())
    writer.events(ordered[np.argsort(ordered["ts_ns"], kind="stable")])
    writer.threads(
        [{"tid": PID + n, "pid": PID, "comm": name, "start_ns": 1000 * MS, "end_ns": None} for n in range(N_THREADS)]
    )
    frames = [
        (stack, level, PID, 1000 * stack + level) for stack, names in STACKS.items() for level in range(len(names))
    ]
    writer.samples(np.array(samples, SAMPLE_ROW_DTYPE), np.array(frames, STACK_ROW_DTYPE))
    writer.symbols(
        [
            {
                "pid": PID,
                "address": 1000 * stack + level,
                "module": f"/lib/{name}",
                "function": f"{name}{function}" if stack == 3 else function,
                "spins": stack == 2 and level == 0,
            }
            for stack, names in STACKS.items()
            for level, function in enumerate(names)
        ]
    )
    writer.maps([{"pid": PID, "ts_ns": 1, "address": 1 << 46, "length": 4096, "offset": 0, "path": f"/{name}.gguf"}])
    more(writer, script.rows())
    writer.close(0)
    return path

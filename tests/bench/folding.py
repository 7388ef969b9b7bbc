"""CPU time that the live view takes to fold an interval of a million events."""

import time

import numpy as np

from bitnet_trace.live.fold import Fold
from bitnet_trace.recording.layout import EVENT_DTYPE, Kind, Role
from tests.unit.traces import MS, PID, Script

N_EVENTS = 1_000_000
SLICE_NS = 500  # on a CPU, at each switch
# what the process holds
AREA = {"pid": PID, "ts_ns": 0, "moment": "held", "begin": 1 << 40, "end": (1 << 40) + (1 << 30), "offset": 0}
AREA |= {"device": 0, "inode": 0, "protection": 3, "path": None}


def million():
    """Rows of phases, and the events in them: as an oversubscribed run has them, threads that yield to each other."""
    script = Script()
    for _ in range(100):
        script.call(Role.DECODE, 8 * MS, 1, samples=1)
    rows = script.exit().rows()
    batch = np.zeros(N_EVENTS, EVENT_DTYPE)
    batch["ts_ns"] = np.linspace(rows[0]["begin_ns"] + 1, rows[-1]["end_ns"] - 1, N_EVENTS).astype(np.uint64)
    begins = np.array([row["begin_ns"] for row in rows])
    batch["phase"] = np.array([row["id"] for row in rows])[np.searchsorted(begins, batch["ts_ns"], side="right") - 1]
    batch["kind"] = np.tile([Kind.SWITCH_OUT, Kind.SWITCH_IN, Kind.YIELD, Kind.FAULT], N_EVENTS // 4)
    batch["tid"] = PID + np.repeat(np.arange(N_EVENTS // 4) % 4, 4)
    batch["arg1"] = SLICE_NS
    faults = batch["kind"] == Kind.FAULT
    batch["arg1"][faults] = AREA["begin"] + np.random.default_rng(1).integers(0, 1 << 30, N_EVENTS // 4)
    batch["arg2"] = SLICE_NS - 100
    return rows, batch


def measure(rounds: int) -> tuple[list[float], Fold]:
    """The milliseconds of each round, and what the last one folded."""
    rows, batch = million()
    took_ms = []
    for _ in range(rounds):
        fold = Fold()
        fold.take("phases", rows)
        fold.take("areas", [AREA])
        fold.take("tensors", [])
        begin_s = time.process_time()
        fold.take("events", batch)
        took_ms.append((time.process_time() - begin_s) * 1e3)
    return took_ms, fold

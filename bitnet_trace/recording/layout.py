"""The structs of `bpf/record.h` as numpy dtypes, and with them its enums and constants."""

import numpy as np

from bitnet_trace.recording.header import (
    DURATION_ONLY,
    IO_UNKNOWN_OPCODE,
    FaultFlag,
    IoFlag,
    Kind,
    MemoryDetail,
    PhaseEnd,
    Role,
    SwitchFlag,
    TaskKind,
    TlbEvent,
    struct_fields,
)

__all__ = [
    "COUNTERS_DTYPE",
    "COUNTER_FIELDS",
    "COUNTER_KEY_DTYPE",
    "DURATION_ONLY",
    "EVENT_DTYPE",
    "IO_UNKNOWN_OPCODE",
    "TASK_DTYPE",
    "FaultFlag",
    "IoFlag",
    "Kind",
    "MemoryDetail",
    "PhaseEnd",
    "Role",
    "SwitchFlag",
    "TaskKind",
    "TlbEvent",
]

_NUMPY_TYPES = {"u16": "<u2", "u32": "<u4", "u64": "<u8"}


def _dtype(struct: str) -> "np.dtype[np.void]":
    fields = [
        (name, f"S{length}" if kind == "char" else _NUMPY_TYPES[kind]) for kind, name, length in struct_fields(struct)
    ]
    return np.dtype(fields, align=True)


EVENT_DTYPE = _dtype("event")
TASK_DTYPE = _dtype("task_event")
COUNTER_KEY_DTYPE = _dtype("counter_key")
COUNTERS_DTYPE = _dtype("counters")
COUNTER_FIELDS: tuple[str, ...] = COUNTERS_DTYPE.names or ()

"""The structs of `bpf/record.h` as numpy dtypes, and with them its enums and constants."""

import numpy as np

from bitnet_trace.recording.header import (
    COLLAPSE_FILE,
    DURATION_ONLY,
    IO_UNKNOWN_OPCODE,
    READ_DIRECT,
    READAHEAD_ASYNC,
    WAIT_REASON_SHIFT,
    FaultFlag,
    IoFlag,
    Kind,
    MemoryDetail,
    PhaseEnd,
    Role,
    SwitchFlag,
    TaskKind,
    TlbEvent,
    WaitReason,
    struct_fields,
)

__all__ = [
    "COLLAPSE_FILE",
    "COUNTERS_DTYPE",
    "COUNTER_FIELDS",
    "COUNTER_KEY_DTYPE",
    "DURATION_ONLY",
    "EVENT_DTYPE",
    "IO_UNKNOWN_OPCODE",
    "READAHEAD_ASYNC",
    "READ_DIRECT",
    "SAMPLE_DTYPE",
    "TASK_DTYPE",
    "WAIT_REASON_SHIFT",
    "FaultFlag",
    "IoFlag",
    "Kind",
    "MemoryDetail",
    "PhaseEnd",
    "Role",
    "SwitchFlag",
    "TaskKind",
    "TlbEvent",
    "WaitReason",
]

_NUMPY_TYPES = {"u16": "<u2", "u32": "<u4", "u64": "<u8"}


def _dtype(struct: str) -> "np.dtype[np.void]":
    return np.dtype([_field(*field) for field in struct_fields(struct)], align=True)


def _field(kind: str, name: str, length: str) -> tuple[str, str] | tuple[str, str, int]:
    if kind == "char":
        return name, f"S{length}"
    return (name, _NUMPY_TYPES[kind], int(length)) if length else (name, _NUMPY_TYPES[kind])


EVENT_DTYPE = _dtype("event")
SAMPLE_DTYPE = _dtype("sample")
TASK_DTYPE = _dtype("task_event")
COUNTER_KEY_DTYPE = _dtype("counter_key")
COUNTERS_DTYPE = _dtype("counters")
COUNTER_FIELDS: tuple[str, ...] = COUNTERS_DTYPE.names or ()

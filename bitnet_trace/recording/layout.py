"""The layout of what the kernel sends, read from `bpf/record.h` when this module is imported.

The header is the one place where records, kinds and counters are declared; nothing here repeats it.
"""

import enum
import re
from typing import Any

import numpy as np

from bitnet_trace.errors import TraceError
from bitnet_trace.resources import bpf_dir

_NUMPY_TYPES = {"u16": "<u2", "u32": "<u4", "u64": "<u8"}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_BLOCK = re.compile(r"^(struct|enum) (\w+) \{\n(.*?)^\};", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^\s*(\w+) (\w+)(?:\[(\d+)\])?;$", re.MULTILINE)
_ENUMERATOR = re.compile(r"^\s*(\w+) = (\d+),$", re.MULTILINE)
_CONSTANT = re.compile(r"^#define (\w+) (0x[0-9a-fA-F]+|\d+)$", re.MULTILINE)


def _field_type(c_type: str, length: str) -> str:
    if c_type == "char":
        return f"S{length}"
    return _NUMPY_TYPES[c_type]


class _Header:
    """The declarations of one header: struct name to dtype, enum name to {enumerator: value}."""

    def __init__(self, text: str) -> None:
        text = "\n".join(line.rstrip() for line in _COMMENT.sub("", text).splitlines())
        self.structs: dict[str, np.dtype] = {}
        self.enums: dict[str, dict[str, int]] = {}
        self.constants = {name: int(value, 0) for name, value in _CONSTANT.findall(text)}
        for what, name, body in _BLOCK.findall(text):
            if what == "struct":
                fields = [(field, _field_type(kind, length)) for kind, field, length in _FIELD.findall(body)]
                self.structs[name] = np.dtype(fields, align=True)
            else:
                self.enums[name] = {key: int(value) for key, value in _ENUMERATOR.findall(body)}


def _enum(name: str, prefix: str, base: type[enum.Enum] = enum.IntEnum) -> Any:
    members = {key.removeprefix(prefix): value for key, value in _HEADER.enums[name].items() if key != "KIND_MAX"}
    # mypy takes a call of a class for its construction; that of an Enum without members makes a new one.
    return base(name.title().replace("_", ""), members)  # type: ignore[call-arg]


try:
    _HEADER = _Header((bpf_dir() / "record.h").read_text())
except OSError as error:
    raise TraceError(f"cannot read {error.filename}: {error.strerror}", "reinstall bitnet-trace") from None

EVENT_DTYPE = _HEADER.structs["event"]
TASK_DTYPE = _HEADER.structs["task_event"]
COUNTER_KEY_DTYPE = _HEADER.structs["counter_key"]
COUNTERS_DTYPE = _HEADER.structs["counters"]
COUNTER_FIELDS: tuple[str, ...] = COUNTERS_DTYPE.names or ()
DURATION_ONLY: int = _HEADER.constants["DURATION_ONLY"]
IO_UNKNOWN_OPCODE: int = _HEADER.constants["IO_UNKNOWN_OPCODE"]

Kind = _enum("kind", "KIND_")
FaultFlag = _enum("fault_flag", "FAULT_", enum.IntFlag)
SwitchFlag = _enum("switch_flag", "SWITCH_", enum.IntFlag)
IoFlag = _enum("io_flag", "IO_", enum.IntFlag)
TlbEvent = _enum("tlb_event", "TLB_")
MemoryDetail = _enum("memory_detail", "MEMORY_", enum.IntFlag)
PhaseEnd = _enum("phase_end", "END_")
Role = _enum("role", "ROLE_")
TaskKind = _enum("task_kind", "TASK_")

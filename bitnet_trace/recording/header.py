"""`bpf/record.h`, read when this module is imported: its enums and constants, and its structs as lists of fields.

The header is the one place where records, kinds and counters are declared; nothing here repeats it. Without numpy: the
tracer needs this much while it starts, and imports numpy meanwhile.
"""

import enum
import re
from typing import Any

from bitnet_trace.errors import TraceError
from bitnet_trace.resources import bpf_dir

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_BLOCK = re.compile(r"^(struct|enum) (\w+) \{\n(.*?)^\};", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^\s*(\w+) (\w+)(?:\[(\d+)\])?;$", re.MULTILINE)
_ENUMERATOR = re.compile(r"^\s*(\w+) = (\d+),$", re.MULTILINE)
_CONSTANT = re.compile(r"^#define (\w+) (0x[0-9a-fA-F]+|\d+)$", re.MULTILINE)


def _declarations() -> str:
    """The header's text without comments and trailing blanks. Raises TraceError."""
    try:
        text = (bpf_dir() / "record.h").read_text()
    except OSError as error:
        raise TraceError(f"cannot read {error.filename}: {error.strerror}", "reinstall bitnet-trace") from None
    return "\n".join(line.rstrip() for line in _COMMENT.sub("", text).splitlines())


_TEXT = _declarations()
_BLOCKS = {(what, name): body for what, name, body in _BLOCK.findall(_TEXT)}
_CONSTANTS = {name: int(value, 0) for name, value in _CONSTANT.findall(_TEXT)}


def struct_fields(name: str) -> list[tuple[str, str, str]]:
    """(C type, name, array length or "") of each field of a struct, in order."""
    return _FIELD.findall(_BLOCKS["struct", name])


def _enum(name: str, prefix: str, base: type[enum.Enum] = enum.IntEnum) -> Any:
    found = _ENUMERATOR.findall(_BLOCKS["enum", name])
    members = {key.removeprefix(prefix): int(value) for key, value in found if key != "KIND_MAX"}
    # mypy takes a call of a class for its construction; that of an Enum without members makes a new one.
    return base(name.title().replace("_", ""), members)  # type: ignore[call-arg]


DURATION_ONLY: int = _CONSTANTS["DURATION_ONLY"]
IO_UNKNOWN_OPCODE: int = _CONSTANTS["IO_UNKNOWN_OPCODE"]
COLLAPSE_FILE: int = _CONSTANTS["COLLAPSE_FILE"]
READAHEAD_ASYNC: int = _CONSTANTS["READAHEAD_ASYNC"]
READ_DIRECT: int = _CONSTANTS["READ_DIRECT"]
WAIT_REASON_SHIFT: int = _CONSTANTS["WAIT_REASON_SHIFT"]

Kind = _enum("kind", "KIND_")
FaultFlag = _enum("fault_flag", "FAULT_", enum.IntFlag)
SwitchFlag = _enum("switch_flag", "SWITCH_", enum.IntFlag)
IoFlag = _enum("io_flag", "IO_", enum.IntFlag)
TlbEvent = _enum("tlb_event", "TLB_")
MemoryDetail = _enum("memory_detail", "MEMORY_", enum.IntFlag)
PhaseEnd = _enum("phase_end", "END_")
Role = _enum("role", "ROLE_")
TaskKind = _enum("task_kind", "TASK_")
WaitReason = _enum("wait_reason", "WAIT_")

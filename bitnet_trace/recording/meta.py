"""meta.json as a reader may rely on it: known keys have their types, whatever the file holds."""

import json
import stat
from pathlib import Path
from typing import Any

from bitnet_trace.errors import TraceError
from bitnet_trace.recording.schema import META_NAME, SCHEMA_VERSION

_SIZE_LIMIT_BYTES = 8 << 20  # 500 times the usual; as Python objects it takes up to 30 times that
_MAX_DEPTH = 32

_TYPES: dict[str, type] = {
    "version": str,
    "engine": str,
    "command": list,
    "host": dict,
    "options": dict,
    "start_ns": int,
    "clock_offset_ns": int,
    "wall_ns": int,
    "exit_status": int,
    "probes": list,
    "losses": dict,
    "taskstats": dict,
    "cost": dict,
    "received": dict,
    "rows": dict,
    "crc32": dict,
    "timings_reported": list,
    "buffers_reported": list,
    "warnings": list,
    "windows": dict,
    "neighbours": dict,
    "missing_roles": list,
    "timeline": dict,
    "huge_pages_asked": dict,
    "io_uring_opcodes": list,
    "io_uring_overflows": int,
    "counters": list,
    "tlbs": list,
    "numa": dict,
    "scan_results": list,
    "vmstat": dict,
    "complete": bool,
}
_ITEM_TYPES: dict[str, type] = {
    "command": str,
    "probes": dict,
    "missing_roles": dict,
    "timings_reported": dict,
    "buffers_reported": list,
    "warnings": str,
    "io_uring_opcodes": str,
    "counters": dict,
    "tlbs": dict,
    "scan_results": str,
}


def load_meta(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The meta of the recording in `folder` and warnings about what in it could not be used.

    Known keys are absent or of their type (`exit_status` and other values that are null are absent too); others are
    as they are in the file. Raises TraceError where there is no readable meta.json or its schema is another one.
    """
    path = folder / META_NAME
    damaged = TraceError(f"{path} is damaged", "record again; the .arrows files beside it can be read with pyarrow")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SIZE_LIMIT_BYTES:
            raise damaged
        # Deep nesting raises RecursionError, bad UTF-8 and a bad number ValueError.
        meta = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise TraceError(f"{folder} is not a recording: it has no {META_NAME}", "bitnet-trace run -- CMD") from None
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}", "check who owns it") from None
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(meta, dict) or _is_deeper(meta, _MAX_DEPTH):
        raise damaged
    version = meta.get("schema")
    if type(version) is not int or version < 1:
        raise damaged
    if version > SCHEMA_VERSION:
        raise TraceError(
            f"{folder} has recording schema {version}, this version reads up to {SCHEMA_VERSION}",
            "read it with a newer bitnet-trace",
        )
    return _typed(meta)


def _typed(meta: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    clean: dict[str, Any] = {}
    warnings = []
    for key, value in meta.items():
        wanted = _TYPES.get(key)
        if wanted is None:
            clean[key] = value
        elif value is None:
            continue
        elif not _is(value, wanted) or (key in _ITEM_TYPES and not all(_is(item, _ITEM_TYPES[key]) for item in value)):
            warnings.append(f"{META_NAME}: {key} is not what it should be and is left out")
        else:
            clean[key] = value
    return clean, warnings


def _is(value: Any, wanted: type) -> bool:
    # To Python a bool is an int; to a reader of times it is damage. Times beyond 2^63 ns are damage too.
    if wanted is int:
        return type(value) is int and abs(value) < 1 << 63
    return isinstance(value, wanted)


def _is_deeper(value: Any, depth: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth == 0 or _is_deeper(item, depth - 1) for item in items)


def count(value: Any) -> int | None:
    """`value` as a count or an amount of ns or bytes; None where it is none (missing, text, negative, beyond 2^63)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 63:
        return None
    return int(value)

"""What the running kernel lets this process do, found out by doing it: no version number is compared.

Each function returns None when the thing works, else the reason in the kernel's words. x86-64 Linux.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

from bitnet_trace.capture import syscalls

_SYS_PERF_EVENT_OPEN = 298
_SYS_BPF = 321

# include/uapi/linux/bpf.h
_BPF_MAP_CREATE, _BPF_PROG_LOAD, _BPF_RAW_TRACEPOINT_OPEN = 0, 5, 17
_BPF_MAP_TYPE_RINGBUF = 27
_BPF_PROG_TYPE_RAW_TRACEPOINT = 17
_RETURN_ZERO = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit

# include/uapi/linux/perf_event.h
_PERF_TYPE_HARDWARE, _PERF_COUNT_HW_CPU_CYCLES = 0, 0
_PERF_ATTR_SIZE = 112  # PERF_ATTR_SIZE_VER5: known to every kernel that has ring buffers
_PERF_DISABLED, _PERF_EXCLUDE_KERNEL, _PERF_EXCLUDE_HV = 1 << 0, 1 << 5, 1 << 6
_PERF_FLAG_FD_CLOEXEC = 8


def hardware_counter() -> str | None:
    """Counting this process's own cycles: is there a PMU, and may we use it?"""
    return _outcome(_open_hardware_counter)


def ring_buffer() -> str | None:
    """A BPF ring buffer map of one page."""
    return _outcome(_create_ring_buffer)


def raw_tracepoint() -> str | None:
    """An empty BPF program on the raw tracepoint sched_switch."""
    return _outcome(_attach_raw_tracepoint)


def uprobe(pmu_type: Path, file: Path) -> str | None:
    """A uprobe, as a perf event, at offset 0 of `file`, which no process should have mapped for execution.

    `pmu_type` is /sys/bus/event_source/devices/uprobe/type.
    """
    return _outcome(lambda: syscalls.open_uprobe_event(int(pmu_type.read_text()), str(file), 0))


def multi_uprobe(file: Path) -> str | None:
    """Many uprobes by one call, at offset 0 of `file`."""

    def attach() -> int:
        program = syscalls.load_multi_uprobe_program(_RETURN_ZERO, "doctor")
        try:
            return syscalls.link_multi_uprobe(program, str(file), [0], [0])
        finally:
            os.close(program)

    return _outcome(attach)


def _outcome(attempt: Callable[[], int]) -> str | None:
    try:
        os.close(attempt())
    except OSError as error:
        return error.strerror or str(error)
    return None


def _open_hardware_counter() -> int:
    attr = bytearray(_PERF_ATTR_SIZE)
    struct.pack_into("<IIQ", attr, 0, _PERF_TYPE_HARDWARE, _PERF_ATTR_SIZE, _PERF_COUNT_HW_CPU_CYCLES)
    struct.pack_into("<Q", attr, 40, _PERF_DISABLED | _PERF_EXCLUDE_KERNEL | _PERF_EXCLUDE_HV)
    block = ctypes.create_string_buffer(bytes(attr), len(attr))
    return syscalls.call(_SYS_PERF_EVENT_OPEN, block, 0, -1, -1, _PERF_FLAG_FD_CLOEXEC)


def _bpf(command: int, attr: bytes) -> int:
    block = ctypes.create_string_buffer(attr, len(attr))
    return syscalls.call(_SYS_BPF, command, block, len(attr))


def _create_ring_buffer() -> int:
    return _bpf(_BPF_MAP_CREATE, struct.pack("<IIIII", _BPF_MAP_TYPE_RINGBUF, 0, 0, os.sysconf("SC_PAGESIZE"), 0))


def _attach_raw_tracepoint() -> int:
    code = ctypes.create_string_buffer(_RETURN_ZERO, len(_RETURN_ZERO))
    licence = ctypes.create_string_buffer(b"GPL")
    name = ctypes.create_string_buffer(b"sched_switch")
    load = struct.pack(
        "<IIQQIIQII",
        _BPF_PROG_TYPE_RAW_TRACEPOINT,
        len(_RETURN_ZERO) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
    )
    program = _bpf(_BPF_PROG_LOAD, load)
    try:
        return _bpf(_BPF_RAW_TRACEPOINT_OPEN, struct.pack("<QII", ctypes.addressof(name), program, 0))
    finally:
        os.close(program)

"""System calls that Python has no function for: bpf(2), perf_event_open(2), ptrace(2), x86-64 numbers.

Each function returns what the call returns and raises OSError. Structures are packed as their man pages say.
"""

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

_NR_PTRACE, _NR_PERF_EVENT_OPEN, _NR_BPF = 101, 298, 321
_BPF_MAP_CREATE, _BPF_PROG_LOAD, _BPF_OBJ_GET_INFO, _BPF_RAW_TRACEPOINT_OPEN = 0, 5, 15, 17
_BPF_MAP_UPDATE_ELEM, _BPF_NOEXIST = 2, 1
_BPF_LINK_CREATE, _BPF_ENABLE_STATS, _BPF_PROG_TEST_RUN = 28, 32, 10
_BPF_PROG_TYPE_KPROBE, _BPF_PROG_TYPE_RAW_TRACEPOINT, _BPF_PROG_TYPE_TRACING = 2, 17, 26
_ATTACH_TYPED_TRACEPOINT, _ATTACH_UPROBE_MULTI, _ATTACH_PERF_EVENT = 23, 48, 41
_PERF_FLAG_FD_CLOEXEC = 8

# the instructions of a program that does nothing
RETURN_ZERO = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)


def call(number: int, *arguments: object) -> int:
    """Any system call, by its number."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return call(_NR_BPF, command, buffer, len(attributes))


# ---- bpf(2) -----------------------------------------------------------------------------------------------------


def put_descriptor(map_descriptor: int, key: int, descriptor: int) -> None:
    """Puts an open perf event into a map of those: the map keeps it open from then on."""
    number, value = ctypes.c_uint32(key), ctypes.c_uint32(descriptor)
    addresses = ctypes.addressof(number), ctypes.addressof(value)
    _bpf(_BPF_MAP_UPDATE_ELEM, struct.pack("<I4xQQQ", map_descriptor, *addresses, 0))


def load_multi_uprobe_program(instructions: bytes, name: str) -> int:
    """Loads a program for many uprobes at once (since Linux 6.6); returns its descriptor.

    BCC loads the same code for one uprobe at a time, whose detaching takes a tenth of a second each.
    """
    return _load_program(_BPF_PROG_TYPE_KPROBE, _ATTACH_UPROBE_MULTI, 0, instructions, name)


def load_tracepoint_program(instructions: bytes, name: str, type_id: int) -> int:
    """Loads a program for the raw tracepoint whose BTF type has this id; returns its descriptor.

    It may read the structures that it is given by plain loads. BCC knows only raw tracepoints without types.
    """
    return _load_program(_BPF_PROG_TYPE_TRACING, _ATTACH_TYPED_TRACEPOINT, type_id, instructions, name)


def attach_tracepoint_program(program: int, name: str | None = None) -> int:
    """Attaches it where it was loaded for, or to the tracepoint `name`; closing the returned descriptor detaches it."""
    text = ctypes.create_string_buffer(name.encode()) if name else None
    address = ctypes.addressof(text) if text else 0
    return _bpf(_BPF_RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", address, program))


def load_empty_program() -> int:
    """A raw tracepoint program that returns at once; returns its descriptor."""
    return _load_program(_BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0, RETURN_ZERO, "empty")


def run_once(program: int) -> None:
    """Runs a raw tracepoint program here and now (since Linux 5.10)."""
    _bpf(_BPF_PROG_TEST_RUN, struct.pack("<I76x", program))


def _load_program(kind: int, attach_type: int, attach_type_id: int, instructions: bytes, name: str) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII16sII36xI4x",
        kind, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(license_text),
        0, 0, 0, 0, 0, name.encode()[:15], 0, attach_type, attach_type_id,
    )  # fmt: skip
    return _bpf(_BPF_PROG_LOAD, attributes)


def link_multi_uprobe(program: int, path: str, offsets: list[int], cookies: list[int], pid: int = 0) -> int:
    """Attaches a program to many file offsets of one file; closing the returned descriptor detaches them all.

    With a `pid` the probes are put into that process's memory only.
    """
    count = len(offsets)
    offset_array = (ctypes.c_uint64 * count)(*offsets)
    cookie_array = (ctypes.c_uint64 * count)(*cookies)
    path_buffer = ctypes.create_string_buffer(os.fsencode(path))
    attributes = struct.pack(
        "<IIIIQQQQIII4x",
        program, 0, _ATTACH_UPROBE_MULTI, 0, ctypes.addressof(path_buffer), ctypes.addressof(offset_array),
        0, ctypes.addressof(cookie_array), count, 0, pid,
    )  # fmt: skip
    return _bpf(_BPF_LINK_CREATE, attributes)


def insert_into_map(descriptor: int, key: bytes, value: bytes) -> bool:
    """Adds an element to a map; False when the key is there already. Raises OSError when the map is full."""
    key_buffer, value_buffer = (
        ctypes.create_string_buffer(key, len(key)),
        ctypes.create_string_buffer(value, len(value)),
    )
    where = ctypes.addressof(key_buffer), ctypes.addressof(value_buffer)
    try:
        _bpf(_BPF_MAP_UPDATE_ELEM, struct.pack("<I4xQQQ", descriptor, *where, _BPF_NOEXIST))
    except FileExistsError:
        return False
    return True


def link_perf_event(program: int, perf_event: int, cookie: int) -> int:
    """Attaches a program with a cookie to a perf event (since Linux 5.15); returns the link's descriptor."""
    return _bpf(_BPF_LINK_CREATE, struct.pack("<IIIIQ24x", program, perf_event, _ATTACH_PERF_EVENT, 0, cookie))


def enable_bpf_stats() -> int:
    """Run counts and times of all BPF programs are kept while the returned descriptor is open (since Linux 5.8)."""
    return _bpf(_BPF_ENABLE_STATS, struct.pack("<I12x", 0))


def program_info(program: int) -> dict[str, int]:
    """run_time_ns, run_count and recursion_misses of a loaded program (struct bpf_prog_info)."""
    info = ctypes.create_string_buffer(256)
    _bpf(_BPF_OBJ_GET_INFO, struct.pack("<IIQ112x", program, len(info), ctypes.addressof(info)))
    run_time_ns, run_count = struct.unpack_from("<QQ", info, 192)
    (recursion_misses,) = struct.unpack_from("<Q", info, 208)
    return {"run_time_ns": run_time_ns, "run_count": run_count, "recursion_misses": recursion_misses}


# ---- perf_event_open(2) -----------------------------------------------------------------------------------------


def open_counter(
    kind: int, configs: tuple[int, int, int], cpu: int, exclude_user: bool = False, exclude_kernel: bool = False
) -> int:
    """A perf event that counts on one CPU, whoever runs there; `configs`: config, config1, config2."""
    flags = exclude_user << 4 | exclude_kernel << 5
    attributes = struct.pack("<IIQQQQQIIQQ56x", kind, 128, configs[0], 0, 0, 0, flags, 0, 0, *configs[1:])
    buffer = ctypes.create_string_buffer(attributes, 128)
    return call(_NR_PERF_EVENT_OPEN, buffer, -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)


def open_uprobe_event(pmu_type: int, path: str, offset: int) -> int:
    """A uprobe as a perf event, on all processes; a program is linked to it by link_perf_event()."""
    path_buffer = ctypes.create_string_buffer(os.fsencode(path))
    attributes = struct.pack(
        "<IIQQQQQIIQQ56x", pmu_type, 128, 0, 1, 0, 0, 0, 0, 0, ctypes.addressof(path_buffer), offset
    )
    buffer = ctypes.create_string_buffer(attributes, 128)
    return call(_NR_PERF_EVENT_OPEN, buffer, -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)


# ---- capget(2), capset(2) ---------------------------------------------------------------------------------------

_CAPABILITY_VERSION_3 = 0x20080522
_CAP_SYSLOG = 34


@contextlib.contextmanager
def without_kernel_addresses() -> Iterator[None]:
    """This thread reads /proc/kallsyms as an ordinary user does: names without addresses.

    BCC reads all of it for one symbol that it does not need for us, and skips what has no address: 0.1 s less.
    """
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) != 0:
        yield  # not worth an error: it only takes longer
        return
    before = data.raw
    words = list(struct.unpack("<6I", before))
    words[3] &= ~(1 << (_CAP_SYSLOG - 32))  # effective, upper half
    _libc.capset(header, struct.pack("<6I", *words))
    try:
        yield
    finally:
        _libc.capset(header, before)


# ---- ptrace(2) --------------------------------------------------------------------------------------------------

PTRACE_CONT, PTRACE_DETACH, PTRACE_GETEVENTMSG, PTRACE_GETSIGINFO = 7, 17, 0x4201, 0x4202
PTRACE_TRACEME, PTRACE_POKEUSER, PTRACE_GETREGS = 0, 6, 12
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_LISTEN = 0x4206, 0x4207, 0x4208
PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE, PTRACE_EVENT_EXEC, PTRACE_EVENT_STOP = 1, 2, 3, 4, 128
PTRACE_EVENT_EXIT = 6
PTRACE_O_TRACEEXIT = 1 << 6
PTRACE_O_FOLLOW = (1 << 1) | (1 << 2) | (1 << 3) | (1 << 4)  # fork, vfork, clone, exec
WALL = 0x40000000  # __WALL of waitpid(2): threads too


# struct user_regs_struct of <sys/user.h>: 27 words, of which
_RAX, _RSI, _RDI, _ORIG_RAX = 10, 13, 14, 15
# what the kernel knows as "make that call again", on the way back to user mode (include/linux/errno.h)
_ERESTARTNOINTR = 513


def ptrace(request: int, tid: int, data: int = 0, address: int = 0) -> int:
    return call(_NR_PTRACE, request, tid, address, data)


def ptrace_event_message(tid: int) -> int:
    """The new thread's id of a fork, vfork or clone event; the former id of an exec event."""
    message = ctypes.c_ulong()
    call(_NR_PTRACE, PTRACE_GETEVENTMSG, tid, 0, ctypes.byref(message))
    return message.value


def ptrace_signal_code(tid: int) -> int:
    """si_code of the signal that a thread is stopped with: 0 from kill(2), 0x80 from the kernel."""
    info = ctypes.create_string_buffer(128)
    call(_NR_PTRACE, PTRACE_GETSIGINFO, tid, 0, info)
    return int(struct.unpack_from("<iii", info)[2])


class PtraceCall(NamedTuple):
    """A call of ptrace(2) that a thread has made."""

    request: int
    tid: int


def refused_ptrace_call(tid: int) -> PtraceCall | None:
    """The ptrace call that a stopped thread has just been refused, with EPERM; None when it comes from elsewhere."""
    buffer = ctypes.create_string_buffer(27 * 8)
    call(_NR_PTRACE, PTRACE_GETREGS, tid, 0, buffer)
    registers = struct.unpack("<27q", buffer)
    if registers[_ORIG_RAX] != _NR_PTRACE or registers[_RAX] != -errno.EPERM:
        return None
    return PtraceCall(registers[_RDI], registers[_RSI])


def repeat_call(tid: int) -> None:
    """Has a stopped thread make the system call again from which it is returning."""
    ptrace(PTRACE_POKEUSER, tid, -_ERESTARTNOINTR, address=8 * _RAX)


def make_call_succeed(tid: int) -> None:
    """Has a stopped thread see 0 as the result of the system call from which it is returning."""
    ptrace(PTRACE_POKEUSER, tid, 0, address=8 * _RAX)

"""What the hit of a uprobe costs on this machine, by the kind of the probed instruction, and what a system call takes
longer because it is traced: measured once per boot.

The code that is hit is our own: a few bytes in a file in memory, mapped to be executed, no compiler needed. The probes
are put into this process alone.
"""

import contextlib
import ctypes
import json
import mmap
import os
import statistics
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from bitnet_trace.capture import syscalls
from bitnet_trace.capture.cost import AROUND_NS, CALL, CLOCK, TRAP_NS

CACHE = Path("/run/bitnet-trace/costs.json")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# The instruction of each kind, and what it needs behind it to have no effect. Of the emulated ones a push and a jump
# are what entry blocks have; the dearer one counts.
_PROBED = {
    "nop": [(bytes.fromhex("0f1f440000"), b"")],
    "emulated": [(b"\x55", b"\x5d"), (b"\x75\x00", b"")],  # push rbp; pop rbp, and jne to the next one
    "single-step": [(b"\x89\xf0", b"")],  # mov eax, esi
}
_HITS = {"nop": 1000, "emulated": 1000, "single-step": 100}
_CALLS, _CALL_BLOCKS, _RUNS, _RUN_BLOCKS = 200, 5, 100, 5
_BETWEEN_BYTES = 256 << 10  # read between two calls: what a thread reads of a small model between two barriers
_BLOCKS = 7  # of so many hits each; their median counts
_SLOT_BYTES = 64  # of the file, for one function
_libc = ctypes.CDLL(None, use_errno=True)


def hit_costs() -> dict[str, int]:
    """What cost.AROUND_NS has, of this machine: ns of a hit by cost class and of a traced system call, programs that
    do nothing included; and of the kernel's clock. Measured now where nobody has since boot.

    Raises OSError where the kernel refuses.
    """
    known = cached()
    if known is None:
        known = measure()
        _keep(known)
    return known


def costs_or_assumed() -> tuple[dict[str, int], bool]:
    """The costs, and whether they were measured here: else they are the upper ends of another machine's."""
    try:
        return {**AROUND_NS, **hit_costs()}, True
    except OSError:
        return dict(AROUND_NS), False


def sentence(costs: Mapping[str, int] | None) -> str | None:
    """For people: the costs of a hit; None when nothing was measured."""
    if not costs:
        return None
    return ", ".join(f"{kind} {costs[kind] / 1000:.2f} µs" for kind in TRAP_NS)


def cached(path: Path = CACHE) -> dict[str, int] | None:
    """What was measured since the machine was started; None when nothing was. Needs no root."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, encoding="ascii") as file:
            kept = json.load(file)
        if kept["boot_id"] != _BOOT_ID.read_text().strip():
            return None
        return {kind: int(kept["hit_ns"][kind]) for kind in AROUND_NS}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(costs: Mapping[str, int], path: Path = CACHE) -> None:
    text = json.dumps({"boot_id": _BOOT_ID.read_text().strip(), "hit_ns": dict(costs)})
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # it is measured again then
        path.parent.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        os.replace(temporary, path)


def measure() -> dict[str, int]:
    """All of it: 0.2 s, of which a third is the kernel's waiting. Raises OSError."""
    return {**_of_hits(), **_of_calls()}


def _of_calls() -> dict[str, int]:
    """Of a system call while two programs that do nothing trace it, and of the clock that times programs."""
    with contextlib.ExitStack() as opened:
        program = syscalls.load_empty_program()
        opened.callback(os.close, program)
        longer = []
        for _ in range(_CALL_BLOCKS):
            bare = _ns_a_call()
            with contextlib.ExitStack() as attached:
                for name in ("sys_enter", "sys_exit"):
                    attached.callback(os.close, syscalls.attach_tracepoint_program(program, name))
                longer.append(_ns_a_call() - bare)
        opened.callback(os.close, syscalls.enable_bpf_stats())
        clock = [_ns_a_timed_run(program) for _ in range(_RUN_BLOCKS)]
    return {CALL: max(round(statistics.median(longer)), 1), CLOCK: round(statistics.median(clock))}


def _ns_a_timed_run(program: int) -> float:
    """Of a program that does nothing, by the kernel's own clock: what that adds."""
    before = syscalls.program_info(program)
    for _ in range(_RUNS):
        syscalls.run_once(program)
    after = syscalls.program_info(program)
    timed_ns, runs = (after[name] - before[name] for name in ("run_time_ns", "run_count"))
    return timed_ns / max(runs, 1)


def _ns_a_call() -> float:
    """Of a short system call, and of the clock around it, by a program that reads its memory in between as engines do.

    The kernel's code is not in the nearest caches then: one call after the other takes half of that.
    """
    between, times = bytes(_BETWEEN_BYTES), []
    for _ in range(_CALLS):
        between.find(b"\1")
        begin = time.perf_counter_ns()
        os.getppid()
        times.append(time.perf_counter_ns() - begin)
    return statistics.median(times)


def _of_hits() -> dict[str, int]:
    """A few thousand hits of each kind."""
    chosen = [(kind, code) for kind, codes in _PROBED.items() for code in codes]
    text = b"".join(_loop(code, behind).ljust(_SLOT_BYTES, b"\xcc") for _, (code, behind) in chosen)
    file = os.memfd_create("bitnet-trace-calibration")
    program = -1
    try:
        os.write(file, text.ljust(mmap.PAGESIZE, b"\xcc"))
        address = _map_code(file)
        functions = [_function(address + i * _SLOT_BYTES) for i in range(len(chosen))]
        bare = [_ns_a_hit(function, _HITS[kind]) for function, (kind, _) in zip(functions, chosen, strict=True)]
        program = syscalls.load_multi_uprobe_program(syscalls.RETURN_ZERO, "calibration")
        offsets = [i * _SLOT_BYTES + _PROBED_AT for i in range(len(chosen))]
        link = syscalls.link_multi_uprobe(program, f"/proc/self/fd/{file}", offsets, [0] * len(offsets), os.getpid())
        try:
            hit = [_ns_a_hit(function, _HITS[kind]) for function, (kind, _) in zip(functions, chosen, strict=True)]
        finally:
            os.close(link)
    finally:
        if program >= 0:
            os.close(program)
        os.close(file)
    costs: dict[str, int] = {}
    for (kind, _), without, with_probe in zip(chosen, bare, hit, strict=True):
        costs[kind] = max(costs.get(kind, 1), round(with_probe - without))
    return costs


_PROBED_AT = 2  # behind `mov ecx, edi`


def _loop(code: bytes, behind: bytes) -> bytes:
    """A function that runs an instruction as often as its argument says."""
    body = code + behind + b"\xff\xc9"  # dec ecx
    back = -(len(body) + 2)
    return b"\x89\xf9" + body + b"\x75" + struct.pack("b", back) + b"\xc3"  # mov ecx, edi; …; jne; ret


def _map_code(file: int) -> int:
    """Maps a page of a file to be executed, for as long as this process lives. Raises OSError."""
    _libc.mmap.restype = ctypes.c_void_p
    address = _libc.mmap(
        None, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file, ctypes.c_long(0)
    )
    if address is None or address == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(address)


def _function(address: int) -> "ctypes._CFunctionType":
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(address)


def _ns_a_hit(function: "ctypes._CFunctionType", hits: int) -> float:
    function(hits // 10)  # the first ones make the kernel prepare the place
    times = []
    for _ in range(_BLOCKS):
        begin = time.thread_time_ns()
        function(hits)
        times.append(time.thread_time_ns() - begin)
    return statistics.median(times) / hits

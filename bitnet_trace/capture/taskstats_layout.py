"""Decodes `struct taskstats` (include/uapi/linux/taskstats.h) of any version, and says what in it is no number.

The fields of a version are those of the one before and more at the end, with one exception: version 15 (Linux 6.14)
put the longest and shortest delays between the others, and version 16 (kernel commit "taskstats: fix struct taskstats
breaks backward compatibility since version 15") took them to the end. pyroute2 0.9 knows version 15 whole and of all
others only what stands before `freepages_count`, so every version is decoded here.
"""

from functools import cache
from typing import Any

import numpy as np

from bitnet_trace.recording.schema import DELAYS

NEWEST_VERSION = 17

_U64 = "<u8"
_WITH_EXTREMES = 15
# (name, type) in order; `align` takes care of the holes, but for that before ac_uid, which is aligned to 8 bytes
_UP_TO_8: tuple[tuple[str, str], ...] = (
    ("version", "<u2"),
    ("ac_exitcode", "<u4"),
    ("ac_flag", "<u1"),
    ("ac_nice", "<u1"),
    *((f"{what}_{part}", _U64) for what in ("cpu", "blkio", "swapin") for part in ("count", "delay_total")),
    ("cpu_run_real_total", _U64),
    ("cpu_run_virtual_total", _U64),
    ("ac_comm", "S32"),
    ("ac_sched", "<u1"),
    ("ac_pad", "V7"),
    ("ac_uid", "<u4"),
    ("ac_gid", "<u4"),
    ("ac_pid", "<u4"),
    ("ac_ppid", "<u4"),
    ("ac_btime", "<u4"),
    *((f"ac_{what}", _U64) for what in ("etime", "utime", "stime", "minflt", "majflt")),
    *((what, _U64) for what in ("coremem", "virtmem", "hiwater_rss", "hiwater_vm")),
    *((what, _U64) for what in ("read_char", "write_char", "read_syscalls", "write_syscalls")),
    *((what, _U64) for what in ("read_bytes", "write_bytes", "cancelled_write_bytes", "nvcsw", "nivcsw")),
    *((what, _U64) for what in ("ac_utimescaled", "ac_stimescaled", "cpu_scaled_run_real_total")),
    ("freepages_count", _U64),
    ("freepages_delay_total", _U64),
)
_ADDED: dict[int, tuple[tuple[str, str], ...]] = {
    9: (("thrashing_count", _U64), ("thrashing_delay_total", _U64)),
    10: (("ac_btime64", _U64),),
    11: (("compact_count", _U64), ("compact_delay_total", _U64)),
    12: (("ac_tgid", "<u4"), ("ac_tgetime", _U64), ("ac_exe_dev", _U64), ("ac_exe_inode", _U64)),
    13: (("wpcopy_count", _U64), ("wpcopy_delay_total", _U64)),
    14: (("irq_count", _U64), ("irq_delay_total", _U64)),
    16: tuple((f"{what}_delay_{end}", _U64) for what in ("cpu", *DELAYS) for end in ("max", "min")),
    17: tuple((f"{what}_delay_max_{part}", "<i8") for what in ("cpu", *DELAYS) for part in ("sec", "nsec")),
}


@cache
def layout(version: int) -> "np.dtype[np.void]":
    """The struct as kernels of that version have it; of versions that are newer or older than known, the nearest."""
    fields = list(_UP_TO_8)
    for since in sorted(_ADDED):
        if since <= version:
            fields += _ADDED[since]
    if version == _WITH_EXTREMES:
        fields = [
            one
            for name, kind in fields
            for one in (
                ((name, kind), (f"{name[:-6]}_max", _U64), (f"{name[:-6]}_min", _U64))
                if name.endswith("_delay_total")
                else ((name, kind),)
            )
        ]
    return np.dtype(fields, align=True)


def decode(payload: bytes) -> dict[str, Any]:
    """The fields of a struct taskstats by their kernel names: ints, and ac_comm as text.

    A field that the message is too short for is missing from the result; what a newer kernel has put after the fields
    known here is left out. Raises ValueError when there is not even a version.
    """
    if len(payload) < 2:
        raise ValueError(f"{len(payload)} bytes are no struct taskstats")
    dtype = layout(int.from_bytes(payload[:2], "little"))
    record = np.frombuffer(payload[: dtype.itemsize].ljust(dtype.itemsize, b"\0"), dtype)[0]
    found: dict[str, Any] = {}
    for name, (kind, offset, *_) in (dtype.fields or {}).items():
        if offset + kind.itemsize <= len(payload) and name != "ac_pad":
            value = record[name]
            found[name] = value.decode("utf-8", "backslashreplace") if kind.kind == "S" else int(value)
    return found


def to_row(stats: dict[str, Any], delays_accounted: bool, io_accounted: bool) -> dict[str, Any]:
    """The columns of schema.TASKSTATS_SCHEMA that a struct taskstats gives.

    None, not 0, is what the kernel does not account. `delays_accounted`: kernel.task_delayacct was on when the thread
    was born; `io_accounted`: CONFIG_TASK_IO_ACCOUNTING.
    """
    # sched_info: a thread that has ended has run, so no runs means that nothing was kept (CONFIG_TASK_DELAY_ACCT)
    scheduler = bool(stats.get("cpu_count"))
    # a user thread that ends has its memory still, so no peak means CONFIG_TASK_XACCT is off
    extended = bool(stats.get("hiwater_rss"))
    row: dict[str, Any] = {
        "version": stats["version"],
        "comm": stats.get("ac_comm"),
        "elapsed_us": stats.get("ac_etime"),
        "utime_us": stats.get("ac_utime"),
        "stime_us": stats.get("ac_stime"),
        "nvcsw": stats.get("nvcsw"),
        "nivcsw": stats.get("nivcsw"),
        "min_flt": stats.get("ac_minflt"),
        "maj_flt": stats.get("ac_majflt"),
        "cpu_count": stats["cpu_count"] if scheduler else None,
        "cpu_delay_ns": stats.get("cpu_delay_total") if scheduler else None,
        "cpu_delay_max_ns": stats.get("cpu_delay_max") if scheduler else None,
        "cpu_run_real_ns": stats.get("cpu_run_real_total") if scheduler else None,
        "cpu_run_virtual_ns": stats.get("cpu_run_virtual_total") if scheduler else None,
        "hiwater_rss_bytes": _kib(stats.get("hiwater_rss")) if extended else None,
        "hiwater_vm_bytes": _kib(stats.get("hiwater_vm")) if extended else None,
    }
    for name in ("read_char", "write_char"):
        row[f"{name}_bytes"] = stats.get(name) if extended else None
    for name in ("read_syscalls", "write_syscalls"):
        row[name] = stats.get(name) if extended else None
    for name in ("read_bytes", "write_bytes"):
        row[name] = stats.get(name) if io_accounted else None
    for what in DELAYS:
        # interrupts are accounted only with CONFIG_IRQ_TIME_ACCOUNTING as well: without any they were not looked at
        known = delays_accounted and (what != "irq" or bool(stats.get("irq_count")))
        row[f"{what}_count"] = stats.get(f"{what}_count") if known else None
        row[f"{what}_delay_ns"] = stats.get(f"{what}_delay_total") if known else None
    return row


def _kib(value: int | None) -> int | None:
    return None if value is None else value << 10

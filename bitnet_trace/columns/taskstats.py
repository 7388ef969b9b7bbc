"""The kernel's own accounting of threads, beside what was counted."""

from dataclasses import replace

from bitnet_trace.columns.column import FAULTS, SWITCH, Column
from bitnet_trace.columns.phases import THREADS

# Counted here and by the kernel (taskstats); each also as kernel_KEY and difference_KEY (ours less the kernel's).
TASKSTATS_COMPARED: tuple[Column, ...] = (
    Column("switches_voluntary", "voluntary switches", "count", "the thread went to sleep", needs=SWITCH),
    Column("switches_involuntary", "involuntary switches", "count", "the thread was preempted", needs=SWITCH),
    Column(
        "runq_wait_ns",
        "run-queue wait",
        "ns",
        "time that the thread was ready to run and had no CPU",
        needs=(*SWITCH, "sched_wakeup"),
    ),
    Column("all_faults_minor", "minor faults", "count", "user, kernel and populate faults without I/O", needs=FAULTS),
    Column("all_faults_major", "major faults", "count", "user, kernel and populate faults with I/O", needs=FAULTS),
    Column("cpu_ns", "on CPU", "ns", "time that the thread ran", needs=SWITCH),
)

# What only the kernel's own accounting has; the names are those of the recording.
TASKSTATS_KERNEL: tuple[Column, ...] = (
    Column("cpu_count", "runs", "count", "times that the thread was given a CPU"),
    Column("cpu_delay_max_ns", "longest run-queue wait", "ns", "the longest wait for a CPU (since Linux 6.14)"),
    Column("utime_us", "user µs", "number", "time in user mode in µs, by the kernel's tick"),
    Column("stime_us", "system µs", "number", "time in the kernel in µs, by its tick"),
    Column("blkio_count", "disk waits", "count", "waits for a disk"),
    Column("blkio_delay_ns", "disk wait", "ns", "time waiting for a disk"),
    Column("swapin_count", "swap-ins", "count", "waits for a page from swap"),
    Column("swapin_delay_ns", "swap-in wait", "ns", "time waiting for pages from swap"),
    Column("freepages_count", "reclaims", "count", "times that memory had to be freed first"),
    Column("freepages_delay_ns", "reclaim wait", "ns", "time in freeing memory"),
    Column("thrashing_count", "refaults", "count", "waits for pages that had just been thrown out"),
    Column("thrashing_delay_ns", "refault wait", "ns", "time waiting for such pages"),
    Column("compact_count", "compactions", "count", "times that memory had to be compacted first (since Linux 5.18)"),
    Column("compact_delay_ns", "compaction wait", "ns", "time in compacting memory"),
    Column("wpcopy_count", "copies on write", "count", "pages copied when they were written to (since Linux 6.0)"),
    Column("wpcopy_delay_ns", "copy-on-write wait", "ns", "time in copying them"),
    Column("irq_count", "interrupted", "count", "times that an interrupt held it up (since Linux 6.4)"),
    Column("irq_delay_ns", "interrupt wait", "ns", "time in interrupts"),
    Column("read_char_bytes", "read", "bytes", "bytes that read calls returned"),
    Column("write_char_bytes", "written", "bytes", "bytes that write calls took"),
    Column("read_bytes", "read from disk", "bytes", "bytes fetched from a disk on behalf of the thread"),
    Column("write_bytes", "written to disk", "bytes", "bytes that it made to be written to a disk"),
    Column("hiwater_rss_bytes", "peak RSS", "bytes", "most resident memory of its process until then"),
)

# One row per thread of which the kernel's own accounting is known.
TASKSTATS: tuple[Column, ...] = (
    *(column for column in THREADS if column.key != "role"),
    Column("at", "account", "text", "exit: of the thread's whole life; running: it had not ended"),
    Column("agrees", "agrees", "text", "counts are equal and times within rounding", how="derived"),
    *(
        one
        for column in TASKSTATS_COMPARED
        for one in (
            column,
            replace(column, key=f"kernel_{column.key}", title=f"{column.title} (kernel)", needs=()),
            replace(column, key=f"difference_{column.key}", title=f"{column.title} (difference)", how="derived"),
        )
    ),
    *TASKSTATS_KERNEL,
)

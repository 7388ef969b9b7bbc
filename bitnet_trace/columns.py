"""Every column that reports show, declared once: every output reads this table."""

from dataclasses import dataclass, replace
from typing import Literal

Format = Literal["ns", "bytes", "count", "number", "rate", "pct", "text"]
How = Literal["counted", "derived", "sampled", "estimated"]

# Probes that feed a column: without one of them it is missing, not 0. Tracepoints and events by the kernel's name.
_FAULTS = ("fault_minor", "fault_major")
_LATENCY = (*_FAULTS, "page_fault_user", "page_fault_kernel")
_SWITCH = ("sched_switch",)
_CALLS = ("sys_enter", "sys_exit")
_IO_URING = ("io_uring_submit_req", "io_uring_complete")
_TLB = ("tlb_flush",)


@dataclass(frozen=True)
class Column:
    """One column. `key` is the field's name in JSON and DataFrames and carries the unit; `title` heads it in text.

    `group` is the table that text reports put it in, None for those that only JSON has. `needs` are the probes that
    feed it. `measured` is False for a column of the schema that nothing measures: always missing.
    """

    key: str
    title: str
    format: Format
    help: str
    group: str | None = None
    how: How = "counted"
    needs: tuple[str, ...] = ()
    measured: bool = True

    @property
    def unit(self) -> str:
        """ns, bytes, or empty for plain counts and text."""
        return self.format if self.format in ("ns", "bytes") else ""


# One row per phase name (by_phase), per thread (by_thread) and for all together (total).
COUNTERS: tuple[Column, ...] = (
    Column("cpu_ns", "on CPU", "ns", "time that threads ran", "time", needs=_SWITCH),
    Column(
        "cpu_user_ns",
        "CPU user",
        "ns",
        "time that threads ran in user mode: on the CPU, less cpu_system_ns",
        "time",
        "derived",
        (*_SWITCH, *_CALLS),
    ),
    Column(
        "cpu_system_ns",
        "CPU system",
        "ns",
        "time that threads ran in system calls and page faults",
        "time",
        needs=_CALLS,
    ),
    Column("rss_peak_bytes", "peak RSS", "bytes", "most resident memory of a process in the phase", "memory"),
    Column("faults_minor", "minor faults", "count", "user and kernel faults without I/O", "memory", needs=_FAULTS),
    Column("faults_major", "major faults", "count", "user and kernel faults that read a disk", "memory", needs=_FAULTS),
    Column(
        "faults_kernel",
        "kernel faults",
        "count",
        "minor and major faults raised in kernel mode, as by read()",
        "memory",
        needs=_FAULTS,
    ),
    Column(
        "faults_populate",
        "populate faults",
        "count",
        "faults that the kernel took for a call: MAP_POPULATE, mlock, exec; no exception",
        "memory",
        needs=_CALLS,
    ),
    Column("populated_bytes", "populated", "bytes", "memory that such calls brought in", "memory", needs=_CALLS),
    Column("fault_ns", "fault time", "ns", "time from the exception to the handled fault", "memory", needs=_LATENCY),
    Column(
        "switches_voluntary", "voluntary switches", "count", "the thread went to sleep", "scheduling", needs=_SWITCH
    ),
    Column(
        "switches_involuntary", "involuntary switches", "count", "the thread was preempted", "scheduling", needs=_SWITCH
    ),
    Column("migrations", "migrations", "count", "moves to another CPU", "scheduling", needs=("sched_migrate_task",)),
    Column(
        "runq_wait_ns",
        "run-queue wait",
        "ns",
        "time that threads were ready to run and had no CPU; part of off-CPU time",
        "scheduling",
        needs=(*_SWITCH, "sched_wakeup"),
    ),
    Column("offcpu_ns", "off CPU", "ns", "time between leaving a CPU and running again", "time", needs=_SWITCH),
    Column("futex_calls", "futex calls", "count", "futex system calls, waits and wakes", "scheduling", needs=_CALLS),
    Column("futex_wait_ns", "futex wait", "ns", "time in futex calls that wait", "scheduling", needs=_CALLS),
    Column("mmap_calls", "mmap", "count", "mmap calls", "calls", needs=_CALLS),
    Column("munmap_calls", "munmap", "count", "munmap calls", "calls", needs=_CALLS),
    Column("mmap_bytes", "mmap bytes", "bytes", "bytes mapped by mmap calls that succeeded", "calls", needs=_CALLS),
    Column("sched_yield_calls", "sched_yield", "count", "sched_yield calls", "scheduling", needs=_CALLS),
    Column("io_uring_submitted", "SQEs", "count", "requests given to io_uring", "calls", needs=_IO_URING),
    Column("io_uring_completed", "CQEs", "count", "requests that io_uring completed", "calls", needs=_IO_URING),
    Column("io_uring_bytes", "io_uring bytes", "bytes", "bytes that those requests moved", "calls", needs=_IO_URING),
    Column(
        "io_uring_ns",
        "request time",
        "ns",
        "time of io_uring's requests from submission to completion, added up where they complete: not of a thread",
        "calls",
        needs=_IO_URING,
    ),
    Column("read_calls", "reads", "count", "calls of the read family", "calls", needs=_CALLS),
    Column("read_bytes", "read bytes", "bytes", "bytes that those calls returned", "calls", needs=_CALLS),
    Column("tlb_flushes", "TLB flushes", "count", "TLB flushes that the threads began", "tlb", needs=_TLB),
    Column("tlb_full_flushes", "full flushes", "count", "those of them that flushed everything", "tlb", needs=_TLB),
    Column("tlb_flush_pages", "flushed pages", "count", "pages of the others", "tlb", needs=_TLB),
    Column(
        "tlb_ipis_sent",
        "flush IPIs",
        "count",
        "TLB flushes that interrupted other CPUs, each once however many CPUs",
        "tlb",
        needs=_TLB,
    ),
    Column(
        "tlb_shootdowns_received",
        "shootdowns received",
        "count",
        "interrupts by another CPU that made the thread's CPU flush its TLB",
        "tlb",
        needs=_TLB,
    ),
    Column("faults_failed", "failed faults", "count", "exceptions without a handled fault", "memory", needs=_LATENCY),
    Column("wakeups", "wakeups", "count", "times that a thread was woken", "scheduling", needs=("sched_wakeup",)),
    Column("munmap_bytes", "munmap bytes", "bytes", "bytes unmapped by munmap", "calls", needs=_CALLS),
    Column("mremap_calls", "mremap", "count", "mremap calls", "calls", needs=_CALLS),
    Column("brk_calls", "brk", "count", "brk calls", "calls", needs=_CALLS),
    Column("madvise_calls", "madvise", "count", "madvise calls", "calls", needs=_CALLS),
    Column("mprotect_calls", "mprotect", "count", "mprotect calls", "calls", needs=_CALLS),
    Column("mlock_calls", "mlock", "count", "mlock, mlock2 and mlockall calls", "calls", needs=_CALLS),
    Column("memory_calls_ns", "memory calls", "ns", "time in the calls from mmap to mlock", "time", needs=_CALLS),
    Column("read_ns", "read time", "ns", "time in calls of the read family", "time", needs=_CALLS),
)

IO_URING: tuple[Column, ...] = (
    Column("opcode", "io_uring", "text", "what the request asked for"),
    Column("submitted", "submitted", "count", "requests of this kind that were accepted"),
    Column("completed", "completed", "count", "those that ended"),
    Column("bytes", "bytes", "bytes", "what they moved"),
    Column("errors", "errors", "count", "completions with an error"),
    Column("by_worker", "by worker", "count", "given to a kernel thread, as they would have blocked"),
    Column("p50", "p50", "ns", "from submission to completion: the median"),
    Column("p90", "p90", "ns", "the 90th of 100"),
    Column("p99", "p99", "ns", "the 99th of 100"),
    Column("max", "max", "ns", "the longest"),
)

PHASE_SUMS: tuple[Column, ...] = (
    Column("phase", "phase", "text", "load, prefill, decode ...: where the engine was"),
    Column("n", "n", "count", "how many phases of this name, in processes that called the engine", "time"),
    Column("dur_ns", "duration", "ns", "how long they lasted together", "time"),
)

PHASES: tuple[Column, ...] = (
    Column("id", "id", "number", "number of the phase, unique in the recording"),
    Column("pid", "pid", "number", "process"),
    Column("name", "phase", "text", "name of the phase"),
    Column("token", "token", "number", "number of the decode call in its context, from 1", how="derived"),
    Column("n_tokens", "tokens", "count", "tokens that the call processed"),
    Column("start_ns", "start", "ns", "begin, since the start of the recording"),
    Column("dur_ns", "duration", "ns", "how long it lasted", how="derived"),
    Column("overlapped", "overlapped", "text", "another thread's call ran at the same time"),
    Column("complete", "complete", "text", "its end was recorded"),
)

TOKENS: tuple[Column, ...] = (
    Column("phase_id", "id", "number", "number of the phase"),
    Column("name", "phase", "text", "prefill or decode"),
    Column("token", "token", "number", "number of the decode call in its context, from 1", how="derived"),
    Column("n_tokens", "tokens", "count", "tokens that the call processed"),
    Column("n_sampled", "sampled", "count", "tokens sampled after it"),
    Column("start_ns", "start", "ns", "begin, since the start of the recording"),
    Column("dur_ns", "duration", "ns", "how long the call lasted", how="derived"),
    Column("cpu_ns", "on CPU", "ns", "time that all threads ran in it", needs=_SWITCH),
    Column("faults", "faults", "count", "user and kernel faults in it", how="derived", needs=_FAULTS),
    Column("switches", "switches", "count", "voluntary and involuntary switches in it", how="derived", needs=_SWITCH),
    Column(
        "runq_wait_ns", "run-queue wait", "ns", "time that threads waited for a CPU", needs=(*_SWITCH, "sched_wakeup")
    ),
    Column("futex_wait_ns", "futex wait", "ns", "time in futex calls that wait", needs=_CALLS),
)

# Where the time of a call goes: means over the threads that compute, so that the parts add up to its duration.
PARTS: tuple[Column, ...] = (
    Column(
        "compute_ns",
        "compute",
        "ns",
        "on a CPU, less page faults and spinning; spinning too where samples do not tell it apart",
        how="derived",
    ),
    Column(
        "spin_ns", "spin", "ns", "on a CPU in a loop around pause, by the samples' share in that phase", how="estimated"
    ),
    Column("runq_ns", "run queue", "ns", "ready to run without a CPU", how="derived"),
    Column("fault_ns", "faults", "ns", "in page faults", how="derived"),
    Column("futex_ns", "futex", "ns", "asleep in futex calls, as at a barrier that sleeps", how="derived"),
    Column("io_ns", "I/O", "ns", "asleep in calls that read", how="derived"),
    Column("rest_ns", "other", "ns", "asleep for another reason, or not yet begun, or ended", how="derived"),
)
TOKEN_TIME: tuple[Column, ...] = (
    *(column for column in TOKENS if column.key in ("phase_id", "name", "token", "n_tokens", "start_ns", "dur_ns")),
    *PARTS,
)
PHASE_TIME: tuple[Column, ...] = (
    Column("name", "phase", "text", "prefill or decode"),
    Column(
        "n_tokens", "tokens", "count", "tokens that its calls processed; a call whose tokens are unknown counts as one"
    ),
    Column("n_threads", "threads", "count", "threads that compute", how="derived"),
    Column("dur_ns", "per token", "ns", "duration of its calls over their tokens", how="derived"),
    *PARTS,
)
RUN_QUEUE: tuple[Column, ...] = (
    Column("phase", "phase", "text", "phase at the end of the wait"),
    Column("n", "waits", "count", "times that a thread was ready and had to wait for a CPU"),
    Column("p50", "p50", "ns", "the median of those waits"),
    Column("p90", "p90", "ns", "the 90th of 100"),
    Column("p99", "p99", "ns", "the 99th of 100"),
    Column("max", "max", "ns", "the longest"),
)

THREADS: tuple[Column, ...] = (
    Column("pid", "pid", "number", "process"),
    Column("tid", "tid", "number", "thread"),
    Column("comm", "comm", "text", "last name of the thread"),
    Column(
        "role",
        "role",
        "text",
        "main: made the decode calls; compute: ran in prefill or decode; io_uring: a kernel thread for I/O; other",
        how="derived",
    ),
)

# Counted here and by the kernel (taskstats); each also as kernel_KEY and difference_KEY (ours less the kernel's).
TASKSTATS_COMPARED: tuple[Column, ...] = (
    Column("switches_voluntary", "voluntary switches", "count", "the thread went to sleep", needs=_SWITCH),
    Column("switches_involuntary", "involuntary switches", "count", "the thread was preempted", needs=_SWITCH),
    Column(
        "runq_wait_ns",
        "run-queue wait",
        "ns",
        "time that the thread was ready to run and had no CPU",
        needs=(*_SWITCH, "sched_wakeup"),
    ),
    Column("all_faults_minor", "minor faults", "count", "user, kernel and populate faults without I/O", needs=_FAULTS),
    Column("all_faults_major", "major faults", "count", "user, kernel and populate faults with I/O", needs=_FAULTS),
    Column("cpu_ns", "on CPU", "ns", "time that the thread ran", needs=_SWITCH),
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

SUMMARY: tuple[Column, ...] = (
    Column("load_ns", "load", "ns", "time in the calls that load the model"),
    Column(
        "ttft_ns",
        "TTFT",
        "ns",
        "time to first token: from the first instruction of the engine's process to the end of the first prefill",
        how="derived",
    ),
    Column(
        "tpot_ns", "TPOT", "ns", "time per output token: decode and sampling time over decoded tokens", how="derived"
    ),
    Column("prefill_tokens_per_s", "prefill", "rate", "prompt tokens over time in prefill calls", how="derived"),
    Column("decode_tokens_per_s", "decode", "rate", "decoded tokens over time in decode calls", how="derived"),
    Column("prompt_tokens", "prompt tokens", "count", "tokens of all prefill calls"),
    Column("decoded_tokens", "decoded tokens", "count", "tokens of all decode calls"),
)

GROUPS: tuple[tuple[str, str], ...] = (
    ("time", "Time"),
    ("memory", "Memory"),
    ("tlb", "TLB"),
    ("scheduling", "Scheduling and waiting"),
    ("calls", "Calls"),
)


def by_key(columns: tuple[Column, ...]) -> dict[str, Column]:
    """Columns by their keys."""
    return {column.key: column for column in columns}


# Of timer samples: a row per function, per role, and per thread and phase. `phase_shares` is {phase name: percent}.
_SHARES = Column("phase_shares", "by phase", "text", "percent of the samples of each phase", how="sampled")
_SAMPLES = Column("samples", "samples", "count", "timer samples in it", how="sampled")
_SELF = Column("self_pct", "self", "pct", "share of all samples that were in it", how="sampled")
_SPIN_SHARE = Column("spin_pct", "spinning", "pct", "share of its samples in a loop around pause", how="sampled")

# Off the CPU: a row per reason, and a row per program that ran in place of a thread that was preempted.
WAITS: tuple[Column, ...] = (
    Column(
        "reason",
        "waits in",
        "text",
        "the system call or page fault that a thread waited in; barrier: a futex of one; preempted: none",
    ),
    Column("count", "times", "count", "how often a thread left its CPU for it"),
    Column("offcpu_ns", "off CPU", "ns", "time off the CPU"),
    Column("runq_wait_ns", "run queue", "ns", "of that, time in which the thread wanted a CPU"),
)
INSTEAD: tuple[Column, ...] = (
    Column("tid", "thread", "number", "thread that ran instead; 0: the CPU was idle"),
    Column("comm", "name", "text", "its name, where it could be asked for"),
    Column("own", "of the target", "text", "whether it is one of the traced threads"),
    *WAITS[1:],
)

FUNCTIONS: tuple[Column, ...] = (
    Column("name", "function", "text", "function, [library] where that has no names", how="sampled"),
    Column("module", "file", "text", "program or library that it is in", how="sampled"),
    Column("role", "role", "text", "what it is for", how="sampled"),
    Column("explain", "explanation", "text", "what it is for, in a line", how="sampled"),
    _SAMPLES,
    _SELF,
    Column("self_ns", "self time", "ns", "time on a CPU in it: its samples by their period", how="sampled"),
    Column("total_pct", "total", "pct", "share of samples in it or in what it called", how="sampled"),
    Column("total_ns", "total time", "ns", "time on a CPU in it or in what it called", how="sampled"),
    Column(
        "offcpu_ns",
        "descheduled",
        "ns",
        "time off the CPU in it or in what it called, of waits of 0.2 ms and more whose stack goes as far",
        how="sampled",
    ),
    _SPIN_SHARE,
    _SHARES,
    Column("calls_per_token", "calls a token", "count", "calls in a decode call of one token", how="derived"),
    Column("calls_low", "calls at least", "number", "lower end of its 95 % interval", how="derived"),
    Column("calls_high", "calls at most", "number", "upper end of its 95 % interval", how="derived"),
    Column("calls", "calls", "count", "calls in all decode calls of one token", how="derived"),
    Column("mean_ns", "time per call", "ns", "its samples in those calls by `calls`", how="derived"),
    Column("mean_low_ns", "at least", "ns", "lower end of its 95 % interval", how="derived"),
    Column("mean_high_ns", "at most", "ns", "upper end of its 95 % interval", how="derived"),
    Column("how", "how", "text", "how these figures were got", how="sampled"),
)
# How long calls took that began and ended in a burst (`--functions`): a row per function and phase name.
DURATIONS: tuple[Column, ...] = (
    Column("function", "function", "text", "function"),
    Column("phase", "phase", "text", "name of the phase"),
    Column("bursts", "bursts", "count", "times that it was probed"),
    Column("calls", "timed", "count", "calls that began and ended in one of them"),
    Column("mean_ns", "mean", "ns", "wall time of a call, less `probe_ns`", how="derived"),
    Column("mean_low_ns", "at least", "ns", "lower end of its 95 % interval", how="derived"),
    Column("mean_high_ns", "at most", "ns", "upper end of its 95 % interval", how="derived"),
    Column("p50_ns", "p50", "ns", "the median", how="derived"),
    Column("p90_ns", "p90", "ns", "the 90th of 100", how="derived"),
    Column("p99_ns", "p99", "ns", "the 99th of 100", how="derived"),
    Column("probe_ns", "probe", "ns", "what the probes are reckoned to take of a call's time", how="estimated"),
    Column("histogram", "histogram", "text", "calls by their least ns, eight steps to each doubling"),
)
ROLES: tuple[Column, ...] = (
    Column("role", "role", "text", "what functions are for", how="sampled"),
    _SAMPLES,
    _SELF,
    _SHARES,
    Column("mostly", "mostly", "text", "the function with most of its samples", how="sampled"),
)
SPIN: tuple[Column, ...] = (
    Column("tid", "thread", "number", "thread"),
    Column("comm", "name", "text", "name of the thread"),
    Column("phase", "phase", "text", "name of the phase"),
    _SAMPLES,
    _SPIN_SHARE,
)

# Barriers, of the calls that lie wholly in a window: a row per phase name, per thread, and per thread and cause.
_WAIT_SHARE = Column("wait_pct", "waiting", "pct", "wait by the time of those calls, of all threads", how="derived")
BARRIER_PHASES: tuple[Column, ...] = (
    Column("phase", "phase", "text", "name of the phase"),
    Column("calls", "calls", "count", "decode calls of this name"),
    Column("calls_seen", "seen", "count", "those that lay wholly in a window, and are counted here"),
    Column("count", "barriers", "count", "barriers in those calls, each once for all of its threads"),
    Column("per_call", "a call", "number", "barriers by calls seen"),
    Column("count_estimate", "in all", "count", "barriers in all calls of this name", how="estimated"),
    Column("threads", "threads", "count", "threads that entered them"),
    Column("wait_ns", "wait", "ns", "time from threads' arrivals to the last one's, added up", how="derived"),
    _WAIT_SHARE,
    Column("skew_p50_ns", "skew p50", "ns", "from the first arrival to the last: the median", how="derived"),
    Column("skew_p90_ns", "skew p90", "ns", "the 90th of 100", how="derived"),
    Column("skew_max_ns", "skew max", "ns", "the longest", how="derived"),
    replace(_SPIN_SHARE, help="share of all timer samples of the phase in a loop around pause"),
)
BARRIER_THREADS: tuple[Column, ...] = (
    *(column for column in THREADS if column.key in ("tid", "comm")),
    Column("instances", "arrivals", "count", "barriers that it entered"),
    Column("wait_ns", "wait", "ns", "time from its arrivals to the last thread's", how="derived"),
    replace(_WAIT_SHARE, help="its wait by the time of those calls"),
    Column("last_arrivals", "last", "count", "how often it came last"),
    Column("late_ns", "late", "ns", "time for which only it was missing", how="derived"),
    Column("causes", "late because", "text", "what that came of, in ns", how="derived"),
    replace(_SPIN_SHARE, help="share of its samples in those phases in a loop around pause"),
)
STRAGGLERS: tuple[Column, ...] = (
    Column("phase", "phase", "text", "name of the phase"),
    *(column for column in THREADS if column.key in ("tid", "comm")),
    Column("cause", "late because", "text", "what most of its lateness came of", how="derived"),
    Column("by", "by", "text", "preempted: the thread that ran instead; asleep: the system call", how="derived"),
    Column("times", "times", "count", "barriers at which it came last for this"),
    Column("late_ns", "late", "ns", "time for which only it was missing", how="derived"),
    Column("late_pct", "of the calls", "pct", "that time by the time of the calls seen", how="derived"),
)

# Operations of the engine's graph, of the calls that lie wholly in a window: what follows the keys of each table.
OPERATION_SUMS: tuple[Column, ...] = (
    Column("nodes_a_call", "nodes a call", "number", "nodes of the graph in a call of that name"),
    Column("threads", "threads", "count", "threads that took part"),
    Column(
        "time_ns",
        "time",
        "ns",
        "of all threads: from a node's begin to the barrier behind it, less waits within",
        how="derived",
    ),
    Column("call_ns", "a call", "ns", "that time by the calls seen", how="derived"),
    Column("time_pct", "of all", "pct", "that time by that of all operations in calls of that name", how="derived"),
    Column("wait_ns", "wait after it", "ns", "what threads waited at the barriers behind and within", how="derived"),
)
_OF_PHASE = Column("phase", "phase", "text", "name of the phase")
_OPERATION = Column("op", "operation", "text", "the engine's name of it")
OPERATIONS: tuple[Column, ...] = (_OF_PHASE, _OPERATION, *OPERATION_SUMS)
OPERATION_LAYERS: tuple[Column, ...] = (
    _OF_PHASE,
    Column("layer", "layer", "number", "by the node's name, or that of its weights", how="derived"),
    *OPERATION_SUMS,
)
OPERATION_TENSORS: tuple[Column, ...] = (
    _OF_PHASE,
    Column("tensor", "tensor", "text", "the weights that are multiplied by, else what the node is called"),
    *OPERATION_SUMS,
)
OPERATION_THREADS: tuple[Column, ...] = (
    _OF_PHASE,
    *(column for column in THREADS if column.key in ("tid", "comm")),
    _OPERATION,
    *OPERATION_SUMS,
)

FINDINGS: tuple[Column, ...] = (
    Column("rule", "rule", "text", "what was looked for; docs/figures.md explains it"),
    Column("severity", "severity", "text", "critical, warning or note"),
    Column("title", "finding", "text", "what is wrong, with its figure"),
    Column("figure", "figure", "number", "what was measured", how="derived"),
    Column("threshold", "threshold", "number", "from what on it is a finding"),
    Column("unit", "unit", "text", "of both"),
    Column("phase", "phase", "text", "name of the phase"),
    Column("evidence", "evidence", "text", "the figures that it rests on, as lines"),
    Column("advice", "advice", "text", "what to do"),
)
# Where faults fell: a row per region, layer or tensor. `phases` is {phase name: {key of PLACE_SUMS: value}}.
PLACE_SUMS: tuple[Column, ...] = (
    Column("faults_minor", "minor faults", "count", "user and kernel faults without I/O", needs=_FAULTS),
    Column("faults_major", "major faults", "count", "user and kernel faults that read a disk", needs=_FAULTS),
    Column("faults_kernel", "kernel faults", "count", "those of both that were raised in kernel mode", needs=_FAULTS),
    Column("faults_populate", "populate faults", "count", "faults that the kernel took ahead of use", needs=_CALLS),
    Column("fault_ns", "fault time", "ns", "time from the exception to the handled fault", needs=_LATENCY),
    Column("bytes", "faulted", "bytes", "4 KiB for each minor or major fault", how="derived", needs=_FAULTS),
    Column("populated_bytes", "populated", "bytes", "what calls brought in ahead of use", needs=_CALLS),
    Column("read_bytes", "read", "bytes", "what calls of the read family took from the file", needs=_CALLS),
)
_PLACE_PHASES = Column("phases", "by phase", "text", "the same, by phase, where it is not 0")
_PATH = Column("path", "file", "text", "the file that is mapped or read")
PLACES_REGION: tuple[Column, ...] = (
    Column("region", "region", "text", "what the memory is for"),
    _PATH,
    *PLACE_SUMS,
    _PLACE_PHASES,
)
PLACES_LAYER: tuple[Column, ...] = (
    Column("layer", "layer", "number", "layer of the model; missing: embedding, output"),
    _PATH,
    *PLACE_SUMS,
    _PLACE_PHASES,
)
PLACES_TENSOR: tuple[Column, ...] = (
    Column("tensor", "tensor", "text", "tensor of the model file"),
    Column("layer", "layer", "number", "its layer; missing: embedding, output"),
    Column("type", "type", "text", "its type: a name, or the number in the file where that is not known"),
    Column("tensor_bytes", "size", "bytes", "its size"),
    Column("read_once_bytes", "read, different", "bytes", "of its bytes those that were read, each once", needs=_CALLS),
    _PATH,
    *PLACE_SUMS,
    _PLACE_PHASES,
)

# A row per metric of a comparison; the format of values is that of the column `key`.
COMPARED: tuple[Column, ...] = (
    Column(
        "family",
        "family",
        "text",
        "speed; time: parts of the time per token; counts: all columns by phase; cpu: perf's counters and TLBs",
    ),
    Column("phase", "phase", "text", "phase name"),
    Column("key", "metric", "text", "column; of prefill, decode and sample per token"),
    Column("base", "base", "number", "mean of the first group", how="derived"),
    Column("other", "other", "number", "mean of the other group", how="derived"),
    Column("difference", "difference", "number", "other less base", how="derived"),
    Column("difference_pct", "difference", "pct", "difference in percent of base", how="derived"),
    Column("low", "low", "number", "lower end of the interval of the difference", how="derived"),
    Column("high", "high", "number", "its upper end", how="derived"),
    Column("p_value", "p", "number", "Welch's test, not corrected", how="derived"),
    Column("real", "real", "text", "called real: corrected for the number of metrics in the family", how="derived"),
)
# Resident memory: a row per process, moment, region and page size.
PAGES: tuple[Column, ...] = (
    Column("pid", "pid", "number", "process"),
    Column("moment", "moment", "text", "after load, decode (the first), end (exactly), or interval"),
    Column("ts_ns", "at", "number", "when, by CLOCK_MONOTONIC"),
    Column("region", "region", "text", "what the memory is for"),
    _PATH,
    Column("page_bytes", "page size", "bytes", "what one entry of the page table maps, or the folio behind it"),
    Column("file", "of a file", "text", "pages of files and shared memory; else anonymous"),
    Column("resident_bytes", "resident", "bytes", "resident in pages of that size"),
)
PAGES_ADVISED: tuple[Column, ...] = (
    Column("region", "region", "text", "what the memory is for"),
    _PATH,
    Column("advice", "advice", "text", "what madvise was told"),
    Column("advised_bytes", "advised", "bytes", "about how much, added up over the calls"),
)

# loadlab: a row per state of the page cache and way of loading.
LOADLAB: tuple[Column, ...] = (
    Column("state", "page cache", "text", "cold: without the file; warm: with all of it"),
    Column("rank", "rank", "number", "1 is the fastest of that state", how="derived"),
    Column("way", "way", "text", "how the file was loaded"),
    Column("n", "trials", "count", "how often"),
    Column("seconds_mean", "seconds", "number", "mean time until every byte could be used"),
    Column("seconds_low", "from", "number", "lower end of the mean's 95 % interval (Student's t)", how="derived"),
    Column("seconds_high", "to", "number", "its upper end", how="derived"),
    Column("gb_per_s", "GB/s", "number", "10^9 bytes a second", how="derived"),
    Column("like_first", "like first", "text", "its interval overlaps that of the fastest", how="derived"),
    Column("cpu_s", "CPU s", "number", "CPU time of the process, with io_uring's workers"),
    Column("faults_minor_per_gb", "minor/GB", "number", "page faults without I/O for 10^9 bytes"),
    Column("faults_major_per_gb", "major/GB", "number", "page faults that waited for a disk"),
    Column("switches_per_gb", "switches/GB", "number", "context switches"),
    Column("calls_per_gb", "calls/GB", "number", "system calls for the data, as made"),
    Column("submitted_per_gb", "SQEs/GB", "number", "requests given to io_uring, as made"),
    Column("cached_pct", "cached", "pct", "of the file, before the trials"),
    Column("checksum", "CRC-32", "number", "of what was loaded"),
    Column("reason", "not possible", "text", "why it could not be done here"),
)

# How models got in: a row per phase in which their bytes came.
LOAD_PATH: tuple[Column, ...] = (
    Column("phase", "phase", "text", "when"),
    Column("dur_ns", "duration", "ns", "how long the phase lasted"),
    Column("populated_bytes", "populated", "bytes", "of the mapped model, ahead of use (MAP_POPULATE)"),
    Column("faulted_bytes", "faulted", "bytes", "of the mapped model, 4 KiB for each fault", how="derived"),
    Column("cached_read_bytes", "read", "bytes", "by calls of the read family, through the page cache"),
    Column("direct_read_bytes", "O_DIRECT", "bytes", "by such calls, past the page cache"),
    Column("io_uring_bytes", "io_uring", "bytes", "by io_uring, of any file"),
    Column("missed_bytes", "not cached", "bytes", "of the model, brought into the page cache meanwhile"),
    Column(
        "cache",
        "page cache",
        "text",
        "of what came through it 90 % was not there: cold; 10 % at most: warm",
        how="derived",
    ),
    Column(
        "readahead_waited",
        "readahead waited for",
        "count",
        "times that the kernel read from disk because a page was missing",
    ),
    Column("readahead_ahead", "ahead of need", "count", "times that it read on before anybody asked"),
    Column("io_uring_depth_mean", "depth", "number", "io_uring's requests under way, on average", how="derived"),
    Column("depth_max", "most at once", "count", "reads and io_uring's requests under way at one moment"),
    Column("gb_per_s", "GB/s", "number", "all of them over the time of the phase", how="derived"),
    Column("faults_major", "major faults", "count", "faults in the model that waited for a disk"),
)

# perf's counters (`run --counters`): a row per phase and counter, per thread and counter, per phase and rate.
_PERF: tuple[Column, ...] = (
    Column("counter", "counter", "text", "perf's name; with its PMU where there are several kinds of cores"),
    Column("value", "count", "count", "how often it was counted; ns of clocks"),
    Column("unit", "unit", "text", "of the count; none: events"),
    Column("running_pct", "counted for", "pct", "share of the time in which the PMU had a place for it"),
    Column("how", "how", "text", "counted; estimated: counted for a part of the time, and by that share more"),
)
PERF_PHASES: tuple[Column, ...] = (Column("phase", "phase", "text", "name, or total"), *_PERF)
PERF_THREADS: tuple[Column, ...] = (
    Column("pid", "pid", "number", "process"),
    Column("tid", "tid", "number", "thread"),
    *_PERF,
)
PERF_RATES: tuple[Column, ...] = (
    Column("phase", "phase", "text", "name, or total"),
    Column("pmu", "PMU", "text", "of which kind of core, where there are several"),
    Column("rate", "rate", "text", "what is divided by what"),
    Column("value", "value", "number", "the rate", how="derived"),
    Column("unit", "unit", "text", "% or none"),
)

# How much memory TLBs reach over: a row per TLB of data and page size.
TLB_REACH: tuple[Column, ...] = (
    Column("level", "TLB", "number", "1: the first level"),
    Column("page_bytes", "page size", "bytes", "of the pages that are translated"),
    Column("entries", "entries", "count", "by CPUID"),
    Column("shared", "shared", "text", "yes: pages of other sizes have the same entries"),
    Column("reach_bytes", "reach", "bytes", "entries times page size", how="estimated"),
    Column("reach_pct", "of a token", "pct", "share of the weights that one token reads", how="estimated"),
    Column("resident_pct", "weights in such pages", "pct", "share of the resident weights in pages of that size"),
)

# Huge pages that the kernel made of small ones, or tried to: a row per phase, kind of memory and outcome.
COLLAPSES: tuple[Column, ...] = (
    Column("phase", "phase", "text", "of the process whose memory it is"),
    Column("what", "memory", "text", "anonymous, or of a file"),
    Column("result", "result", "text", "made, or why not, as the kernel calls it (enum scan_result)"),
    Column("n", "2 MiB blocks", "count", "how often"),
)

# NUMA nodes: a row per region and node, and per phase and node.
NUMA_REGIONS: tuple[Column, ...] = (
    Column("region", "region", "text", "what the memory is for"),
    Column("node", "node", "number", "NUMA node"),
    Column("resident_bytes", "on it", "bytes", "resident on that node, when it was last looked at"),
    Column(
        "local_pct",
        "local",
        "pct",
        "of its accesses, were they spread as threads and pages are",
        how="estimated",
    ),
)
NUMA_PHASES: tuple[Column, ...] = (
    Column("phase", "phase", "text", "name, or total"),
    Column("node", "node", "number", "NUMA node"),
    Column("cpu_pct", "CPU time", "pct", "share of the phase's timer samples on CPUs of that node", how="sampled"),
    Column("node_moves", "moves between nodes", "count", "threads that went to a CPU of another node; of all nodes"),
)

"""What there is by phase, by call and by thread."""

from bitnet_trace.columns.column import CALLS, FAULTS, LATENCY, REQUESTS, SWITCH, TLB, Column

# One row per phase name (by_phase), per thread (by_thread) and for all together (total).
COUNTERS: tuple[Column, ...] = (
    Column("cpu_ns", "on CPU", "ns", "time that threads ran", "time", needs=SWITCH),
    Column(
        "cpu_user_ns",
        "CPU user",
        "ns",
        "time that threads ran in user mode: on the CPU, less cpu_system_ns",
        "time",
        "derived",
        (*SWITCH, *CALLS),
    ),
    Column(
        "cpu_system_ns",
        "CPU system",
        "ns",
        "time that threads ran in system calls and page faults",
        "time",
        needs=CALLS,
    ),
    Column("rss_peak_bytes", "peak RSS", "bytes", "most resident memory of a process in the phase", "memory"),
    Column("faults_minor", "minor faults", "count", "user and kernel faults without I/O", "memory", needs=FAULTS),
    Column("faults_major", "major faults", "count", "user and kernel faults that read a disk", "memory", needs=FAULTS),
    Column(
        "faults_kernel",
        "kernel faults",
        "count",
        "minor and major faults raised in kernel mode, as by read()",
        "memory",
        needs=FAULTS,
    ),
    Column(
        "faults_populate",
        "populate faults",
        "count",
        "faults that the kernel took for a call: MAP_POPULATE, mlock, exec; no exception",
        "memory",
        needs=CALLS,
    ),
    Column("populated_bytes", "populated", "bytes", "memory that such calls brought in", "memory", needs=CALLS),
    Column("fault_ns", "fault time", "ns", "time from the exception to the handled fault", "memory", needs=LATENCY),
    Column("switches_voluntary", "voluntary switches", "count", "the thread went to sleep", "scheduling", needs=SWITCH),
    Column(
        "switches_involuntary", "involuntary switches", "count", "the thread was preempted", "scheduling", needs=SWITCH
    ),
    Column("migrations", "migrations", "count", "moves to another CPU", "scheduling", needs=("sched_migrate_task",)),
    Column(
        "runq_wait_ns",
        "run-queue wait",
        "ns",
        "time that threads were ready to run and had no CPU; part of off-CPU time",
        "scheduling",
        needs=(*SWITCH, "sched_wakeup"),
    ),
    Column("offcpu_ns", "off CPU", "ns", "time between leaving a CPU and running again", "time", needs=SWITCH),
    Column("futex_calls", "futex calls", "count", "futex system calls, waits and wakes", "scheduling", needs=CALLS),
    Column("futex_wait_ns", "futex wait", "ns", "time in futex calls that wait", "scheduling", needs=CALLS),
    Column("mmap_calls", "mmap", "count", "mmap calls", "calls", needs=CALLS),
    Column("munmap_calls", "munmap", "count", "munmap calls", "calls", needs=CALLS),
    Column("mmap_bytes", "mmap bytes", "bytes", "bytes mapped by mmap calls that succeeded", "calls", needs=CALLS),
    Column("sched_yield_calls", "sched_yield", "count", "sched_yield calls", "scheduling", needs=CALLS),
    Column("io_uring_submitted", "SQEs", "count", "requests given to io_uring", "calls", needs=REQUESTS),
    Column("io_uring_completed", "CQEs", "count", "requests that io_uring completed", "calls", needs=REQUESTS),
    Column("io_uring_bytes", "io_uring bytes", "bytes", "bytes that those requests moved", "calls", needs=REQUESTS),
    Column(
        "io_uring_ns",
        "request time",
        "ns",
        "time of io_uring's requests from submission to completion, added up where they complete: not of a thread",
        "calls",
        needs=REQUESTS,
    ),
    Column("read_calls", "reads", "count", "calls of the read family", "calls", needs=CALLS),
    Column("read_bytes", "read bytes", "bytes", "bytes that those calls returned", "calls", needs=CALLS),
    Column("tlb_flushes", "TLB flushes", "count", "TLB flushes that the threads began", "tlb", needs=TLB),
    Column("tlb_full_flushes", "full flushes", "count", "those of them that flushed everything", "tlb", needs=TLB),
    Column("tlb_flush_pages", "flushed pages", "count", "pages of the others", "tlb", needs=TLB),
    Column(
        "tlb_ipis_sent",
        "flush IPIs",
        "count",
        "TLB flushes that interrupted other CPUs, each once however many CPUs",
        "tlb",
        needs=TLB,
    ),
    Column(
        "tlb_shootdowns_received",
        "shootdowns received",
        "count",
        "interrupts by another CPU that made the thread's CPU flush its TLB",
        "tlb",
        needs=TLB,
    ),
    Column("faults_failed", "failed faults", "count", "exceptions without a handled fault", "memory", needs=LATENCY),
    Column("wakeups", "wakeups", "count", "times that a thread was woken", "scheduling", needs=("sched_wakeup",)),
    Column("munmap_bytes", "munmap bytes", "bytes", "bytes unmapped by munmap", "calls", needs=CALLS),
    Column("mremap_calls", "mremap", "count", "mremap calls", "calls", needs=CALLS),
    Column("brk_calls", "brk", "count", "brk calls", "calls", needs=CALLS),
    Column("madvise_calls", "madvise", "count", "madvise calls", "calls", needs=CALLS),
    Column("mprotect_calls", "mprotect", "count", "mprotect calls", "calls", needs=CALLS),
    Column("mlock_calls", "mlock", "count", "mlock, mlock2 and mlockall calls", "calls", needs=CALLS),
    Column("memory_calls_ns", "memory calls", "ns", "time in the calls from mmap to mlock", "time", needs=CALLS),
    Column("read_ns", "read time", "ns", "time in calls of the read family", "time", needs=CALLS),
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
    Column("cpu_ns", "on CPU", "ns", "time that all threads ran in it", needs=SWITCH),
    Column("faults", "faults", "count", "user and kernel faults in it", how="derived", needs=FAULTS),
    Column("switches", "switches", "count", "voluntary and involuntary switches in it", how="derived", needs=SWITCH),
    Column(
        "runq_wait_ns", "run-queue wait", "ns", "time that threads waited for a CPU", needs=(*SWITCH, "sched_wakeup")
    ),
    Column("futex_wait_ns", "futex wait", "ns", "time in futex calls that wait", needs=CALLS),
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

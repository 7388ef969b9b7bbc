"""The Arrow schemas of a recording's streams and the names of its files."""

import numpy as np
import pyarrow as pa

from bitnet_trace.recording.layout import COUNTER_FIELDS, EVENT_DTYPE

SCHEMA_VERSION = 1

META_NAME = "meta.json"
META_TEMPORARY_NAME = "meta.json.tmp"
LOG_NAMES = ("stdout.log", "stderr.log")
# Streams that other parts of the tool add to a recording; named here so that --force may replace them.
STREAM_NAMES = (
    *("events", "counters", "phases", "threads", "maps", "areas", "residency", "tensors", "taskstats"),
    *("samples", "stacks", "symbols", "windows", "calls", "durations", "scheduling", "perf", "graph_tensors", "numa"),
)

# What a thread waited for by taskstats, beside the CPU: disk, memory and interrupts.
DELAYS = ("blkio", "swapin", "freepages", "thrashing", "compact", "wpcopy", "irq")

EVENT_SCHEMA = pa.schema([pa.field(name, pa.from_numpy_dtype(EVENT_DTYPE[name])) for name in EVENT_DTYPE.names or ()])

COUNTER_DTYPE = np.dtype([("tid", "<u4"), ("phase", "<u4"), *((name, "<u8") for name in COUNTER_FIELDS)])
COUNTER_SCHEMA = pa.schema(
    [pa.field(name, pa.from_numpy_dtype(COUNTER_DTYPE[name])) for name in COUNTER_DTYPE.names or ()]
)

PHASE_SCHEMA = pa.schema(
    [
        ("id", pa.uint32()),
        ("pid", pa.uint32()),
        ("tid", pa.uint32()),
        ("context", pa.uint64()),
        ("role", pa.string()),
        ("begin_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("end_kind", pa.uint32()),
        ("n_tokens", pa.uint32()),
        ("n_sampled", pa.uint32()),
        ("n_logits", pa.uint32()),
        ("warmup", pa.bool_()),
        ("before_reset", pa.bool_()),
        ("overlapped", pa.bool_()),
    ]
)

THREAD_SCHEMA = pa.schema(
    [
        ("tid", pa.uint32()),
        ("pid", pa.uint32()),
        ("comm", pa.string()),
        ("parent_tid", pa.uint32()),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("exit_code", pa.int64()),
    ]
)

MAP_SCHEMA = pa.schema(
    [
        ("pid", pa.uint32()),
        ("ts_ns", pa.int64()),
        ("address", pa.uint64()),
        ("length", pa.uint64()),
        ("offset", pa.uint64()),
        ("device", pa.uint64()),
        ("inode", pa.uint64()),
        ("path", pa.string()),
    ]
)

# What an address space holds, as /proc/PID/maps has it, beside what the memory calls of `events` tell. `moment` "exec":
# a new program, nothing from before is left (the row has its path only); "held": it stood still and held this, and did
# not at the last such moment. `protection`: enum memory_detail (READ, WRITE, EXEC, SHARED).
AREA_SCHEMA = pa.schema(
    [
        ("pid", pa.uint32()),
        ("ts_ns", pa.int64()),
        ("moment", pa.string()),
        ("begin", pa.uint64()),
        ("end", pa.uint64()),
        ("offset", pa.uint64()),
        ("device", pa.uint64()),
        ("inode", pa.uint64()),
        ("protection", pa.uint32()),
        ("path", pa.string()),
    ]
)

# What was resident of a process at a moment: "after load", "decode" (the first decode call has ended: within a second
# after it), "end" (exactly) or "interval". [begin, end) in pages of `page_bytes`: what one entry of the page table
# maps, or where asked for the folio that lies behind it. `file`: pages of a file or shared memory.
RESIDENCY_SCHEMA = pa.schema(
    [
        ("pid", pa.uint32()),
        ("ts_ns", pa.int64()),
        ("moment", pa.string()),
        ("begin", pa.uint64()),
        ("end", pa.uint64()),
        ("page_bytes", pa.uint64()),
        ("file", pa.bool_()),
    ]
)

# The tensor tables of the model files that were mapped or read. `offset` from the file's begin; `type` is ggml's number
# or a fork's, `type_name` null where it is unknown; `size_bytes` reaches to the next tensor where the type is unknown.
TENSOR_SCHEMA = pa.schema(
    [
        ("device", pa.uint64()),
        ("inode", pa.uint64()),
        ("path", pa.string()),
        ("name", pa.string()),
        ("type", pa.uint32()),
        ("type_name", pa.string()),
        ("elements", pa.uint64()),
        ("rows", pa.uint64()),
        ("offset", pa.uint64()),
        ("size_bytes", pa.uint64()),
    ]
)

# The kernel's own accounting of a thread. `at`: "exit", of its whole life but for its very end; "running", of one that
# had not ended, so far; "before", what of that was before counting began (the first thread, until its first execve);
# "after", what was counted between that accounting and the thread's last switch. Of the last two only the columns up
# to cpu_run_virtual_ns are set. None: the kernel does not account it.
TASKSTATS_SCHEMA = pa.schema(
    [
        ("at", pa.string()),
        ("tid", pa.uint32()),
        ("pid", pa.uint32()),
        *(
            (name, pa.uint64())
            for name in (
                *("nvcsw", "nivcsw", "min_flt", "maj_flt", "cpu_count", "cpu_delay_ns", "cpu_run_virtual_ns"),
                *("cpu_delay_max_ns", "cpu_run_real_ns", "utime_us", "stime_us", "elapsed_us"),
                *(f"{what}_{part}" for what in DELAYS for part in ("count", "delay_ns")),
                *("read_char_bytes", "write_char_bytes", "read_syscalls", "write_syscalls"),
                *("read_bytes", "write_bytes", "hiwater_rss_bytes", "hiwater_vm_bytes"),
            )
        ),
        ("comm", pa.string()),
        ("version", pa.uint32()),
    ]
)

# Where threads were when the timer fired (`reason` 0), or had waited for `period_ns` (enum wait_reason of record.h).
# `stack`: a number of the stream `stacks`.
SAMPLE_SCHEMA = pa.schema(
    [
        ("ts_ns", pa.uint64()),
        ("period_ns", pa.uint64()),
        ("stack", pa.uint32()),
        ("tid", pa.uint32()),
        ("pid", pa.uint32()),
        ("phase", pa.uint32()),
        ("cpu", pa.uint32()),
        ("reason", pa.uint32()),
    ]
)

# Of so many different stacks it is known that they were told of; then they are told once more, with other numbers.
MOST_KNOWN = 20_000

# Addresses from here on are the kernel's.
KERNEL_SPACE = 1 << 63

# A row per frame. `level` 0 is the instruction itself; the others are return addresses, less 1: inside their calls.
STACK_SCHEMA = pa.schema(
    [("stack", pa.uint32()), ("level", pa.uint32()), ("pid", pa.uint32()), ("address", pa.uint64())]
)

# What the addresses of all stacks mean. `function` as the symbol table has it, demangled; `inlined` the innermost one
# that the compiler put in there, where debug information tells. `spins`: in a loop around `pause`.
SYMBOL_SCHEMA = pa.schema(
    [
        ("pid", pa.uint32()),
        ("address", pa.uint64()),
        ("module", pa.string()),
        ("function", pa.string()),
        ("inlined", pa.string()),
        ("spins", pa.bool_()),
    ]
)

# What thread `caller` asked of the scheduler for thread `tid`, by a call: what it does not set is null, `error` is 0
# where it succeeded. `call` null: what the thread had when it ended. `cpus` as in /proc/PID/status ("0-3,8"),
# `policy` as in sched(7), `priority` the real-time one.
SCHEDULING_SCHEMA = pa.schema(
    [
        ("ts_ns", pa.int64()),
        ("pid", pa.uint32()),
        ("caller", pa.uint32()),
        ("tid", pa.uint32()),
        ("call", pa.string()),
        ("error", pa.uint32()),
        ("cpus", pa.string()),
        ("policy", pa.uint32()),
        ("priority", pa.uint32()),
        ("nice", pa.int64()),
    ]
)

# When costly probes were on: from after they were attached until before they were detached, every hit of them counted
# and recorded. `what`: "barriers", "operations" or "function:NAME"; `cost_ns`: what the hits are reckoned to have cost.
WINDOW_SCHEMA = pa.schema(
    [
        ("what", pa.string()),
        ("begin_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("hits", pa.int64()),
        ("cost_ns", pa.int64()),
    ]
)

# How often functions were called in a window, by phase: exact for phases that lie wholly in it. `probe`: a row of
# meta["probes"].
CALL_SCHEMA = pa.schema(
    [
        ("probe", pa.uint32()),
        ("phase", pa.uint32()),
        ("calls", pa.uint64()),
        ("begin_ns", pa.int64()),
        ("end_ns", pa.int64()),
    ]
)

# How long calls took that began and ended in a burst, by phase: `bucket`: their length, eight to each doubling
# (bpf/kernel.bpf.c), `total_ns`: of them all. `probe`: a row of meta["probes"], the function's entry.
DURATION_SCHEMA = pa.schema(
    [
        ("probe", pa.uint32()),
        ("phase", pa.uint32()),
        ("bucket", pa.uint32()),
        ("calls", pa.uint64()),
        ("total_ns", pa.uint64()),
        ("begin_ns", pa.int64()),
        ("end_ns", pa.int64()),
    ]
)

# What the tensor at an address of a process is called, from this moment on; told in windows of operations.
GRAPH_TENSOR_SCHEMA = pa.schema(
    [("ts_ns", pa.int64()), ("pid", pa.uint32()), ("address", pa.uint64()), ("name", pa.string())]
)

# What perf's counters counted of a thread in a phase, as deltas; `counter`: a row of meta["counters"]. `enabled_ns`:
# time in which it was to be counted, `running_ns`: in which the PMU had a place for it; `until_ns`: the last edge.
PERF_SCHEMA = pa.schema(
    [
        ("tid", pa.uint32()),
        ("phase", pa.uint32()),
        ("counter", pa.uint32()),
        ("count", pa.uint64()),
        ("enabled_ns", pa.uint64()),
        ("running_ns", pa.uint64()),
        ("until_ns", pa.int64()),
    ]
)

# On which NUMA node memory was at the moments of `residency`; only where there are several. As many bytes of an area as
# are on a node stand one after the other from its begin: the kernel does not tell which.
NUMA_SCHEMA = pa.schema(
    [
        ("pid", pa.uint32()),
        ("ts_ns", pa.int64()),
        ("moment", pa.string()),
        ("begin", pa.uint64()),
        ("end", pa.uint64()),
        ("node", pa.uint32()),
    ]
)

SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE, PERF_DTYPE = (
    np.dtype([(field.name, field.type.to_pandas_dtype()) for field in schema])
    for schema in (SAMPLE_SCHEMA, STACK_SCHEMA, PERF_SCHEMA)
)

SCHEMAS: dict[str, pa.Schema] = {
    "events": EVENT_SCHEMA,
    "counters": COUNTER_SCHEMA,
    "phases": PHASE_SCHEMA,
    "threads": THREAD_SCHEMA,
    "maps": MAP_SCHEMA,
    "areas": AREA_SCHEMA,
    "residency": RESIDENCY_SCHEMA,
    "tensors": TENSOR_SCHEMA,
    "taskstats": TASKSTATS_SCHEMA,
    "samples": SAMPLE_SCHEMA,
    "stacks": STACK_SCHEMA,
    "symbols": SYMBOL_SCHEMA,
    "windows": WINDOW_SCHEMA,
    "calls": CALL_SCHEMA,
    "durations": DURATION_SCHEMA,
    "scheduling": SCHEDULING_SCHEMA,
    "perf": PERF_SCHEMA,
    "graph_tensors": GRAPH_TENSOR_SCHEMA,
    "numa": NUMA_SCHEMA,
}

# Fields that may be null; a null anywhere else means that the file is damaged.
NULLABLE = {
    "events": frozenset[str](),
    "counters": frozenset[str](),
    "phases": frozenset({"context", "end_ns", "end_kind", "n_tokens"}),
    "threads": frozenset({"comm", "parent_tid", "start_ns", "end_ns", "exit_code"}),
    "maps": frozenset({"device", "inode", "path"}),
    "areas": frozenset({"path"}),
    "residency": frozenset[str](),
    "tensors": frozenset({"type_name"}),
    "taskstats": frozenset(TASKSTATS_SCHEMA.names) - {"at", "tid", "pid"},
    "samples": frozenset[str](),
    "stacks": frozenset[str](),
    "symbols": frozenset({"module", "function", "inlined", "spins"}),
    "windows": frozenset[str](),
    "calls": frozenset[str](),
    "durations": frozenset[str](),
    "scheduling": frozenset({"call", "error", "cpus", "policy", "priority", "nice"}),
    "perf": frozenset[str](),
    "graph_tensors": frozenset[str](),
    "numa": frozenset[str](),
}

# Fields that are moments of CLOCK_MONOTONIC.
TIMES = {
    "events": frozenset({"ts_ns"}),
    "counters": frozenset[str](),
    "phases": frozenset({"begin_ns", "end_ns"}),
    "threads": frozenset({"start_ns", "end_ns"}),
    "maps": frozenset({"ts_ns"}),
    "areas": frozenset({"ts_ns"}),
    "residency": frozenset({"ts_ns"}),
    "tensors": frozenset[str](),
    "taskstats": frozenset[str](),
    "samples": frozenset({"ts_ns"}),
    "stacks": frozenset[str](),
    "symbols": frozenset[str](),
    "windows": frozenset({"begin_ns", "end_ns"}),
    "calls": frozenset({"begin_ns", "end_ns"}),
    "durations": frozenset({"begin_ns", "end_ns"}),
    "scheduling": frozenset({"ts_ns"}),
    "perf": frozenset({"until_ns"}),
    "graph_tensors": frozenset({"ts_ns"}),
    "numa": frozenset({"ts_ns"}),
}

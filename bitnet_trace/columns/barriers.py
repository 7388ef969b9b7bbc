"""What windows show: barriers, and the operations of the engine's graph."""

from dataclasses import replace

from bitnet_trace.columns.column import Column
from bitnet_trace.columns.phases import THREADS
from bitnet_trace.columns.profile import SPIN_SHARE

# Barriers, of the calls that lie wholly in a window: a row per phase name, per thread, and per thread and cause.
_WAIT_SHARE = Column("wait_pct", "waiting", "pct", "wait by the time of those calls, of all threads", how="derived")
BARRIER_PHASES: tuple[Column, ...] = (
    Column("phase", "phase", "text", "name of the phase"),
    Column("calls", "calls", "count", "decode calls of this name"),
    Column("calls_seen", "seen", "count", "those that lay wholly in a window, and are counted here"),
    Column("parts_seen", "parts", "count", "parts of other calls of several tokens, from one barrier to another"),
    Column("count", "barriers", "count", "barriers in those calls and parts, each once for all of its threads"),
    Column("per_call", "a call", "number", "barriers of whole calls by those"),
    Column("count_estimate", "in all", "count", "barriers in all calls of this name", how="estimated"),
    Column("threads", "threads", "count", "threads that entered them"),
    Column("wait_ns", "wait", "ns", "time from threads' arrivals to the last one's, added up", how="derived"),
    _WAIT_SHARE,
    Column("skew_p50_ns", "skew p50", "ns", "from the first arrival to the last: the median", how="derived"),
    Column("skew_p90_ns", "skew p90", "ns", "the 90th of 100", how="derived"),
    Column("skew_max_ns", "skew max", "ns", "the longest", how="derived"),
    replace(SPIN_SHARE, help="share of all timer samples of the phase in a loop around pause"),
)
BARRIER_THREADS: tuple[Column, ...] = (
    *(column for column in THREADS if column.key in ("tid", "comm")),
    Column("instances", "arrivals", "count", "barriers that it entered"),
    Column("wait_ns", "wait", "ns", "time from its arrivals to the last thread's", how="derived"),
    replace(_WAIT_SHARE, help="its wait by the time of those calls"),
    Column("last_arrivals", "last", "count", "how often it came last"),
    Column("late_ns", "late", "ns", "time for which only it was missing", how="derived"),
    Column("causes", "late because", "text", "what that came of, in ns", how="derived"),
    replace(SPIN_SHARE, help="share of its samples in those phases in a loop around pause"),
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

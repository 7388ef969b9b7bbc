"""What samples, waits and counted calls say: functions, roles, spinning, and what threads waited in."""

from bitnet_trace.columns.column import Column

# Of timer samples: a row per function, per role, and per thread and phase. `phase_shares` is {phase name: percent}.
_SHARES = Column("phase_shares", "by phase", "text", "percent of the samples of each phase", how="sampled")
_SAMPLES = Column("samples", "samples", "count", "timer samples in it", how="sampled")
_SELF = Column("self_pct", "self", "pct", "share of all samples that were in it", how="sampled")
SPIN_SHARE = Column("spin_pct", "spinning", "pct", "share of its samples in a loop around pause", how="sampled")

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
    SPIN_SHARE,
    _SHARES,
    Column("calls_per_token", "calls a token", "count", "calls in a decode call of one token", how="derived"),
    Column("calls_low", "calls at least", "number", "lower end of its 95 % interval", how="derived", whole=False),
    Column("calls_high", "calls at most", "number", "upper end of its 95 % interval", how="derived", whole=False),
    Column("calls", "calls", "count", "calls in all decode calls of one token", how="derived"),
    Column("mean_ns", "time per call", "ns", "its samples in those calls by `calls`", how="derived", whole=False),
    Column("mean_low_ns", "at least", "ns", "lower end of its 95 % interval", how="derived", whole=False),
    Column("mean_high_ns", "at most", "ns", "upper end of its 95 % interval", how="derived", whole=False),
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
    SPIN_SHARE,
)

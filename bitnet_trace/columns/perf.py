"""perf's counters."""

from bitnet_trace.columns.column import Column

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

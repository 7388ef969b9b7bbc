"""What is made of recordings: findings, comparisons, and the ways of loading that loadlab tries."""

from bitnet_trace.columns.column import Column

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

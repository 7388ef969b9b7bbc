"""What a report shows in words and tables, before it is laid out: the same for a terminal and for Markdown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bitnet_trace.analysis.report import Report
from bitnet_trace.columns import (
    COUNTERS,
    GROUPS,
    INSTEAD,
    IO_URING,
    PHASE_SUMS,
    PHASE_TIME,
    RUN_QUEUE,
    SUMMARY,
    TASKSTATS,
    TASKSTATS_COMPARED,
    THREADS,
    TOKENS,
    WAITS,
    Column,
    by_key,
)
from bitnet_trace.printable import printable
from bitnet_trace.render.format import MISSING, amount, cell, duration, percent, three_digits

MAX_THREADS = 12
MAX_CALLS = 5
MAX_WAITS = 8
MAX_WARNINGS = 40
_COMMAND_LIMIT, _LINE_LIMIT = 400, 1000
_THREAD_COLUMNS = (
    "cpu_ns",
    "cpu_system_ns",
    "offcpu_ns",
    "runq_wait_ns",
    "futex_wait_ns",
    "switches_voluntary",
    "switches_involuntary",
    "migrations",
    "faults_minor",
    "faults_major",
    "faults_kernel",
    "faults_populate",
    "fault_ns",
)
_LOAD_COLUMNS = (
    *("phase", "dur_ns", "cpu_ns", "mmap_calls", "mmap_bytes", "populated_bytes", "memory_calls_ns"),
    *("read_calls", "read_bytes", "read_ns", "io_uring_completed", "io_uring_bytes", "faults_minor", "faults_major"),
)
_ALWAYS_SHOWN = ("phase", "name", "n_tokens", "dur_ns")
_CALL_COLUMNS = ("name", "token", "n_tokens", "dur_ns", "cpu_ns", "faults", "switches", "runq_wait_ns", "futex_wait_ns")


@dataclass(frozen=True)
class Grid:
    """One table: the first `n_keys` columns name a row; cells are text, ready to print.

    `columns` are those of columns/ where each column of the table is one of them. `source` says where the JSON output
    has the same rows.
    """

    title: str
    titles: list[str]
    rows: list[list[str]]
    n_keys: int = 1
    left: frozenset[int] = frozenset({0})
    has_total: bool = False
    notes: list[str] = field(default_factory=list)
    columns: tuple[Column, ...] = ()
    source: str = ""


def heading(report: Report) -> list[tuple[str, str]]:
    """(label, text) lines on what was run, where and how it ended."""
    run, host = report.run, report.run["host"]
    command = run["command"]
    facts = [
        None if run["exit_code"] is None else f"exit {run['exit_code']}",
        None if run["wall_ns"] is None else f"{duration(run['wall_ns'])} in all",
        None if run["detail"] is None else f"detail {printable(str(run['detail']))}",
    ]
    cpus = host.get("cpus_online")
    machine = [
        printable(str(host[key])) for key in ("cpu_model", "kernel", "distribution") if isinstance(host.get(key), str)
    ]
    if isinstance(cpus, list):
        machine.insert(1, f"{len(cpus)} CPUs")
    return [
        ("command", MISSING if command is None else printable(" ".join(command), _COMMAND_LIMIT)),
        ("engine", MISSING if run["engine"] is None else printable(run["engine"], 80)),
        ("run", _joined(facts)),
        ("host", _joined(machine)),
    ]


def speed(report: Report) -> list[tuple[str, str]]:
    """(title, value) of the numbers that users ask for first."""
    return [(column.title, cell(report.summary[column.key], column)) for column in SUMMARY]


def timings(report: Report) -> Grid | None:
    """The engine's own figures beside the traced ones; None when it printed none."""
    if not report.timings:
        return None
    rows = []
    for row in report.timings:
        rate, difference = row["reported_tokens_per_s"], row["difference_pct"]
        rows.append(
            [
                row["what"],
                MISSING if row["reported_ns"] is None else duration(row["reported_ns"]),
                MISSING if rate is None else three_digits(rate),
                MISSING if row["traced_ns"] is None else duration(row["traced_ns"]),
                MISSING if difference is None else percent(difference, signed=True),
            ]
        )
    return Grid("The engine's own figures", ["", "printed", "printed tok/s", "traced", "difference"], rows)


def phases(report: Report) -> list[Grid]:
    """by_phase in one grid per group of columns; columns with nothing in them are named in the last one's notes."""
    table = report.by_phase
    total = pd.concat([table[["n", "dur_ns"]].sum().to_frame().T, report.total], axis=1).assign(phase="total")
    both = pd.concat([table, total[table.columns]], ignore_index=True)
    columns = [column for column in (*PHASE_SUMS, *COUNTERS) if column.group is not None]
    shown = [column for column in columns if has_values(table[column.key])]
    grids = []
    for group, title in GROUPS:
        members = [by_key(PHASE_SUMS)["phase"], *(column for column in shown if column.group == group)]
        if len(members) > 1 and len(table):
            grids.append(grid_of(f"{title} by phase", "by_phase", both, members, has_total=True))
    if grids:
        grids[-1].notes.extend(_left_out(table, columns, shown))
    return grids


def threads(report: Report) -> Grid | None:
    """The busiest threads."""
    table = report.by_thread
    if not len(table):
        return None
    known = by_key(COUNTERS)
    keys = [column for column in THREADS if column.key != "pid" or table["pid"].nunique() > 1]
    shown = [known[key] for key in _THREAD_COLUMNS if has_values(table[key])]
    grid = grid_of("Threads", "by_thread", table.head(MAX_THREADS), [*keys, *shown], n_keys=len(keys))
    rest = table.iloc[MAX_THREADS:]
    if len(rest):
        ran = cell(rest["cpu_ns"].sum(min_count=1), known["cpu_ns"])
        grid.notes.append(f"and {amount(len(rest))} more threads, {ran} on CPU")
    return grid


def calls(report: Report) -> Grid | None:
    """The slowest decode calls, with the spread of all in the notes; None with fewer than two."""
    table = report.tokens[report.tokens["name"] == "decode"]
    if len(table) < 2:
        return None
    known = by_key(TOKENS)
    slowest = table.sort_values("dur_ns", ascending=False, kind="stable").head(MAX_CALLS)
    columns = [known[key] for key in _CALL_COLUMNS if key in ("name", "token") or has_values(table[key])]
    grid = grid_of("Slowest decode calls", "tokens", slowest, columns, n_keys=2)
    lengths = sorted(int(ns) for ns in table["dur_ns"])
    spread = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    ranked = [f"{name} {duration(lengths[math.ceil(share * len(lengths)) - 1])}" for name, share in spread.items()]
    grid.notes.append(f"all {amount(len(lengths))} decode calls: {', '.join(ranked)}")
    return grid


def token_time(report: Report) -> Grid | None:
    """Where the time of a token goes; None without calls."""
    table = report.phase_time
    if not len(table):
        return None
    columns = [one for one in PHASE_TIME if one.key in _ALWAYS_SHOWN or has_values(table[one.key])]
    grid = grid_of("Where the time of a token goes", "phase_time", table, columns)
    grid.notes.append("means over the threads that compute: the parts add up to the time per token")
    if has_values(table["spin_ns"]):
        grid.notes.append("spin: estimated, from the share of the phase's samples")
    return grid


def loading(report: Report) -> Grid | None:
    """How the model came into memory; None without a load."""
    table = report.by_phase[report.by_phase["phase"] == "load"]
    if not len(table):
        return None
    known = by_key((*PHASE_SUMS, *COUNTERS))
    shown = [known[key] for key in _LOAD_COLUMNS if key in _ALWAYS_SHOWN or has_values(table[key])]
    return grid_of("Loading", "by_phase", table, shown)


def run_queue(report: Report) -> Grid | None:
    """How long threads waited for a CPU each time; None where no switches were traced one by one."""
    if not len(report.run_queue):
        return None
    return grid_of("Run-queue latency", "run_queue", report.run_queue, RUN_QUEUE)


def waits(report: Report) -> list[Grid]:
    """Why threads left their CPU, and who ran in place of those that were preempted."""
    tables = []
    if len(report.waits):
        grid = grid_of("Off the CPU, by reason", "waits", report.waits.head(MAX_WAITS), list(WAITS))
        if len(report.waits) > MAX_WAITS:
            grid.notes.append(f"and {amount(len(report.waits) - MAX_WAITS)} more reasons")
        tables.append(grid)
    if len(report.ran_instead):
        columns = [column for column in INSTEAD if column.key != "runq_wait_ns"]
        tables.append(
            grid_of("Who ran instead, when preempted", "ran_instead", report.ran_instead.head(MAX_WAITS), columns, 3)
        )
    return tables


def io_uring(report: Report) -> Grid | None:
    """io_uring's requests by opcode; None when there were none, or only their sums are known."""
    rows = (report.io or {}).get("by_opcode")
    if not rows:
        return None
    flat = [{**row, "opcode": row["opcode"] or "(refused)", **(row["latency_ns"] or {})} for row in rows]
    table = pd.DataFrame(flat, columns=[column.key for column in IO_URING])
    return grid_of(
        "io_uring requests",
        "io.by_opcode",
        table,
        [one for one in IO_URING if one.key == "opcode" or has_values(table[one.key])],
    )


def taskstats(report: Report) -> Grid | None:
    """The threads whose kernel accounting differs from what was counted; None when there are none."""
    table = report.taskstats
    differing = table[~table["agrees"].fillna(True).astype(bool)]
    if not len(differing):
        return None
    keys = [one for one in THREADS if one.key == "tid" or (one.key == "pid" and table["pid"].nunique() > 1)]
    keys += [one for one in THREADS if one.key == "comm"]
    compared = [one for one in TASKSTATS_COMPARED if has_values(differing[f"difference_{one.key}"])]
    known = by_key(TASKSTATS)
    columns = [known[name] for one in compared for name in (one.key, f"kernel_{one.key}")]
    grid = grid_of(
        "Kernel's own accounting, where it differs",
        "taskstats.threads",
        differing.head(MAX_THREADS),
        [*keys, *columns],
        len(keys),
    )
    if len(differing) > MAX_THREADS:
        grid.notes.append(f"and {amount(len(differing) - MAX_THREADS)} more threads")
    return grid


def taskstats_line(report: Report) -> str:
    """What came of the comparison with the kernel's own accounting, in a line."""
    found = report.taskstats_summary
    if found["agrees"] is None:
        why = found["reason"] or "no thread was compared"
        return f"taskstats: {MISSING} ({printable(why, 200)})"
    threads = f"{amount(found['n_threads'])} thread{'' if found['n_threads'] == 1 else 's'}"
    shares = [
        f"{what} within {MISSING if share is None else f'{abs(share):.2f} %'}"
        for what, share in (
            ("run-queue wait", found["runq_wait_difference_pct"]),
            ("time on CPU", found["cpu_difference_pct"]),
        )
    ]
    if found["agrees"]:
        return f"taskstats agrees: {threads}, switches and faults equal; together {', '.join(shares)}"
    return f"taskstats differs in {amount(found['n_differing'])} of {threads}; together {', '.join(shares)}"


def fault_latency(report: Report) -> str:
    """The quantiles of fault latencies in a line."""
    latency = report.faults["latency_ns"]
    if latency is None:
        return MISSING
    return ", ".join(f"{name} {duration(ns)}" for name, ns in latency.items())


def health_line(report: Report) -> str:
    """Events, losses, coverage and cost in a line."""
    state = report.health
    lost = MISSING if state["lost"] is None else amount(state["lost"])
    parts = printable(", ".join(f"{name} {amount(n)}" for name, n in state["lost_by"].items()), _LINE_LIMIT)
    coverage = MISSING if state["coverage_pct"] is None else f"{state['coverage_pct']:.2f} %"
    overhead, slower = state["overhead_pct_estimate"], state["decode_slower_pct_at_most"]
    cost = MISSING if overhead is None else f"about {percent(overhead)} of the CPU time"
    decode = "" if slower is None else f" (decode up to {percent(slower)} slower)"
    return (
        f"{amount(state['events'])} events, {lost} lost{f' ({parts})' if parts else ''}, coverage {coverage}, "
        f"overhead {cost}{decode}"
    )


def warnings(report: Report) -> list[str]:
    """What a reader has to know before believing the tables."""
    state = report.health
    lines = [printable(line, 300) for line in state["warnings"]]
    if state["never_hit"]:
        lines.append(printable(f"attached, never hit: {', '.join(state['never_hit'])}", _LINE_LIMIT))
    for probe in state["probes"]:
        if probe["attached"] is False and not probe["windowed"]:  # those have their reason where windows are told of
            reason = probe["reason"]
            why = "" if reason is None else f": {printable(str(reason), 200)}"
            lines.append(f"not attached: {printable(str(probe['name']), 80)}{why}")
    if len(lines) > MAX_WARNINGS:
        lines[MAX_WARNINGS:] = [f"and {amount(len(lines) - MAX_WARNINGS)} more: --format json has them"]
    return lines


def grid_of(
    title: str,
    source: str,
    table: pd.DataFrame,
    columns: Sequence[Column],
    n_keys: int = 1,
    has_total: bool = False,
) -> Grid:
    """The rows of `table` in those columns."""
    left = frozenset(index for index, column in enumerate(columns) if column.format == "text")
    titles = [column.title for column in columns]
    rows = rows_of(table, columns)
    return Grid(title, titles, rows, n_keys, left, has_total, columns=tuple(columns), source=source)


def rows_of(table: pd.DataFrame, columns: Sequence[Column]) -> list[list[str]]:
    """The rows of `table` in those columns, as text."""
    return [
        [cell(value, column) for value, column in zip(values, columns, strict=True)]
        for values in zip(*(table[column.key] for column in columns), strict=True)
    ]


def has_values(values: "pd.Series[Any]") -> bool:
    """Whether a column says anything: some value is there and not 0."""
    return bool((values.fillna(0) != 0).any())


def _left_out(table: pd.DataFrame, columns: Iterable[Column], shown: list[Column]) -> list[str]:
    zero = [one.title for one in columns if one not in shown and one.measured and table[one.key].notna().any()]
    missing = [one.title for one in columns if one not in shown and one.title not in zero]
    derived = [one.title for one in shown if one.how == "derived"]
    notes = [("0 in all phases", zero), ("not measured", missing), ("derived, all others counted", derived)]
    return [f"{what}: {', '.join(titles)}" for what, titles in notes if titles]


def _joined(parts: Iterable[str | None]) -> str:
    return " · ".join(part for part in parts if part is not None) or MISSING

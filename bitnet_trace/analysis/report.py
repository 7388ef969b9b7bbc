"""Everything that a report shows, computed once from a recording; what renderers take."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import pandas as pd

from bitnet_trace.analysis import tables, taskstats
from bitnet_trace.analysis.absences import SwitchPairs
from bitnet_trace.analysis.apart import begun_apart
from bitnet_trace.analysis.asked import Scheduling, scheduling
from bitnet_trace.analysis.barrier_tables import BarrierReport, barrier_report
from bitnet_trace.analysis.barriers import BarrierEvents, windows_read
from bitnet_trace.analysis.by_kind import ByKind, Gatherer
from bitnet_trace.analysis.computing import Computing, computing
from bitnet_trace.analysis.durations import durations
from bitnet_trace.analysis.fault_places import FaultPlaces, PlaceGatherer
from bitnet_trace.analysis.findings import Finding, find
from bitnet_trace.analysis.fold import Folding, from_stored
from bitnet_trace.analysis.health import decode_slower_pct, health, unattached
from bitnet_trace.analysis.huge_pages import Collapses
from bitnet_trace.analysis.io_uring import IoRequests
from bitnet_trace.analysis.latency import FaultLatencies
from bitnet_trace.analysis.load_path import FileReads, load_path
from bitnet_trace.analysis.names import ThreadNames
from bitnet_trace.analysis.numa import NodeMoves, Numa, nodes_of, numa
from bitnet_trace.analysis.operations import OperationEvents, OperationReport, operation_report
from bitnet_trace.analysis.perf_counters import PerfCounters, perf_counters
from bitnet_trace.analysis.phases import PHASE_NAMES, name_phases
from bitnet_trace.analysis.preemption import Preemptions
from bitnet_trace.analysis.profile import Profile, frames_of, profile
from bitnet_trace.analysis.run_queue import RunQueueWaits
from bitnet_trace.analysis.speed import compare_timings, summary
from bitnet_trace.analysis.sums import Sums, added
from bitnet_trace.analysis.tlb import TlbFlushes
from bitnet_trace.analysis.tlb_reach import TlbReach, tlb_reach
from bitnet_trace.analysis.token_time import phase_time, token_time
from bitnet_trace.analysis.wait_stacks import WaitStacks
from bitnet_trace.analysis.waits import Waits
from bitnet_trace.columns import COUNTERS, TOKENS, by_key
from bitnet_trace.recording.reader import Recording

_BATCH = 500_000
_MANY_EVENTS = 2_000_000  # so many are worth a process


@dataclass(frozen=True)
class Report:
    """One report, and the recording it is of.

    Tables have the columns of columns/; a missing number is pd.NA in tables and None in dicts. `phases`: a row per
    phase (columns.PHASES and the rest of the recorded row); `by_phase`: a row per phase name; `total`: one row;
    `by_thread`: a row per thread; `tokens`: a row per prefill or decode call; `counters`: index (phase, tid),
    layout.COUNTER_FIELDS, made of `sums` when it is asked for; `taskstats`: a row per thread, columns.TASKSTATS.
    `run`, `health`, `faults`, `tlb` and `io` are as the JSON output has them (the last two None when they were not
    traced), `summary` has the keys of columns.SUMMARY, `timings` the rows of `compare_timings`, `taskstats_summary`
    is that of taskstats.summary. `waits`, `ran_instead` and `run_queue` have the columns WAITS, INSTEAD and
    RUN_QUEUE, `preemptions` those of Preemptions.by_phase, and no rows where only counters were kept. `token_time`: a
    row per call, columns.TOKEN_TIME; `phase_time`: a row for prefill and decode, columns.PHASE_TIME; neither has rows
    where time on a CPU was not traced. `run_queue_histogram`: {phase name: [(from ns, waits)]}. `findings`: what is
    wrong, the gravest first. `names`: of all threads. `places`: where faults fell; None where only counters were
    kept, as `load_path` (columns.LOAD_PATH). `operations`: None where they were not asked for. `load_requests`: sizes
    and latencies of the reads of models; None without any. `perf`: None where no counters were asked for.
    `tlb_reach`: None where the CPU does not tell. `collapses`: columns.COLLAPSES. `numa`: None where it is not known.
    """

    recording: Recording
    run: dict[str, Any]
    health: dict[str, Any]
    summary: dict[str, Any]
    timings: list[dict[str, Any]]
    phases: pd.DataFrame
    by_phase: pd.DataFrame
    total: pd.DataFrame
    by_thread: pd.DataFrame
    tokens: pd.DataFrame
    faults: dict[str, Any]
    tlb: dict[str, Any] | None
    io: dict[str, Any] | None
    sums: Sums
    taskstats: pd.DataFrame
    taskstats_summary: dict[str, Any]
    profile: Profile | None
    waits: pd.DataFrame
    ran_instead: pd.DataFrame
    places: FaultPlaces | None
    preemptions: pd.DataFrame
    barriers: BarrierReport
    names: ThreadNames
    scheduling: Scheduling
    computing: tuple[Computing, ...]
    token_time: pd.DataFrame
    phase_time: pd.DataFrame
    run_queue: pd.DataFrame
    run_queue_histogram: dict[str, list[tuple[int, int]]]
    findings: tuple[Finding, ...] = ()
    load_path: pd.DataFrame | None = None
    load_requests: dict[str, Any] | None = None
    perf: PerfCounters | None = None
    tlb_reach: TlbReach | None = None
    numa: Numa | None = None
    collapses: pd.DataFrame = field(default_factory=pd.DataFrame)
    operations: OperationReport | None = None
    durations: pd.DataFrame = field(default_factory=pd.DataFrame)

    @cached_property
    def counters(self) -> pd.DataFrame:
        return self.sums.table()


def build_report(recording: Recording, may_fork: bool = False) -> Report:
    """The report of `recording`: its events are read in pieces.

    `may_fork`: of a large one, where faults fell is computed in a fork, for it takes as long as all the rest.
    """
    named = name_phases(recording.phases)
    gatherers: list[Gatherer] = []
    if may_fork and recording.n_events >= _MANY_EVENTS:
        places = begun_apart(partial(_places, recording, named))
    else:
        gatherers.append(here := PlaceGatherer(recording, named))
        places = here.result
    latencies, requests, flushes, run_queue = FaultLatencies(), IoRequests(), TlbFlushes(), RunQueueWaits(named)
    frames = frames_of(recording)
    wait_stacks = WaitStacks(recording, frames)
    pairs, waits, preemptions = SwitchPairs(), Waits(wait_stacks), Preemptions()
    windows = windows_read(recording.windows)
    barriers = BarrierEvents(windows, recording.phases)
    operations = OperationEvents(windows, recording.phases)
    file_reads = FileReads(recording.tensors)
    collapses, moves = Collapses(), NodeMoves(nodes_of(recording.meta))
    folding = Folding(recording.phases)
    gatherers += (folding, latencies, requests, flushes, run_queue, collapses, moves, operations, file_reads)
    latest_ns = 0
    for columns in recording.event_columns(_BATCH):
        events = ByKind(columns)
        for gatherer in gatherers:
            gatherer.add(events)
        absences = pairs.add(events)
        waits.add(absences)
        preemptions.add(absences)
        barriers.add(events, absences)
        latest_ns = max(latest_ns, events.latest_ns)
    sums = added([from_stored(recording.stored_counters), folding.sums()])
    start_ns, end_ns = _span(recording.meta, named, latest_ns)
    phases = tables.with_durations(named, start_ns, end_ns)
    meta = recording.meta
    state = health(meta, recording.n_events, recording.complete, recording.warnings)
    blind = unattached(state["probes"])
    numbers = summary(phases)
    few = tables.condensed(sums, phases)
    compared = taskstats.compare(recording.taskstats, few, phases, recording.threads, blind)
    total = tables.without_unattached(tables.total(few), COUNTERS, blind)
    names = ThreadNames(recording.threads, meta.get("neighbours", {}))
    by_thread = tables.without_unattached(tables.by_thread(few, phases, recording.threads), COUNTERS, blind)
    sampled = profile(recording, phases, frames, wait_stacks)
    timed = phases if by_thread["cpu_ns"].notna().all() else phases[:0]
    calls = token_time(sums, timed, by_thread, sampled)
    computed = tuple(computing(few, phases))
    state["decode_slower_pct_at_most"] = decode_slower_pct(state["overhead_pct_estimate"], computed)
    met = barriers.result()
    report = Report(
        recording=recording,
        run=_run(meta, start_ns, numbers),
        health=state,
        summary=numbers,
        timings=compare_timings(meta.get("timings_reported", []), phases),
        phases=phases,
        by_phase=tables.without_unattached(tables.by_phase(few, phases), COUNTERS, blind),
        total=total,
        by_thread=by_thread,
        tokens=tables.without_unattached(tables.tokens(sums, phases), TOKENS, blind),
        faults={"latency_ns": latencies.quantiles()},
        tlb=_tlb(total, flushes),
        io=_io(total, requests, meta),
        sums=sums,
        taskstats=compared,
        taskstats_summary=taskstats.summary(compared, meta),
        profile=sampled,
        waits=waits.by_reason(),
        places=None if meta.get("options", {}).get("detail") == "counts" else places(),
        ran_instead=waits.ran_instead(recording.threads, meta.get("neighbours", {})),
        preemptions=preemptions.by_phase(phases),
        barriers=barrier_report(recording, phases, met, sampled, names),
        names=names,
        scheduling=scheduling(recording.scheduling),
        computing=computed,
        token_time=calls,
        phase_time=phase_time(calls, by_thread),
        run_queue=run_queue.by_phase(),
        run_queue_histogram=run_queue.histogram(),
        collapses=collapses.table(named, meta.get("scan_results", [])),
        perf=perf_counters(recording, phases, PHASE_NAMES),
        operations=operation_report(recording, phases, operations, met, names),
        durations=durations(recording, phases),
    )
    if report.places is not None:
        traced = frozenset(str(row.get("name")) for row in meta.get("probes", []) if row.get("attached") is True)
        table = load_path(report.places.by_region, report.by_phase, phases, file_reads, traced)
        report = replace(report, load_path=table, load_requests=file_reads.requests())
    report = replace(report, tlb_reach=tlb_reach(recording, report.places.pages if report.places else None))
    report = replace(report, numa=numa(recording, phases, report.places.nodes if report.places else None, moves))
    return replace(report, findings=find(report))


def _places(recording: Recording, named: pd.DataFrame) -> FaultPlaces:
    """With a pass over the events of its own."""
    gatherer = PlaceGatherer(recording, named)
    for columns in recording.event_columns(_BATCH):
        gatherer.add(ByKind(columns))
    return gatherer.result()


def _tlb(total: pd.DataFrame, flushes: TlbFlushes) -> dict[str, Any] | None:
    sums = _sums(total, "tlb_")
    if sums["flushes"] is None:
        return None
    return {**sums, "pages": flushes.pages()}


def _io(total: pd.DataFrame, requests: IoRequests, meta: dict[str, Any]) -> dict[str, Any] | None:
    """`by_opcode` is None where only counters were kept, `cq_overflows` where the kernel does not tell of them."""
    sums = _sums(total, "io_uring_")
    if sums["submitted"] is None:
        return None
    counting = meta.get("options", {}).get("detail") == "counts"
    return {
        **sums,
        "more_completions": None if counting else requests.more,
        "cq_overflows": meta.get("io_uring_overflows"),
        "by_opcode": None if counting else requests.by_opcode(meta.get("io_uring_opcodes", [])),
    }


def _sums(total: pd.DataFrame, prefix: str) -> dict[str, int | None]:
    """The columns of `total` whose keys begin with `prefix`, without it; None for what is missing."""
    values = {key: total[key].iloc[0] for key in by_key(COUNTERS) if key.startswith(prefix)}
    return {key.removeprefix(prefix): None if pd.isna(value) else int(value) for key, value in values.items()}


def _span(meta: dict[str, Any], phases: pd.DataFrame, latest_ns: int) -> tuple[int, int]:
    """Begin and end of the recording: what the writer noted, else the first and last that was seen."""
    edges = pd.concat([phases["begin_ns"], phases["end_ns"]]).dropna()
    start_ns = meta.get("start_ns")
    if start_ns is None:
        start_ns = int(edges.min()) if len(edges) else 0
    seen = max(int(edges.max()) if len(edges) else 0, min(latest_ns, 1 << 62), start_ns)
    wall_ns = meta.get("wall_ns")
    return start_ns, seen if wall_ns is None else max(start_ns + wall_ns, seen)


def _run(meta: dict[str, Any], start_ns: int, numbers: dict[str, Any]) -> dict[str, Any]:
    status = meta.get("exit_status")
    return {
        "command": meta.get("command"),
        "engine": meta.get("engine"),
        "detail": meta.get("options", {}).get("detail"),
        "exit_code": 128 - status if status is not None and status < 0 else status,
        "wall_ns": meta.get("wall_ns"),
        "start_ns": start_ns,
        "clock_offset_ns": meta.get("clock_offset_ns"),
        "version": meta.get("version"),
        "host": meta.get("host", {}),
        "tokens": {"prompt": numbers["prompt_tokens"], "decoded": numbers["decoded_tokens"]},
    }

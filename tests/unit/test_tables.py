"""The tables, health and speeds of a report."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import (
    META,
    MS,
    PID,
    Script,
    event,
    events,
    inference,
    inference_events,
    phase_row,
    phase_table,
    write_inference,
)

from bitnet_trace.analysis import tables
from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.analysis.fold import fold_events
from bitnet_trace.analysis.health import health, never_hit, unattached
from bitnet_trace.analysis.latency import FaultLatencies
from bitnet_trace.analysis.phases import PHASE_NAMES, name_phases
from bitnet_trace.analysis.report import build_report
from bitnet_trace.analysis.speed import compare_timings, summary
from bitnet_trace.analysis.sums import Sums
from bitnet_trace.columns import COUNTERS, PHASE_SUMS, PHASES, THREADS, TOKENS
from bitnet_trace.recording.layout import COUNTER_FIELDS, FaultFlag, Kind, Role, SwitchFlag
from bitnet_trace.recording.reader import open_recording

SUMMED = [column.key for column in COUNTERS if column.measured and column.key != "rss_peak_bytes"]
NO_THREADS = pd.DataFrame({"pid": [], "tid": [], "comm": []})


def spans(phases):
    return tables.with_durations(name_phases(phases), 0, 1000)


TWO_PROCESSES = phase_table(
    phase_row(1, 0, 400, "startup"),
    phase_row(2, 0, 50, "startup", pid=200, tid=200),
    phase_row(3, 50, 150, "load", pid=200, tid=200),
    phase_row(4, 150, 160, "gap", pid=200, tid=200),
    phase_row(5, 160, 260, pid=200, tid=200, n_tokens=8, n_sampled=1),
    phase_row(6, 260, 270, "gap", pid=200, tid=200),
    phase_row(7, 270, 280, pid=200, tid=200, n_tokens=1, n_sampled=1),
    phase_row(8, 280, None, "gap", pid=200, tid=200),
)


def test_by_phase_has_spans_of_the_engine_and_counts_of_all():
    counters = fold_events(
        events(
            event(Kind.YIELD, 10, 1),
            event(Kind.YIELD, 10, 2, tid=200),
            event(Kind.YIELD, 60, 3, tid=200),
            event(Kind.YIELD, 170, 5, tid=200),
            event(Kind.YIELD, 175, 5, tid=201),
            event(Kind.YIELD, 990, 99, tid=300),
        ),
        TWO_PROCESSES,
    )
    table = tables.by_phase(counters, spans(TWO_PROCESSES)).set_index("phase")
    assert table.index.tolist() == ["startup", "load", "init", "prefill", "decode", "sample", "unknown"]
    assert table["n"].tolist() == [1, 1, 1, 1, 1, 2, 0]
    assert table["dur_ns"].tolist() == [50, 100, 10, 100, 10, 10 + 720, 0]
    assert table["sched_yield_calls"].tolist() == [2, 1, 0, 2, 0, 0, 1]
    assert tables.total(counters)["sched_yield_calls"].tolist() == [6]


def test_without_an_engine_all_processes_have_spans():
    table = tables.by_phase(fold_events(events(), TWO_PROCESSES[:2]), spans(TWO_PROCESSES[:2]))
    assert table[["phase", "n", "dur_ns"]].values.tolist() == [["startup", 2, 450]]


def test_what_is_not_measured_is_missing_and_what_is_counted_is_zero():
    table = tables.by_phase(fold_events(events(), TWO_PROCESSES), spans(TWO_PROCESSES))
    assert (table["tlb_flushes"] == 0).all()
    assert table["rss_peak_bytes"].isna().all()
    assert (table["faults_major"] == 0).all()
    assert table.columns.tolist() == [column.key for column in (*PHASE_SUMS, *COUNTERS)]


def test_derived_columns():
    counters = fold_events(
        events(
            event(Kind.SWITCH_OUT, 140, 3, tid=200, arg0=SwitchFlag.VOLUNTARY, arg1=80),
            event(Kind.SYSTEM_TIME, 141, 3, tid=200, arg1=30),
            event(Kind.SYSTEM_TIME, 20, 2, tid=200, arg1=30),
            event(Kind.FAULT, 60, 3, tid=200, arg2=5),
            event(Kind.FAULT, 60, 3, tid=200, arg0=FaultFlag.KERNEL, arg2=5),
            event(Kind.FAULT, 60, 3, tid=200, arg0=FaultFlag.KERNEL | FaultFlag.MAJOR, arg2=5),
            event(Kind.POPULATE, 60, 3, tid=200, arg1=7 | 2 << 32, arg2=9 * 4096),
            event(Kind.RSS, 60, 3, tid=200, arg0=200, arg1=800),
            event(Kind.RSS, 60, 3, tid=201, arg0=200, arg1=900),
        ),
        TWO_PROCESSES,
    )
    row = tables.by_phase(counters, spans(TWO_PROCESSES)).set_index("phase").loc["load"]
    assert (row["cpu_ns"], row["cpu_system_ns"], row["cpu_user_ns"]) == (80, 30, 50)
    assert (row["faults_minor"], row["faults_major"], row["faults_kernel"], row["faults_populate"]) == (2, 1, 2, 9)
    assert (row["fault_ns"], row["rss_peak_bytes"]) == (15, 900)
    startup = tables.by_phase(counters, spans(TWO_PROCESSES)).set_index("phase").loc["startup"]
    assert startup["cpu_user_ns"] == 0


def test_roles_of_threads():
    counters = fold_events(
        events(
            event(Kind.SWITCH_OUT, 170, 5, tid=200, arg1=1),
            event(Kind.SWITCH_OUT, 250, 5, tid=201, arg1=50),
            event(Kind.SWITCH_OUT, 250, 5, tid=202, arg1=1),
            event(Kind.SWITCH_OUT, 140, 3, tid=203, arg1=90),
            event(Kind.SWITCH_OUT, 390, 1, tid=PID, arg1=300),
        ),
        TWO_PROCESSES,
    )
    threads = pd.DataFrame({"pid": [200, 200, PID], "tid": [200, 201, PID], "comm": ["llama", "omp", "bash"]})
    table = tables.by_thread(counters, spans(TWO_PROCESSES), threads)
    assert table["cpu_ns"].tolist() == [300, 90, 50, 1, 1]
    by_tid = table.set_index("tid")
    assert by_tid["role"].to_dict() == {PID: "other", 203: "other", 201: "compute", 200: "main", 202: "other"}
    assert by_tid["comm"].fillna("?").to_dict() == {PID: "bash", 203: "?", 201: "omp", 200: "llama", 202: "?"}
    assert table["rss_peak_bytes"].isna().all()
    assert table.columns.tolist() == [column.key for column in (*THREADS, *COUNTERS)]


def test_a_row_per_engine_call():
    counters = fold_events(
        events(
            event(Kind.SWITCH_OUT, 275, 7, tid=200, arg0=SwitchFlag.VOLUNTARY, arg1=15),
            event(Kind.SWITCH_OUT, 275, 7, tid=201, arg1=5),
            event(Kind.FAULT, 275, 7, tid=201, arg0=FaultFlag.MAJOR),
            event(Kind.FAULT, 275, 7, tid=201, arg0=FaultFlag.KERNEL),
            event(Kind.SWITCH_IN, 279, 7, tid=201, arg1=4, arg2=2),
        ),
        TWO_PROCESSES,
    )
    table = tables.tokens(Sums.of(counters), spans(TWO_PROCESSES))
    assert table.columns.tolist() == [column.key for column in TOKENS]
    prefill, decode = table.astype(object).where(table.notna(), None).to_dict("records")
    assert prefill == {
        "phase_id": 5,
        "name": "prefill",
        "token": None,
        "n_tokens": 8,
        "n_sampled": 1,
        "start_ns": 160,
        "dur_ns": 100,
        "cpu_ns": 0,
        "faults": 0,
        "switches": 0,
        "runq_wait_ns": 0,
        "futex_wait_ns": 0,
    }
    # Of the 15 ns on the CPU 5 lay in the call itself.
    assert (decode["token"], decode["n_tokens"], decode["start_ns"], decode["dur_ns"]) == (1, 1, 270, 10)
    assert (decode["cpu_ns"], decode["faults"], decode["switches"], decode["runq_wait_ns"]) == (10, 2, 2, 2)


def test_columns_of_probes_that_were_not_attached_are_missing():
    probes = [
        {"name": "fault_major", "attached": False},
        {"name": "sched_migrate_task", "attached": True},
        {"name": "llama_decode", "attached": False},
        {"name": "llama_decode", "attached": True},
    ]
    assert unattached(probes) == {"fault_major"}
    table = tables.by_phase(fold_events(events(), TWO_PROCESSES), spans(TWO_PROCESSES))
    blind = tables.without_unattached(table, COUNTERS, unattached(probes))
    assert blind["faults_minor"].isna().all()
    assert blind["fault_ns"].isna().all()
    assert (blind["migrations"] == 0).all()
    assert (table["faults_minor"] == 0).all()


@st.composite
def streams(draw):
    kinds = st.sampled_from([Kind.FAULT, Kind.SWITCH_OUT, Kind.SWITCH_IN, Kind.FUTEX, Kind.READ, Kind.MMAP, Kind.YIELD])
    row = st.tuples(kinds, st.integers(0, 900), st.integers(1, 9), st.integers(200, 203), st.integers(0, 300))
    rows = [
        event(kind, ts_ns, phase, tid, arg1=min(length, ts_ns), arg2=min(length, ts_ns))
        for kind, ts_ns, phase, tid, length in draw(st.lists(row, max_size=25))
    ]
    return events(*rows)


@given(streams())
@settings(deadline=None, max_examples=60)
def test_the_phases_and_the_threads_of_every_counter_add_up_to_its_total(stream):
    phases = spans(TWO_PROCESSES)
    counters = fold_events(stream, TWO_PROCESSES)
    total = tables.total(counters).iloc[0]
    by_phase, by_thread = tables.by_phase(counters, phases), tables.by_thread(counters, phases, NO_THREADS)
    for key in SUMMED:
        if key != "cpu_user_ns":  # derived by subtraction, and limited to 0 where a sum would be below
            assert by_phase[key].sum() == total[key] == by_thread[key].sum(), key
    times = {"cpu_ns": ("SWITCH_OUT", "arg1"), "offcpu_ns": ("SWITCH_IN", "arg1"), "read_ns": ("READ", "arg2")}
    for key, (kind, field) in times.items():
        assert total[key] == stream[field][stream["kind"] == Kind[kind]].sum()


def test_spans_of_the_phases_of_one_process_tile_its_life():
    table = tables.by_phase(fold_events(events(), inference().table()), spans(inference().table()))
    rows = inference().rows()
    assert table["dur_ns"].sum() == rows[-1]["end_ns"] - rows[0]["begin_ns"]
    assert set(table["phase"]) <= set(PHASE_NAMES)


def test_summary_of_a_whole_inference():
    phases = tables.with_durations(name_phases(inference().table()), 1000 * MS, 2000 * MS)
    assert summary(phases) == {
        "load_ns": 100 * MS,
        "ttft_ns": 192 * MS,
        "tpot_ns": 11 * MS,
        "prefill_tokens_per_s": 200.0,
        "decode_tokens_per_s": 100.0,
        "prompt_tokens": 12,
        "decoded_tokens": 5,
    }


def test_summary_without_an_engine_is_missing_not_zero():
    assert set(summary(spans(TWO_PROCESSES[:1])).values()) == {None}
    assert set(summary(spans(phase_table())).values()) == {None}


def test_an_open_call_is_in_no_speed():
    cut = inference().table()
    cut.loc[cut.index[-2] :, ["end_ns", "end_kind"]] = pd.NA
    cut = cut.iloc[:-1]
    numbers = summary(spans(cut))
    assert (numbers["decoded_tokens"], numbers["decode_tokens_per_s"]) == (4, 100.0)


def test_a_prompt_of_unknown_length_has_no_speed():
    table = inference().table()
    table["n_tokens"] = pd.array([pd.NA] * len(table), dtype="Int64")
    numbers = summary(spans(table))
    assert (numbers["prompt_tokens"], numbers["prefill_tokens_per_s"]) == (None, None)
    assert (numbers["decoded_tokens"], numbers["decode_tokens_per_s"]) == (5, 100.0)


def test_the_engines_figures_beside_the_traced_ones():
    rows = compare_timings(META["timings_reported"], spans(inference().table()))
    assert [(row["what"], row["traced_ns"], row["difference_pct"]) for row in rows] == [
        ("load", 130 * MS, 4.0),
        ("prefill", 60 * MS, 1.69),
        ("decode", 50 * MS, 1.01),
    ]


def test_the_engines_load_ends_with_the_first_decode_call_that_was_waited_for():
    def load_ns(warm_up: bool, trial: bool = False) -> int:
        script = Script()
        if trial:  # what fits into memory is found out first
            script.call(Role.LOAD, 100 * MS)
            script.call(Role.TEARDOWN, MS)
        script.call(Role.LOAD, 100 * MS)
        if warm_up:
            script.mark(Role.WARMUP, 1)
            script.call(Role.DECODE, 8 * MS, n_tokens=2)
            script.mark(Role.WARMUP, 0)
        script.call(Role.DECODE, 40 * MS, n_tokens=7)  # a prompt in two batches: nobody asks for logits of the first
        script.call(Role.DECODE, 10 * MS, n_tokens=1, samples=1)
        script.call(Role.DECODE, 10 * MS, n_tokens=1, samples=1)
        (row,) = compare_timings([{"what": "load", "ms": 100.0}], spans(script.exit(MS).table()))
        return row["traced_ns"] // MS

    assert 108 <= load_ns(warm_up=True) < 140
    assert 150 <= load_ns(warm_up=False) < 160
    assert load_ns(warm_up=True, trial=True) == load_ns(warm_up=True)


def test_slots_of_a_server_are_summed_and_of_other_lines_the_last_counts():
    phases = spans(inference().table())
    lines = [
        {"what": "decode", "ms": 1.0, "count": 1, "tokens_per_second": 3.0, "slot": None},
        {"what": "decode", "ms": 20.0, "count": 2, "tokens_per_second": 100.0, "slot": 0},
        {"what": "decode", "ms": 30.0, "count": 3, "tokens_per_second": 100.0, "slot": 1},
        {"what": "sample", "ms": 5.0, "count": 9, "tokens_per_second": None, "slot": None},
        {"what": "sample", "ms": 6.0, "count": None, "tokens_per_second": None, "slot": None},
        {"what": "load", "ms": None, "count": None, "tokens_per_second": None, "slot": None},
    ]
    load, decode, sample = compare_timings(lines, phases)
    assert (decode["reported_ns"], decode["reported_count"], decode["reported_tokens_per_s"]) == (50 * MS, 5, 100.0)
    assert (decode["traced_ns"], decode["difference_pct"]) == (None, None)
    lines[2]["slot"] = 0
    # 50 ms of decode calls, and 5 ms between them
    assert compare_timings(lines, phases)[1]["difference_pct"] == 10.0
    # llama-bench prints averages of repeats: shown, not compared
    averaged = {"what": "decode", "ms": 50.0, "count": 5, "tokens_per_second": 100.0, "source": "llama-bench"}
    (decode,) = compare_timings([averaged], phases)
    assert (decode["reported_ns"], decode["traced_ns"], decode["difference_pct"]) == (50 * MS, None, None)
    assert (sample["reported_ns"], sample["traced_ns"], sample["difference_pct"]) == (6 * MS, None, None)
    assert (load["reported_ns"], load["difference_pct"]) == (None, None)


def test_health_counts_every_loss():
    state = health(META, 5, True, ["x"])
    assert (state["events"], state["lost"], state["coverage_pct"]) == (996, 4, 99.6)
    assert state["lost_by"] == {"events.fault": 3, "recursion": 1}
    assert state["never_hit"] == ["teardown"]
    assert state["warnings"] == ["x"]


def test_health_of_a_recording_that_says_nothing():
    state = health({"schema": 1}, 7, False, [])
    assert (state["events"], state["lost"], state["coverage_pct"]) == (7, None, None)
    assert health({"schema": 1, "losses": {}}, 0, True, [])["coverage_pct"] is None


@pytest.mark.parametrize(
    ("hits", "expected"), [([0, 0], ["sample"]), ([0, 3], []), ([None], []), ([0, None], []), (["x"], [])]
)
def test_never_hit_needs_all_probes_of_a_role_at_zero(hits, expected):
    assert never_hit([{"role": "sample", "attached": True, "hits": n} for n in hits]) == expected


def test_a_role_that_is_not_attached_is_not_called_never_hit():
    assert never_hit([{"role": "sample", "attached": False, "hits": 0}]) == []


def test_an_engine_without_decode_probes_is_said():
    missing = [{"role": role, "reason": "no symbol x (the file is stripped)"} for role in ("decode", "ubatch", "load")]
    (line,) = health({**META, "missing_roles": missing}, 0, True, [])["warnings"]
    assert "the file is stripped" in line
    assert health({**META, "missing_roles": missing[1:]}, 0, True, [])["warnings"] == []
    assert health({**META, "missing_roles": missing, "engine": None}, 0, True, [])["warnings"] == []


def test_latency_quantiles_are_exact_over_batches():
    latencies = FaultLatencies()
    values = np.random.default_rng(7).permutation(np.arange(1, 1001))
    for part in np.split(values, 8):
        latencies.add(ByKind(events(*(event(Kind.FAULT, 5, arg2=int(ns)) for ns in part))))
    no_latency = [
        event(Kind.FAULT, 5, arg0=FaultFlag.NO_LATENCY, arg2=9999),
        event(Kind.FAULT, 5, arg0=FaultFlag.FAILED, arg2=9999),
        event(Kind.READ, 5, arg2=9999),
    ]
    latencies.add(ByKind(events(*no_latency)))
    assert latencies.quantiles() == {"p50": 500, "p90": 900, "p99": 990, "max": 1000}
    assert FaultLatencies().quantiles() is None


def test_a_report_of_a_recording(tmp_path):
    report = build_report(open_recording(write_inference(tmp_path / "a.btrace")))
    assert report.run["exit_code"] == 0
    assert report.run["tokens"] == {"prompt": 12, "decoded": 5}
    assert report.total["faults_minor"].tolist() == [19]
    assert report.faults["latency_ns"] == {"p50": 1010, "p90": 1018, "p99": 1019, "max": 1019}
    assert {column.key for column in PHASES} <= set(report.phases.columns)
    assert report.phases["start_ns"].tolist()[:2] == [0, MS]
    pd.testing.assert_frame_equal(
        report.counters, fold_events(inference_events(inference()), report.recording.phases), check_dtype=False
    )
    assert list(report.counters.columns) == list(COUNTER_FIELDS)


@pytest.mark.parametrize(("status", "code"), [(-9, 137), (3, 3), (None, None)])
def test_the_exit_code_of_a_signal(tmp_path, status, code):
    path = write_inference(tmp_path / "a.btrace")
    recording = open_recording(path)
    recording.meta["exit_status"] = status
    assert build_report(recording).run["exit_code"] == code

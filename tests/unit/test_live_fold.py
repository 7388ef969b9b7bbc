"""The live view's figures: those of the report of the same recording, however the run is cut into pieces."""

import gc
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from bitnet_trace.analysis.phases import Earlier, names_of_process, phase_of_row
from bitnet_trace.analysis.report import build_report
from bitnet_trace.columns import PLACE_SUMS
from bitnet_trace.live.figures import N_PLACES, Figures
from bitnet_trace.live.fold import Fold
from bitnet_trace.live.model import Frame
from bitnet_trace.live.plain import line
from bitnet_trace.live.replay import Replay
from bitnet_trace.recording.layout import FaultFlag, Kind, Role, SwitchFlag
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.schema import SAMPLE_ROW_DTYPE
from bitnet_trace.recording.writer import Writer
from tests.bench import folding
from tests.unit.traces import META, MS, PID, Script, event, events, inference_events, write_inference

N_TOKENS = 1500
PLACE_KEYS = [column.key for column in PLACE_SUMS]
N_CALLS = 7
STACKS = np.dtype([("stack", "u4"), ("pid", "u4"), ("level", "u4"), ("address", "u8")])


def long_run():
    """Load, warm-up, and two prompts with many tokens; a server's pause between them."""
    script = Script()
    script.call(Role.LOAD, 100 * MS)
    script.call(Role.INIT, 5 * MS)
    script.mark(Role.WARMUP, 1)
    script.call(Role.DECODE, 4 * MS, 2)
    script.mark(Role.WARMUP, 0)
    for prompt in range(2):
        pause = 2000 * MS if prompt else 0
        script.call(Role.DECODE, 20 * MS, 8, before_ns=MS + pause, idle_ns=pause)
        script.call(Role.DECODE, 20 * MS, 3, samples=1)
        for _ in range(N_TOKENS):
            script.call(Role.DECODE, 2 * MS, 1, samples=1)
    return script.exit()


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    script = long_run()
    rows = script.rows()
    last = rows[-1]
    # two threads that slept and ran through all of it, the one with its whole life in one record
    others = [
        event(Kind.SWITCH_IN, last["end_ns"] - 1, last["id"], PID + 2, 0, last["end_ns"] - 1 - 1001 * MS, 5 * MS),
        event(Kind.SWITCH_OUT, last["end_ns"] - 2, last["id"], PID + 3, 0, 40 * MS),
        event(Kind.FAULT, last["begin_ns"], last["id"], arg0=FaultFlag.MAJOR, arg2=7),
    ]
    batch = np.concatenate([inference_events(script), events(*others)])
    writer = Writer(tmp_path_factory.mktemp("live") / "long.btrace", {**META, "wall_ns": last["end_ns"] - 1000 * MS})
    writer.phases(rows)
    writer.threads(
        {"tid": tid, "pid": PID, "comm": f"t{tid}", "parent_tid": 1, "start_ns": 1000 * MS, "end_ns": None}
        for tid in range(PID, PID + 4)
    )
    writer.events(batch[np.argsort(batch["ts_ns"], kind="stable")])
    writer.close(0)
    return open_recording(writer.path)


def differences(frame, report):
    """What the last frame has otherwise than the report."""
    found = []
    assert [row["phase"] for row in frame.by_phase] == report.by_phase["phase"].tolist()
    for row, (_, wanted) in zip(frame.by_phase, report.by_phase.iterrows(), strict=True):
        assert len(row) > 30
        for key, value in row.items():
            right = None if wanted[key] is pd.NA else wanted[key]
            if value != right:
                found.append((row["phase"], key, value, right))
    for mine, key in (
        (frame.tokens_per_s, "decode_tokens_per_s"),
        (frame.prefill_tokens_per_s, "prefill_tokens_per_s"),
        (frame.ttft_ns, "ttft_ns"),
        (frame.prompt_tokens, "prompt_tokens"),
        (frame.decoded_tokens, "decoded_tokens"),
    ):
        if mine != report.summary[key]:
            found.append((key, mine, report.summary[key]))
    roles = dict(zip(report.by_thread["tid"], report.by_thread["role"], strict=True))
    times = dict(zip(report.by_thread["tid"], report.by_thread["cpu_ns"], strict=True))
    found += [
        (thread, roles[thread.tid], times[thread.tid])
        for thread in frame.threads
        if thread.tid in roles and (thread.role, thread.cpu_ns) != (roles[thread.tid], times[thread.tid])
    ]
    token_time = report.token_time.set_index("start_ns")
    for token in frame.tokens:
        for key, value in token.parts.items():
            right = token_time.loc[token.start_ns, key]
            if right is not pd.NA and abs(value - right) > 2:  # of rounding
                found.append((token.token, key, value, right))
    places = report_places(report)
    shown = {(place.name, place.path): place.sums for place in frame.places}
    assert set(shown) == set(places) or len(shown) == N_PLACES
    return found + [(key, sums, places.get(key)) for key, sums in shown.items() if sums != places.get(key)]


def report_places(report):
    """Of regions and tensors the sums; memory of no file is one region in the live view, whatever it was mapped for."""
    sums = {}
    for table, key in ((report.places.by_region, "region"), (report.places.by_tensor, "tensor")):
        for row in table.to_dict("records"):
            name = "anonymous" if row[key].startswith("anonymous, mapped in") else row[key]
            path = None if pd.isna(row["path"]) else row["path"]
            found = sums.setdefault((name, path), dict.fromkeys(PLACE_KEYS, 0))
            for column in PLACE_KEYS:
                found[column] += row[column]
    return sums


@pytest.mark.parametrize("step_ns", [None, 97 * MS])
def test_the_last_figures_are_the_reports(long_recording, step_ns):
    replay = Replay(long_recording)
    for at_ns in range(0, replay.length_ns, step_ns or replay.length_ns):
        replay.advance(at_ns)
    frame = replay.advance(replay.length_ns)
    assert frame.ended
    assert frame.decoded_tokens == 2 * N_TOKENS + 3  # the end of the second prompt has a mark, as tokens have
    assert len(frame.tokens) == 100
    assert not differences(frame, build_report(long_recording))
    assert Frame.from_json(frame.to_json()) == frame


def test_back_and_forth(tmp_path):
    replay = Replay(open_recording(write_inference(tmp_path / "x.btrace")))
    frames = [replay.advance(at_ns) for at_ns in (50 * MS, replay.length_ns, 50 * MS)]
    assert frames[0] == frames[2]
    assert frames[0].decoded_tokens != frames[1].decoded_tokens


def test_names_do_not_depend_on_where_the_phases_are_cut():
    rows = [phase_of_row(row) for row in long_run().rows()]
    names, tokens = names_of_process(rows)
    for cut in (1, 3, 5, 6, 7, 100, 101, len(rows) // 2, len(rows) // 2 + 1, len(rows) - 300):
        # the name of a phase depends on what comes after it for a while
        later_names, later_tokens = names_of_process(rows[cut:], Earlier().after(rows[:cut], names[:cut]))
        assert later_names == names[cut:], cut
        assert later_tokens[:1] != [1] or tokens[cut] == 1


def test_memory_is_bounded(long_recording):
    fold = Fold()
    rows = long_run().rows()
    for place in range(0, len(rows), 50):
        fold.take("phases", rows[place : place + 50])
        fold.settle()
    assert len(fold.book.named()) <= 2 * 256 + 50
    for batch in long_recording.event_batches(1000):
        fold.take("events", batch)
        fold.settle()
    assert len(fold.by_newest_phase().keys) <= 4 * (2 * 256 + 50)


def test_processes_that_come_and_go():
    """Of those that ended long ago sums are kept, and nothing for each of them."""

    def run(fold, number):
        pid, threads = 1000 + 10 * number, 6
        script = Script(pid, 1000 * MS + 100 * MS * number, 1 + 100 * number)
        for _ in range(N_CALLS + 1):
            script.call(Role.DECODE, 2 * MS, 1, samples=1)
        rows = script.exit().rows()
        tids = range(pid, pid + threads)
        thread = {"pid": pid, "comm": "x", "start_ns": rows[0]["begin_ns"], "end_ns": None, "exit_code": None}
        fold.take("threads", [{**thread, "tid": tid} for tid in tids])
        fold.take("phases", rows)
        batch = [
            event(Kind.SWITCH_OUT, row["end_ns"] - 1, row["id"], tid, SwitchFlag.VOLUNTARY, 1000)
            for row in rows
            for tid in tids
        ]
        fold.take("events", events(*batch))
        fold.take("stacks", np.array([(number, pid, 0, 4096 + number)], STACKS))
        fold.take("symbols", [{"pid": pid, "address": 4096 + number, "module": "/m", "function": "f", "spins": False}])
        sample = np.zeros(1, SAMPLE_ROW_DTYPE)
        sample["stack"], sample["tid"], sample["phase"] = number, pid, rows[2]["id"]
        fold.take("samples", sample)
        fold.take("threads", [{**thread, "tid": tid, "end_ns": rows[-1]["end_ns"], "exit_code": 0} for tid in tids])
        fold.settle()
        figures.frame(rows[-1]["end_ns"], {})

    n = 300
    fold = Fold()
    figures = Figures(fold, 1000 * MS, 2)
    held = []
    tracemalloc.start()
    try:
        for number in range(n):
            run(fold, number)
            if number % 100 == 99:
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[2] < 1.1 * held[1], held
    frame = figures.frame(fold.latest_ns, {})
    decode = next(row for row in frame.by_phase if row["phase"] == "decode")
    assert decode["n"] == frame.decoded_tokens == n * N_CALLS
    assert decode["cpu_ns"] == n * N_CALLS * 6 * 1000
    assert len(frame.threads) == 256
    assert [(one.name, one.samples) for one in frame.functions] == [("f", n)]


def test_an_end_that_was_lost():
    """Keeps nothing from being settled for long."""
    script = Script()
    for _ in range(3000):
        script.call(Role.DECODE, 2 * MS, 1, samples=1)
    fold = Fold()
    rows = script.rows()
    rows[1]["end_ns"] = None
    for place in range(0, len(rows), 100):
        fold.take("phases", rows[place : place + 100])
        fold.take("events", events(event(Kind.YIELD, rows[place]["begin_ns"], 9000 + place)))  # no word of it either
        fold.settle()
    assert len(fold.book.named()) < 2200


def test_a_million_events_are_folded_in_time():
    """Far below a tenth of a second on a quiet machine (python -m tests.bench folding); other tests share the CPU here."""
    took_ms, fold = folding.measure(5)
    assert fold.cpu_ns() == folding.SLICE_NS * folding.N_EVENTS // 4
    print(f"\n1,000,000 events folded in {min(took_ms):.0f} ms of CPU time at best, {max(took_ms):.0f} at worst")
    assert min(took_ms) <= 160


def test_states_of_threads_come_from_their_last_switch():
    """Also of those that have not switched for long, among very many switches of others."""
    rows, batch = folding.million()
    fold = Fold()
    tids = [*range(PID, PID + 4), 7000]
    thread = {"pid": PID, "comm": "x", "start_ns": 0, "end_ns": None, "exit_code": None}
    fold.take("threads", [{**thread, "tid": tid} for tid in tids])
    fold.take("phases", rows)
    batch[10] = event(Kind.SWITCH_OUT, int(batch["ts_ns"][10]), rows[0]["id"], 7000, SwitchFlag.VOLUNTARY | 2 << 8)
    fold.take("events", batch)
    states = {tid: fold.threads.by_tid[tid].state for tid in tids}
    assert states == {**dict.fromkeys(tids, "R"), 7000: "D"}
    assert fold.threads.by_tid[PID + 3].since_ns == batch["ts_ns"][-3]


def test_a_thread_that_is_sampled_runs():
    """Also where the switch to it was not told, as a timer's sample is one of a running thread."""
    fold = Fold()
    thread = {"pid": PID, "comm": "x", "start_ns": 0, "end_ns": None, "exit_code": None}
    fold.take("threads", [{**thread, "tid": tid} for tid in (PID, PID + 1)])
    script = Script()
    script.call(Role.DECODE, 50 * MS, 1, samples=1)
    fold.take("phases", script.exit().rows())
    fold.take("events", events(event(Kind.SWITCH_OUT, 10 * MS, 1, PID, SwitchFlag.PREEMPT)))
    samples = np.zeros(3, SAMPLE_ROW_DTYPE)
    samples["ts_ns"], samples["tid"], samples["reason"], samples["cpu"] = (5 * MS, 20 * MS, 30 * MS), PID, (0, 0, 7), 3
    fold.take("samples", samples[:1])
    assert fold.threads.by_tid[PID].state == "r"
    fold.take("samples", samples[1:])
    assert (fold.threads.by_tid[PID].state, fold.threads.by_tid[PID].since_ns) == ("R", 20 * MS)
    assert fold.threads.by_tid[PID].cpu == 3
    # samples come before the events of the same time
    samples["ts_ns"] += np.uint64(40 * MS)
    fold.take("samples", samples[:2])
    fold.take("events", events(event(Kind.SWITCH_OUT, 50 * MS, 1, PID, SwitchFlag.VOLUNTARY | 1 << 8)))
    assert (fold.threads.by_tid[PID].state, fold.threads.by_tid[PID].since_ns) == ("R", 60 * MS)
    samples["tid"] = PID + 1
    fold.take("samples", samples)
    assert fold.threads.by_tid[PID + 1].state is None  # no switches are told where they are counted only


def test_a_phase_whose_word_comes_late():
    """What happened in it waits, because its durations have to be split at its begin."""
    script = Script()
    script.call(Role.DECODE, 8 * MS, 1, samples=1)
    rows = script.exit().rows()
    fold = Fold()
    fold.take("phases", rows[:1])
    ts_ns = rows[1]["begin_ns"] + MS
    fold.take("events", events(event(Kind.SWITCH_OUT, ts_ns, rows[1]["id"], PID, SwitchFlag.VOLUNTARY, 3 * MS)))
    assert fold.cpu_ns() == 0
    fold.take("phases", rows[1:])
    fold.finish()
    assert fold.cpu_ns() == 3 * MS
    sums = fold.by_newest_phase()
    assert len(sums.keys) > 1


def test_plain(long_recording):
    replay = Replay(long_recording)
    text = line(replay.advance(500 * MS))
    assert "tok/s" in text
    assert "\n" not in text
    assert "tokens 19+3,003" in line(replay.advance(replay.length_ns))

"""Phase records to phase rows."""

import numpy as np
import pytest
from traces import begin, end, events, inference, mark, ubatch

from bitnet_trace.recording.layout import PhaseEnd, Role
from bitnet_trace.recording.phase_log import PhaseLog


def fold(*records):
    """Rows by id after all records in one batch."""
    return {row["id"]: row for row in PhaseLog().fold(events(*records))}


def test_a_call_between_startup_and_a_gap():
    rows = fold(
        begin(10, 1, Role.STARTUP),
        end(50, 1, PhaseEnd.GAP),
        begin(50, 2, Role.DECODE, context=0xABC, n_tokens=7),
        end(90, 2),
        begin(90, 3, Role.GAP),
    )
    assert rows[1]["role"] == "startup"
    assert (rows[1]["begin_ns"], rows[1]["end_ns"], rows[1]["end_kind"]) == (10, 50, PhaseEnd.GAP)
    assert rows[2] == {
        "id": 2,
        "pid": 100,
        "tid": 100,
        "context": 0xABC,
        "role": "decode",
        "begin_ns": 50,
        "end_ns": 90,
        "end_kind": PhaseEnd.RETURN,
        "n_tokens": 7,
        "n_sampled": 0,
        "n_logits": 0,
        "warmup": False,
        "before_reset": False,
        "overlapped": False,
    }
    assert (rows[3]["end_ns"], rows[3]["n_tokens"]) == (None, None)


def test_only_new_and_changed_rows_are_returned_and_they_are_copies():
    log = PhaseLog()
    first = log.fold(events(begin(1, 1, Role.STARTUP), begin(5, 2, Role.DECODE, n_tokens=1)))
    second = log.fold(events(end(9, 2)))
    assert [row["id"] for row in first] == [1, 2]
    assert [(row["id"], row["end_ns"]) for row in second] == [(2, 9)]
    assert first[1]["end_ns"] is None
    assert log.fold(events()) == []


def test_batch_boundaries_do_not_matter():
    script = inference()
    whole = {row["id"]: row for row in PhaseLog().fold(events(*script.records))}
    log, one_by_one = PhaseLog(), {}
    for record in script.records:
        one_by_one.update({row["id"]: row for row in log.fold(events(record))})
    assert one_by_one == whole


def test_a_begin_closes_the_unended_call_of_its_thread():
    rows = fold(begin(1, 1, Role.DECODE), begin(8, 2, Role.DECODE))
    assert (rows[1]["end_ns"], rows[1]["end_kind"]) == (8, PhaseEnd.NEXT)
    assert rows[2]["end_ns"] is None
    assert not rows[1]["overlapped"]


def test_a_late_end_corrects_a_supposed_one():
    rows = fold(begin(1, 1, Role.GAP, tid=100), begin(8, 2, Role.DECODE, tid=101), end(8, 1, PhaseEnd.GAP, tid=101))
    assert (rows[1]["end_ns"], rows[1]["end_kind"]) == (8, PhaseEnd.GAP)
    log = PhaseLog()
    log.fold(events(begin(1, 1, Role.DECODE), begin(8, 2, Role.DECODE)))
    assert log.fold(events(end(7, 1, PhaseEnd.RETURN)))[0]["end_ns"] == 7


def test_calls_of_two_threads_that_overlap_are_marked_both():
    rows = fold(
        begin(1, 1, Role.DECODE, tid=100),
        begin(5, 2, Role.DECODE, tid=101),
        end(8, 2, tid=101),
        end(10, 1, tid=100),
        begin(10, 3, Role.GAP),
        begin(12, 4, Role.DECODE, tid=101),
    )
    assert [rows[i]["overlapped"] for i in (1, 2, 3, 4)] == [True, True, False, False]
    assert [rows[i]["end_ns"] for i in (1, 2, 3)] == [10, 8, 12]


def test_calls_of_two_processes_do_not_overlap():
    rows = fold(begin(1, 1, Role.DECODE, pid=100), begin(5, 2, Role.DECODE, tid=200, pid=200), end(8, 1))
    assert not rows[1]["overlapped"]
    assert not rows[2]["overlapped"]
    assert rows[2]["end_ns"] is None


def test_startup_after_an_exec_closes_everything_of_the_process():
    rows = fold(begin(1, 1, Role.DECODE, tid=101), begin(5, 2, Role.STARTUP, tid=100))
    assert (rows[1]["end_ns"], rows[1]["overlapped"]) == (5, False)


def test_tokens_of_micro_batches_add_up_only_where_the_call_did_not_say():
    rows = fold(
        begin(1, 1, Role.DECODE),
        ubatch(2, 1, 512),
        ubatch(3, 1, 88),
        end(4, 1),
        ubatch(5, 1, 1000),
        begin(6, 2, Role.DECODE, n_tokens=600),
        ubatch(7, 2, 512),
    )
    assert [rows[1]["n_tokens"], rows[2]["n_tokens"]] == [600, 600]


def test_micro_batches_below_an_overlapping_call_go_to_the_threads_own_call():
    rows = fold(begin(1, 1, Role.DECODE, tid=100), begin(2, 2, Role.DECODE, tid=101), ubatch(3, 9, 4, tid=100))
    assert (rows[1]["n_tokens"], rows[2]["n_tokens"]) == (4, None)


def test_marks_count_in_the_last_decode_call_before_them():
    rows = fold(
        mark(1, 1, Role.SAMPLE),
        begin(2, 2, Role.DECODE),
        end(3, 2),
        begin(3, 3, Role.GAP),
        mark(4, 3, Role.LOGITS),
        mark(5, 3, Role.SAMPLE),
        mark(6, 3, Role.SAMPLE),
        begin(7, 4, Role.DECODE),
        mark(8, 4, Role.SAMPLE, pid=200),
    )
    assert (rows[2]["n_sampled"], rows[2]["n_logits"]) == (2, 1)
    assert (rows[4]["n_sampled"], rows[4]["n_logits"]) == (0, 0)


def test_warmup_lasts_from_mark_to_mark():
    rows = fold(
        mark(1, 1, Role.WARMUP, 1),
        begin(2, 2, Role.DECODE),
        end(3, 2),
        mark(4, 3, Role.WARMUP, 0),
        begin(5, 4, Role.DECODE),
    )
    assert [rows[2]["warmup"], rows[4]["warmup"]] == [True, False]


def test_a_reset_reaches_back_to_the_last_sampling():
    rows = fold(
        begin(1, 1, Role.DECODE),
        mark(2, 1, Role.SAMPLE),
        begin(3, 2, Role.DECODE),
        begin(4, 3, Role.DECODE),
        mark(5, 3, Role.PERF_RESET),
        begin(6, 4, Role.DECODE),
    )
    assert [rows[i]["before_reset"] for i in (1, 2, 3, 4)] == [False, True, True, False]


@pytest.mark.parametrize("record", [end(5, 77), ubatch(5, 77, 3), mark(5, 77, Role.LINK_MAP)])
def test_records_without_a_phase_change_nothing(record):
    assert PhaseLog().fold(events(record)) == []


def test_an_unknown_role_keeps_its_number():
    assert fold(begin(1, 1, 99))[1]["role"] == "role_99"


def test_other_kinds_are_passed_over():
    batch = events(begin(1, 1, Role.STARTUP))
    batch["kind"] = 3
    assert PhaseLog().fold(np.concatenate([batch, batch])) == []

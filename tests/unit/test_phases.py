"""The names of phases."""

from traces import MS, Script, inference, phase_row, phase_table

from bitnet_trace.analysis.phases import IDLE_MIN_NS, name_phases
from bitnet_trace.recording.layout import PhaseEnd, Role


def named(script):
    """(name, token) of the phases of one script, gaps of length 0 left out."""
    table = name_phases(script.table())
    return list(zip(table["name"], table["token"].astype(object).where(table["token"].notna(), None), strict=True))


def calls(script):
    """The names of the decode calls alone."""
    table = name_phases(script.table())
    return table.loc[table["role"] == "decode", "name"].tolist()


def test_a_whole_inference():
    names = named(inference())
    assert names[:9] == [
        ("startup", None),
        ("load", None),
        ("init", None),
        ("init", None),
        ("init", None),
        ("warmup", None),
        ("idle", None),
        ("prefill", None),
        ("sample", None),
    ]
    assert names[9:] == [
        *(pair for token in range(1, 5) for pair in (("decode", token), ("sample", None))),
        ("decode", 5),
        ("teardown", None),
    ]


def test_a_prompt_in_pieces_is_prefill_to_its_last_piece_even_of_one_token():
    script = Script()
    for n_tokens in (7, 7, 7):
        script.call(Role.DECODE, MS, n_tokens=n_tokens)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1)
    assert calls(script.exit()) == ["prefill"] * 4 + ["decode"]


def test_two_slots_that_decode_two_tokens_a_step_decode():
    script = Script()
    script.call(Role.DECODE, MS, n_tokens=20, samples=2)
    script.call(Role.DECODE, MS, n_tokens=2, samples=2)
    script.call(Role.DECODE, MS, n_tokens=2, samples=2)
    assert calls(script.exit()) == ["prefill", "decode", "decode"]


def test_a_piece_of_a_later_prompt_is_prefill():
    script = Script()
    script.call(Role.DECODE, MS, n_tokens=20, samples=1)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1)
    script.call(Role.DECODE, MS, n_tokens=512)
    script.call(Role.DECODE, MS, n_tokens=40, samples=1)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1)
    assert calls(script.exit()) == ["prefill", "decode", "prefill", "decode", "decode"]


def test_a_request_after_idle_begins_with_prefill():
    script = Script()
    script.call(Role.DECODE, MS, n_tokens=20, samples=1)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1)
    script.call(Role.DECODE, MS, n_tokens=30, samples=1, before_ns=9 * MS, idle_ns=8 * MS)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1, before_ns=9 * MS, idle_ns=8 * MS)
    table = name_phases(script.exit().table())
    assert table.loc[table["role"] == "decode", "name"].tolist() == ["prefill", "decode", "prefill", "decode", "decode"]
    assert table.loc[table["role"] == "idle", "name"].tolist() == ["idle", "idle"]
    assert table["token"].dropna().tolist() == [1, 2, 3]


def test_calls_before_a_reset_without_sampling_are_warmup():
    script = Script()
    script.call(Role.DECODE, MS, n_tokens=2)
    script.mark(Role.PERF_RESET)
    script.call(Role.DECODE, MS, n_tokens=9, samples=1)
    script.mark(Role.PERF_RESET)
    assert calls(script.exit()) == ["warmup", "prefill"]


def test_contexts_are_named_each_for_itself():
    script = Script()
    script.call(Role.DECODE, MS, n_tokens=9, samples=1, context=1)
    script.call(Role.DECODE, MS, n_tokens=9, samples=1, context=2)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1, context=1)
    script.call(Role.DECODE, MS, n_tokens=1, samples=1, context=2)
    table = name_phases(script.exit().table())
    decodes = table[table["role"] == "decode"]
    assert decodes["name"].tolist() == ["prefill", "prefill", "decode", "decode"]
    assert decodes["token"].dropna().tolist() == [1, 1]


def test_the_last_call_of_all_needs_no_mark_to_be_decode():
    script = Script()
    script.call(Role.DECODE, MS, n_tokens=9, samples=1)
    script.call(Role.DECODE, MS, n_tokens=1)
    assert calls(script) == ["prefill", "decode"]


def test_while_the_process_runs_nothing_is_teardown():
    script = Script()
    script.call(Role.DECODE, MS, n_tokens=9, samples=1)
    assert named(script)[-1] == ("sample", None)
    assert named(script.exit())[-1] == ("teardown", None)


def test_a_teardown_call_ends_the_work_and_all_around_it_is_teardown():
    script = Script()
    script.call(Role.DECODE, MS, n_tokens=9, samples=1)
    script.call(Role.TEARDOWN, MS)
    assert [name for name, _ in named(script.exit())][-3:] == ["teardown"] * 3


def test_a_short_sleep_at_either_end_is_no_idle_time():
    def script(idle_ns):
        one = Script()
        one.call(Role.LOAD, MS)
        one.call(Role.DECODE, MS, n_tokens=9, samples=1, before_ns=idle_ns + MS, idle_ns=idle_ns)
        return [name for name, _ in named(one.exit())]

    assert script(IDLE_MIN_NS - 1) == ["startup", "load", "init", "init", "prefill", "teardown"]
    assert script(IDLE_MIN_NS) == ["startup", "load", "init", "idle", "prefill", "teardown"]


def test_a_process_that_never_calls_the_engine_is_starting_up():
    table = phase_table(phase_row(1, 0, 5, "startup", pid=7), phase_row(2, 0, 9, "load"), phase_row(3, 9, 12, "gap"))
    table = name_phases(table).set_index("id")
    assert table["name"].to_dict() == {1: "startup", 2: "load", 3: "init"}


def test_a_role_of_a_later_version_is_unknown():
    assert name_phases(phase_table(phase_row(1, 0, 5, "role_77")))["name"].tolist() == ["unknown"]


def test_no_phases():
    table = name_phases(phase_table())
    assert (len(table), "name" in table, "token" in table) == (0, True, True)


def test_open_calls_are_named_too():
    rows = [phase_row(1, 0, 9, n_sampled=1), phase_row(2, 9, 10, "gap"), phase_row(3, 10, None, end_kind=None)]
    assert name_phases(phase_table(*rows))["name"].tolist() == ["prefill", "sample", "decode"]
    assert rows[0]["end_kind"] == PhaseEnd.RETURN


def test_repeats_that_are_never_sampled_are_no_warm_up():
    """llama-bench: a context for each test; a run to warm up, then a clear before each repeat."""
    script = Script()
    script.call(Role.LOAD, 9 * MS)
    for n_tokens in (19, 1):
        script.call(Role.INIT, MS)
        script.mark(Role.CLEAR)
        script.call(Role.DECODE, MS, n_tokens=n_tokens)
        for _ in range(3):
            script.mark(Role.CLEAR)
            script.call(Role.DECODE, MS, n_tokens=n_tokens)
            script.call(Role.DECODE, MS, n_tokens=n_tokens)
        script.call(Role.TEARDOWN, MS)
    table = name_phases(script.exit().table())
    decode = table[table["role"] == "decode"]
    assert decode["name"].tolist() == 2 * ["warmup", *6 * ["prefill"]]


def test_a_server_tries_its_context_after_the_warm_up():
    script = Script()
    script.call(Role.INIT, MS)
    for marks in ((Role.CLEAR, Role.PERF_RESET), (Role.CLEAR,)):
        script.call(Role.DECODE, MS, n_tokens=2)
        for role in marks:
            script.mark(role)
    script.call(Role.DECODE, MS, n_tokens=7, samples=1)
    table = name_phases(script.exit().table())
    assert table.loc[table["role"] == "decode", "name"].tolist() == ["warmup", "warmup", "prefill"]

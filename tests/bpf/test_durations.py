"""Times against clocks, getrusage(2), schedstat, and each other: parts of a duration add up to the whole."""

import pytest

ITEMS = ("sleep_25ms_20_times", "busy_half_second", "hog,hog", "read_zeros", "futex_waits")
OUTER_BEGIN, INNER_BEGIN, INNER_END, OUTER_END = range(4)
MS = 1_000_000


@pytest.fixture(scope="module")
def run(trace, program, data_file, detail):
    done = trace([program("work.c"), data_file, *ITEMS], detail, env={"SCHEDSTAT": "1"})
    done.assert_nothing_lost()
    return done


def measured(run, item):
    """(what a thread says, counters of it in that call) for each thread that did the item's work, both times."""
    index = ITEMS.index(item)
    calls = run.calls(run.lines[0]["pid"])
    for line in run.lines:
        if line["item"] == index and line["name"] != "main":
            yield line, run.total([line["tid"]], [calls.iloc[2 * index + line["round"]]["id"]])


def grown(line, key, begin=INNER_BEGIN, end=INNER_END):
    return line["readings"][end][key] - line["readings"][begin][key]


def wall_ns(line):
    return line["readings"][INNER_END]["before_ns"] - line["readings"][INNER_BEGIN]["after_ns"]


def outer_wall_ns(line):
    return line["readings"][OUTER_END]["after_ns"] - line["readings"][OUTER_BEGIN]["before_ns"]


def between_switches_ns(line):
    """What of each switch the kernel bills to the one thread and the tracepoint to the other, on a busy machine."""
    return 20_000 * sum(grown(line, key, OUTER_BEGIN, OUTER_END) for key in ("voluntary", "involuntary"))


def assert_run_queue_wait(run, line, counters):
    low, high = grown(line, "run_delay_ns"), grown(line, "run_delay_ns", OUTER_BEGIN, OUTER_END)
    slack = 2 * MS + between_switches_ns(line)
    stolen_ns = run.stolen_ns + 10 * MS  # known in ticks
    assert 0.95 * low - slack <= counters["runq_wait_ns"] <= 1.05 * high + slack + stolen_ns


def assert_cpu_time(run, line, counters):
    low, high = grown(line, "cpu_ns"), grown(line, "cpu_ns", OUTER_BEGIN, OUTER_END)
    slack = between_switches_ns(line)
    assert 0.99 * low - slack <= counters["cpu_ns"] <= 1.01 * high + slack + run.stolen_ns


def test_time_asleep(run):
    for line, counters in measured(run, "sleep_25ms_20_times"):
        assert counters["offcpu_ns"] >= 20 * 25 * MS
        assert counters["offcpu_ns"] == pytest.approx(wall_ns(line) - grown(line, "cpu_ns"), rel=0.01)
        assert counters["cpu_ns"] == pytest.approx(grown(line, "cpu_ns", OUTER_BEGIN, OUTER_END), abs=10 * MS)


def test_time_on_the_cpu(run):
    for line, counters in measured(run, "busy_half_second"):
        assert_cpu_time(run, line, counters)
        assert 0.999 * wall_ns(line) <= counters["cpu_ns"] + counters["offcpu_ns"] <= 1.001 * outer_wall_ns(line)


def test_time_waiting_for_a_cpu(run):
    """Of two that want one CPU each gets half of it; and what each waits is what the scheduler itself counts."""
    for line, counters in measured(run, "hog,hog"):
        assert_run_queue_wait(run, line, counters)
        assert counters["runq_wait_ns"] >= 0.25 * wall_ns(line)
        assert_cpu_time(run, line, counters)


@pytest.mark.parametrize("item", ["sleep_25ms_20_times", "busy_half_second", "read_zeros", "futex_waits"])
def test_run_queue_wait_is_the_schedulers(run, item):
    for line, counters in measured(run, item):
        assert_run_queue_wait(run, line, counters)


def test_time_in_the_kernel(run):
    for line, counters in measured(run, "read_zeros"):
        slack = 2 * MS + between_switches_ns(line)
        low, high = 0.97 * line["in_calls_ns"] - slack, 1.03 * line["in_calls_ns"] + slack + run.stolen_ns
        assert low <= counters["cpu_system_ns"] <= high
        # the kernel's own figure is put together from samples, 4 ms apart
        assert counters["cpu_system_ns"] == pytest.approx(grown(line, "system_us") * 1000, rel=0.1, abs=80 * MS)
        assert counters["cpu_system_ns"] < counters["cpu_ns"]
    for _line, counters in measured(run, "busy_half_second"):
        assert counters["cpu_system_ns"] < 0.1 * counters["cpu_ns"]


def test_time_in_read_calls(run):
    for line, counters in measured(run, "read_zeros"):
        assert line["of_calls_ns"] > 100 * MS
        # who is preempted on the way back to user mode has left the call
        low = 0.97 * line["of_calls_ns"] - counters["runq_wait_ns"]
        assert low <= counters["read_ns"] <= 1.03 * line["of_calls_ns"]
        assert line["of_calls_ns"] <= wall_ns(line)


def test_time_in_futex_waits(run):
    for line, counters in measured(run, "futex_waits"):
        assert 31 * 10 * MS <= counters["futex_wait_ns"] <= wall_ns(line)
        assert counters["futex_wait_ns"] == pytest.approx(wall_ns(line), rel=0.02)


def test_giving_memory_back_at_the_end_is_time_in_the_kernel(trace, program, detail):
    run = trace([program("family.c"), "large_child"], detail)
    run.assert_nothing_lost()
    (line,) = run.lines
    assert line["status"] == 0
    total = run.total([line["pid"]])
    assert total["faults_populate_minor"] >= (512 << 20) // 4096
    assert total["cpu_ns"] > 20 * MS
    assert total["cpu_system_ns"] > 0.95 * total["cpu_ns"] - 2 * MS


# ---- durations that reach over phase edges --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edges(trace, program, detail):
    done = trace([program("edges.c")], detail)
    done.assert_nothing_lost()
    return done


def inner_phases(edges):
    """The phases in which all threads were at their one occupation: those after the second call's begin, but the last."""
    phases = edges.recording.phases
    calls = phases[phases["role"] == "decode"]
    assert len(calls) == 33
    begin, end = calls["begin_ns"].iloc[1], calls["begin_ns"].iloc[-1]
    return phases[(phases["begin_ns"] >= begin) & (phases["end_ns"] <= end)]


def test_phases_tile_the_life_of_the_process(edges):
    phases = edges.recording.phases.sort_values("begin_ns")
    assert (phases["begin_ns"].iloc[1:].to_numpy() == phases["end_ns"].iloc[:-1].to_numpy()).all()
    assert not phases["overlapped"].any()
    inner = inner_phases(edges)
    assert list(inner["role"].unique()) == ["decode", "gap", "idle"]
    assert (inner["end_ns"] - inner["begin_ns"]).sum() > 31 * 15 * MS


@pytest.mark.parametrize("name", ["sleeper", "spinner", "waiter", "reader"])
def test_a_thread_is_on_or_off_the_cpu_all_the_time(edges, name):
    """In each phase, whoever ended it: the parts of what lasted over many phases fill each of them."""
    tid = next(line["tid"] for line in edges.lines if line["name"] == name)
    inner = inner_phases(edges)
    for phase, begin_ns, end_ns in zip(inner["id"], inner["begin_ns"], inner["end_ns"], strict=True):
        part = edges.total([tid], [phase])
        assert part["cpu_ns"] + part["offcpu_ns"] == pytest.approx(end_ns - begin_ns, abs=0.02 * MS), phase
        if name != "spinner":
            assert part["cpu_ns"] == 0
            assert part["switches_voluntary"] == 0


@pytest.mark.parametrize(
    ("name", "column"), [("sleeper", "offcpu_ns"), ("waiter", "futex_wait_ns"), ("reader", "read_ns")]
)
def test_the_parts_of_one_wait_add_up(edges, name, column):
    tid = next(line["tid"] for line in edges.lines if line["name"] == name)
    inner = inner_phases(edges)
    whole = edges.total([tid])[column]
    parts = edges.total([tid], inner["id"].tolist())[column]
    assert parts == pytest.approx((inner["end_ns"] - inner["begin_ns"]).sum(), abs=0.02 * MS)
    assert parts <= whole
    if name == "sleeper":
        assert whole == pytest.approx(1000 * MS, rel=0.05)
    counted = {"waiter": "futex_calls", "reader": "read_calls"}.get(name)
    if counted:
        # counted once, in the phase in which it returned
        assert edges.total([tid], inner["id"].tolist())[counted] == 0
        assert edges.total([tid])[counted] >= 1


def test_time_on_the_cpu_of_one_that_never_sleeps(edges):
    """No switch tells where the phases changed under it, unless it was preempted."""
    tid = next(line["tid"] for line in edges.lines if line["name"] == "spinner")
    row = edges.recording.threads.set_index("tid").loc[tid]
    total = edges.total([tid])
    assert total["cpu_ns"] + total["offcpu_ns"] == pytest.approx(row["end_ns"] - row["start_ns"], rel=0.01, abs=2 * MS)

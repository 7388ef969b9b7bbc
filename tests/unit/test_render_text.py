"""The report for a terminal, and its Markdown and JSON brothers where they share a rule."""

import re

import pytest
from rich.cells import cell_len
from traces import MS, PID, event, events, inference, inference_events, write_inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.recording.layout import FaultFlag, Kind, SwitchFlag
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import format as fmt
from bitnet_trace.render.text import render

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(open_recording(write_inference(tmp_path_factory.mktemp("text") / "a.btrace")))


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A report with something in nearly every column and twenty threads."""
    path = tmp_path_factory.mktemp("text") / "busy.btrace"
    script = inference()
    rows = script.rows()
    stream = []
    for row in rows:
        at = {"ts_ns": row["end_ns"], "phase": row["id"]}
        for n in range(20):
            tid = PID + n
            stream.append(event(Kind.SWITCH_OUT, tid=tid, arg0=n % 2 * SwitchFlag.VOLUNTARY, arg1=900_000 + n, **at))
            stream.append(event(Kind.SWITCH_IN, tid=tid, arg1=9_999, arg2=5_555, **at))
            stream.append(event(Kind.FUTEX, tid=tid, arg2=123_456, **at))
        calls = (Kind.MMAP, Kind.MUNMAP, Kind.MREMAP, Kind.BRK, Kind.MADVISE, Kind.MPROTECT, Kind.MLOCK)
        counted = (Kind.MIGRATE, Kind.YIELD, Kind.WAKEUP, *calls)
        stream += [event(kind, arg0=1_000_000, arg2=7_777, **at) for kind in counted]
        faults = (0, FaultFlag.MAJOR, FaultFlag.KERNEL, FaultFlag.FAILED)
        stream += [event(Kind.FAULT, arg0=flags, arg2=77_777, **at) for flags in faults]
        stream.append(event(Kind.SYSTEM_TIME, arg1=444_444, **at))
        stream.append(event(Kind.READ, arg1=123_456_789, arg2=55_555, **at))
        stream.append(event(Kind.RSS, arg1=987_654_321_000, **at))
        stream.append(event(Kind.POPULATE, arg1=12345 | 54321 << 32, arg2=68_700_000_000, **at))
    writer = Writer(path, {"command": ["x"] * 300, "options": {"detail": "events"}, "losses": {}})
    writer.phases(rows)
    writer.events(events(*stream))
    writer.threads(
        [{"tid": PID + n, "pid": PID, "comm": f"llama-worker-{n:02}", "start_ns": 1000 * MS} for n in range(20)]
    )
    writer.close(0)
    return build_report(open_recording(path))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
def test_no_line_is_wider_than_the_terminal(report, busy, width):
    for one in (report, busy):
        for line in render(one, width).splitlines():
            assert cell_len(line) <= width, line


def test_numbers_are_never_cut(busy):
    for width in (40, 80, 200):
        assert "…" not in render(busy, width).split("Speed")[1]


def section(text, title):
    return re.split(r"\n\n(?=\S)", text.split(f"\n{title}\n", 1)[1])[0]


def test_phases_and_their_total(report):
    time = section(render(report, 80), "Time by phase").splitlines()
    assert time[1].split() == ["phase", "n", "duration", "CPU", "user"]
    rows = {line.split()[0]: line.split()[1:] for line in time[2:]}
    assert rows["prefill"] == ["1", "60.0", "ms", "30.0", "ms", "30.0", "ms"]
    assert rows["decode"] == ["5", "50.0", "ms", "25.0", "ms", "25.0", "ms"]
    assert rows["total"][:3] == ["19", "249", "ms"]


def test_every_shown_column_is_in_some_table_and_all_others_are_named(report, busy):
    quiet, full = render(report, 80), render(busy, 80)
    assert "0 in all phases: CPU system" in quiet
    assert "mremap" in quiet.split("0 in all phases")[1]
    assert "not measured: peak RSS, SQEs, CQEs" in " ".join(quiet.split())
    assert "TLB flushes" in full.split("0 in all phases")[1]
    assert "mremap" in full.split("0 in all phases")[0]


def test_the_numbers_that_come_first(report):
    speed = section(render(report, 80), "Speed")
    assert re.search(r"TTFT +192 ms", speed)
    assert re.search(r"TPOT +11\.0 ms", speed)
    assert re.search(r"prefill +200 tok/s", speed)
    figures = section(render(report, 80), "The engine's own figures")
    assert re.search(r"decode +49\.5 ms +101 +50\.0 ms +\+1\.0 %", figures)


def test_health_and_warnings_are_shown(report):
    output = " ".join(render(report, 80).split())
    assert "! attached, never hit: teardown" in output
    assert (
        "996 events, 4 lost (events.fault 3, recursion 1), coverage 99.60 %, overhead about 1.2 % of the CPU time"
        in output
    )


def test_threads_beyond_a_dozen_are_summed_up(busy):
    threads = section(render(busy, 80), "Threads")
    assert "and 8 more threads" in threads
    assert len(re.findall(r"llama-worker-\d\d", threads)) % 12 == 0


def test_color_only_when_asked_for(report):
    plain = render(report, 80)
    assert "\x1b" not in plain
    colored = render(report, 80, color=True)
    assert "\x1b[" in colored
    assert [line.rstrip() for line in ESCAPE.sub("", colored).splitlines()] == plain.splitlines()


def test_the_environment_does_not_change_a_rendering(report, monkeypatch):
    plain, colored = render(report, 80), render(report, 80, color=True)
    for name, value in {"NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "20", "LINES": "3"}.items():
        monkeypatch.setenv(name, value)
        assert render(report, 80) == plain
        assert render(report, 80, color=True) == colored


def test_text_of_the_target_is_harmless(tmp_path):
    script = inference()
    evil = "\x1b[2J[bold]x[/bold]\r\n\u202e"
    writer = Writer(tmp_path / "a.btrace", {"command": ["a", evil], "engine": evil, "warnings": [evil]})
    writer.phases(script.rows())
    writer.events(inference_events(script))
    writer.threads([{"tid": PID, "pid": PID, "comm": evil, "start_ns": 0}])
    writer.close(0)
    output = render(build_report(open_recording(tmp_path / "a.btrace")), 100)
    assert "\x1b" not in output
    assert "\r" not in output
    assert "\u202e" not in output
    assert output.count("\\x1b[2J[bold]x[/bold]\\x0d\\x0a\\u202e") >= 3


@pytest.mark.parametrize(
    ("ns", "expected"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.00 µs"),
        (12_345, "12.3 µs"),
        (99_960, "100 µs"),
        (1_500_000, "1.50 ms"),
        (12_000_000_000, "12.0 s"),
        (7_200_000_000_000, "7,200 s"),
        (-1500, "-1.50 µs"),
    ],
)
def test_durations(ns, expected):
    assert fmt.duration(ns) == expected


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (72_024_064, "68.7 MiB"), (1 << 41, "2.00 TiB")],
)
def test_sizes(n_bytes, expected):
    assert fmt.size(n_bytes) == expected


@pytest.mark.parametrize(
    ("n", "expected"), [(0, "0"), (34_688, "34,688"), (9_999_999, "9,999,999"), (12_345_678, "12.3 M")]
)
def test_amounts(n, expected):
    assert fmt.amount(n) == expected

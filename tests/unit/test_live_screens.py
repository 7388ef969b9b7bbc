"""The screens of the live view, with a fixed recording at fixed moments: text as tests/unit/screens has it.

RENEW_SCREENS=1 writes them anew; look at the difference.
"""

import asyncio
import html
import os
import re
import socket
from pathlib import Path

import pandas as pd
import pytest

from bitnet_trace.live.app import _SocketApp
from bitnet_trace.live.model import Frame
from bitnet_trace.live.replay import Replay
from bitnet_trace.live.replay_app import ReplayApp
from bitnet_trace.live.screen import FACTORS, QUIT, WRITE
from bitnet_trace.live.tabs import TABS
from bitnet_trace.recording.reader import open_recording
from tests.unit.traces import MS, PID, write_inference

SCREENS = Path(__file__).parent / "screens"
_TEXT = re.compile(r'<text[^>]*?x="([\d.]+)"[^>]*?y="([\d.]+)"[^>]*?textLength="([\d.]+)"[^>]*>([^<]*)</text>')


def screen(app):
    """What the terminal shows, as lines of text."""
    lines: dict[float, list[str]] = {}
    svg = app.export_screenshot()
    cells = [(float(x), float(y), float(length), html.unescape(text)) for x, y, length, text in _TEXT.findall(svg)]
    width = min(length / len(text) for _, _, length, text in cells if text)
    for x, y, _length, text in cells:
        line = lines.setdefault(y, [])
        line.extend(" " * (round(x / width) - len(line)))
        line[round(x / width) :] = text.replace("\xa0", " ")
    return [("".join(line)).rstrip() for _, line in sorted(lines.items())]


def drive(recording, *keys, size=(110, 26), at_ns=None):
    """The screen after these keys; the clock stands still."""

    async def run():
        app = ReplayApp(Replay(recording), 1.0)
        app.paused = True
        async with app.run_test(size=size) as pilot:
            app.at_ns = 0
            app.move((at_ns or 0) / 1e9)
            for key in keys:
                await pilot.press(key)
            await pilot.pause()
            return screen(app), app

    return asyncio.run(run())


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    found = open_recording(write_inference(tmp_path_factory.mktemp("screens") / "x.btrace"))
    # three samples of a kernel and one of a barrier, in the first token
    decode = found.phases[found.phases["role"] == "decode"].iloc[-1]
    common = {"pid": PID, "ts_ns": int(decode["begin_ns"]), "period_ns": 10 * MS, "cpu": 0, "reason": 0}
    samples = [{**common, "stack": stack, "tid": PID, "phase": int(decode["id"])} for stack in (0, 0, 0, 1)]
    stacks = [{"stack": stack, "level": 0, "pid": PID, "address": 4096 + stack} for stack in (0, 1)]
    names = [("ggml_vec_dot_i2_i8_s", False), ("ggml_barrier", True)]
    symbols = [
        {
            "pid": PID,
            "address": 4096 + n,
            "module": "/lib/libggml.so",
            "function": name,
            "inlined": None,
            "spins": spins,
        }
        for n, (name, spins) in enumerate(names)
    ]
    for name, rows in (("samples", samples), ("stacks", stacks), ("symbols", symbols)):
        found.__dict__[name] = pd.DataFrame(rows)
    return found


@pytest.mark.parametrize("tab", list(TABS))
def test_tabs(recording, tab):
    lines, _ = drive(recording, str(list(TABS).index(tab) + 1), at_ns=10**12)
    golden = SCREENS / f"{tab.replace('/', '')}.txt"
    if os.environ.get("RENEW_SCREENS"):
        golden.write_text("\n".join(lines) + "\n")
    assert lines == golden.read_text().splitlines()


def test_small(recording):
    lines, _ = drive(recording, "1", size=(80, 24), at_ns=60 * MS)
    assert max(map(len, lines)) <= 80
    golden = SCREENS / "80x24.txt"
    if os.environ.get("RENEW_SCREENS"):
        golden.write_text("\n".join(lines) + "\n")
    assert lines == golden.read_text().splitlines()


def rows_of(lines):
    """The table's rows."""
    top = next(place for place, line in enumerate(lines) if "1 Threads" in line)
    return [line for line in lines[top + 2 : -3] if line.strip()]


def test_sorting(recording):
    by_time, _ = drive(recording, "3", at_ns=10**12)
    first, app = drive(recording, "3", "s", "s", "s", "s", "s", at_ns=10**12)
    assert app.sorting[2] == 4  # duration
    assert rows_of(first) != rows_of(by_time)
    backwards, _ = drive(recording, "3", "s", "s", "s", "s", "s", "r", at_ns=10**12)
    durations = [row.split()[4:6] for row in rows_of(first)]
    assert durations == [row.split()[4:6] for row in rows_of(backwards)][::-1]


def test_filter_and_help(recording):
    lines, app = drive(recording, "slash", *"work", "enter", at_ns=10**12)
    assert app.wanted == "work"
    assert [row.split()[1] for row in rows_of(lines)] == ["worker"]
    lines, app = drive(recording, "slash", *"work", "escape", at_ns=10**12)
    assert len(rows_of(lines)) == 2
    lines, app = drive(recording, "question_mark")
    assert any("flight recorder" in line for line in lines)
    lines, app = drive(recording, "question_mark", "escape")
    assert not any("flight recorder" in line for line in lines)


def test_replay(recording):
    _, app = drive(recording, "plus", "plus", "minus")
    assert app.speed == 2
    _, app = drive(recording, "minus", "minus", "minus", "minus", "n")
    assert app.at_ns == 1e9 / 16
    assert app.paused
    _, app = drive(recording, "minus", "minus", "minus", "minus", "n", "n", "b")
    assert app.at_ns == 1e9 / 16
    _, app = drive(recording, "space")
    assert not app.paused
    _, app = drive(recording, "right", "right", "left", "tab")
    assert app.tab == 2


def test_keys_of_a_run_that_goes_on():
    """What the tracer does is asked of it."""
    frames, tracer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def run():
        app = _SocketApp(frames)
        async with app.run_test(size=(80, 24)) as pilot:
            tracer.send(Frame(status="running", message="asked for").to_json().encode())
            for key in ("w", "plus", "minus", "q"):
                await pilot.press(key)

    asyncio.run(run())
    told = [tracer.recv(64) for _ in range(4)]
    assert told == [WRITE, b"slower", b"faster", QUIT]
    assert FACTORS[b"slower"] * FACTORS[b"faster"] == 1
    frames.close()
    tracer.close()


def end_of(frames, end):
    """The screen of these frames, a moment after `end()`."""

    async def run():
        app = _SocketApp(frames)
        async with app.run_test(size=(80, 24)) as pilot:
            end()
            await pilot.pause(0.3)
        return app

    return asyncio.run(run())


def test_it_stays_after_the_last_frame():
    frames, tracer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with frames, tracer:
        assert end_of(frames, lambda: tracer.shutdown(socket.SHUT_WR)).return_code is None


def test_it_goes_with_a_tracer_that_dies():
    """Whose files the kernel closes while it is still our parent."""
    frames, tracer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with frames:
        assert end_of(frames, tracer.close).return_code == 1


def test_quit(recording):
    _, app = drive(recording, "q")
    assert app.return_code == 0


def test_hostile_names(recording):
    """What comes from outside does nothing to the terminal."""

    async def run():
        app = ReplayApp(Replay(recording), 1.0)
        app.paused = True
        async with app.run_test(size=(110, 26)) as pilot:
            app.feed(Frame(command=["[red]x[/]", "\x1b[2J\n\n"], status="running"))
            app.paused = False
            app.feed(app.frame)
            await pilot.pause()
            return screen(app)

    lines = asyncio.run(run())
    assert "[red]x[/]" in lines[0]
    assert "\x1b" not in "\n".join(lines)

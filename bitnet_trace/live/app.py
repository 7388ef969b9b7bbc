"""The screen of the live view, in Textual: draws frames, and asks where they come from for what the user wants."""

import asyncio
import bisect
import contextlib
import itertools
import select
import signal
import socket
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from bitnet_trace.live import head
from bitnet_trace.live.model import Frame
from bitnet_trace.live.tabs import TABS, Table, chosen

_MESSAGE_BYTES = 1 << 20
_MOST_ROWS = 300
_NOTICES = 2
_HELP = """\
 1 … 8, Tab, ← →   choose a tab              s, F6, < >   sort by another column
 ↑ ↓, PgUp, PgDn   scroll                    r            the other way round
 space             pause, and go on          /            show only rows with a text
 + -               faster, slower (replay); a longer, a shorter interval (live)
 n b               a step forward, back (replay, paused)
 w                 write the flight recorder (--ring)
 q                 leave                     ?            this help

 A letter for each of the last calls says what took most of its time, a capital one for prefill.
 Percentages are of the time since the last frame; run queue is waiting for a CPU.
 States: R runs, r wants a CPU, S and D sleep, T stopped, t by a debugger, X has ended."""


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar = [Binding("escape,q,question_mark,space,enter", "dismiss", "close")]
    DEFAULT_CSS = "Help { align: center middle; } Help Static { border: round $primary; padding: 1; width: auto; }"

    def compose(self) -> ComposeResult:
        yield Static(_HELP, markup=False)


class LiveApp(App[None]):
    """Shows frames; `feed` is called by where they come from."""

    CSS = """
    Static { text-wrap: nowrap; text-overflow: ellipsis; }
    #head { height: 4; } #strip { height: 1; } #tabs { height: 1; } #titles { height: 1; }
    #notices { height: 2; } #keys { height: 1; } #filter { display: none; height: 1; border: none; padding: 0; }
    #body { height: 1fr; scrollbar-size-vertical: 1; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = [
        Binding("q,ctrl+c", "leave", "leave", priority=False),
        Binding("question_mark,f1,h", "help", "help"),
        Binding("space", "pause", "pause"),
        Binding("slash", "filter", "filter"),
        Binding("s,f6,greater_than_sign", "sort(1)", "sort"),
        Binding("less_than_sign", "sort(-1)", "sort"),
        Binding("r", "reverse", "reverse"),
        Binding("right,tab", "tab(1)", "tab", priority=True),
        Binding("left,shift+tab", "tab(-1)", "tab", priority=True),
        Binding("plus,equals_sign", "speed(2)", "faster"),
        Binding("minus", "speed(0.5)", "slower"),
        Binding("n", "step(1)", "step"),
        Binding("b", "step(-1)", "step back"),
        Binding("w", "write", "write"),
        *(Binding(str(number), f"go({number - 1})", "tab") for number in range(1, len(TABS) + 1)),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.frame = Frame(status="waiting for the first figures")
        self.tab = 0
        self.sorting: dict[int, int | None] = dict.fromkeys(range(len(TABS)))
        self.reversed = False
        self.wanted = ""
        self.paused = False
        self.note = ""

    def compose(self) -> ComposeResult:
        for name in ("head", "strip", "tabs", "titles"):
            yield Static(id=name)
        with VerticalScroll(id="body"):
            yield Static(id="rows")
        yield Static(id="notices")
        yield Input(id="filter", placeholder="show only rows with ...")
        yield Static(
            Text(" q leave  ? help  space pause  / filter  s sort  r reverse  1-8 tabs  ↑↓ scroll", "dim"), id="keys"
        )

    def on_mount(self) -> None:
        self.query_one("#body").focus()
        self.draw()

    def feed(self, frame: Frame) -> None:
        """The newest frame; drawn unless the user has paused."""
        self.frame = frame
        if not self.paused:
            self.draw()

    def on_resize(self) -> None:
        self.draw()

    # ---- drawing ----------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        frame, width = self.frame, self.size.width
        note = "PAUSED" if self.paused else self.note
        self._set("head", head.header(frame, note))
        self._set("strip", head.strip(frame, width))
        self._set("tabs", self._tab_bar(width))
        table = list(TABS.values())[self.tab](frame)
        rows = chosen(table, self.sorting[self.tab], self.reversed, self.wanted)[:_MOST_ROWS]
        widths = [max([len(title), *(len(row[n]) for row in rows)]) for n, title in enumerate(table.titles)]
        widths = widths[: bisect.bisect_right(list(itertools.accumulate(one + 2 for one in widths)), width + 1)]
        self._set("titles", self._title_line(table, widths))
        self._set("rows", Text("\n".join(_line(row, widths, table.left) for row in rows), no_wrap=True))
        self._set("notices", head.notices(frame, _NOTICES))

    def _set(self, name: str, text: Text) -> None:
        with contextlib.suppress(LookupError):
            self.screen_stack[0].query_one(f"#{name}", Static).update(text)

    def _tab_bar(self, width: int) -> Text:
        text = Text(no_wrap=True)
        wide = " " if width >= sum(len(name) + 4 for name in TABS) else ""
        for number, name in enumerate(TABS):
            text.append(f" {number + 1} {name}" + wide, "reverse bold" if number == self.tab else "dim")
        if self.wanted:
            text.append(f"  filter: {self.wanted}", "bold yellow")
        return text

    def _title_line(self, table: Table, widths: list[int]) -> Text:
        sort = self.sorting[self.tab]
        column = table.sort if sort is None else sort
        text = Text(no_wrap=True, style="bold underline")
        for number, title in enumerate(table.titles[: len(widths)]):
            cell = title.ljust(widths[number]) if number in table.left else title.rjust(widths[number])
            text.append(cell, "reverse" if number == column else "")
            text.append("  ")
        return text

    # ---- what the user does -----------------------------------------------------------------------------------------

    def action_leave(self) -> None:
        self.exit()

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_pause(self) -> None:
        self.paused = not self.paused
        self.draw()

    def action_go(self, number: int) -> None:
        self.tab = number
        self.query_one("#body").scroll_home(animate=False)
        self.draw()

    def action_tab(self, step: int) -> None:
        if not isinstance(self.focused, Input):
            self.action_go((self.tab + step) % len(TABS))

    def action_sort(self, step: int) -> None:
        table = list(TABS.values())[self.tab](self.frame)
        now = self.sorting[self.tab]
        column = table.sort if now is None else now
        self.sorting[self.tab] = ((-1 if column is None and step > 0 else column or 0) + step) % len(table.titles)
        self.draw()

    def action_reverse(self) -> None:
        self.reversed = not self.reversed
        self.draw()

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.value = self.wanted
        box.styles.display = "block"
        self.query_one("#keys").styles.display = "none"
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.wanted = event.value
        self.draw()

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        self._close_filter()

    def key_escape(self) -> None:
        self.wanted = ""
        self._close_filter()
        self.draw()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).styles.display = "none"
        self.query_one("#keys").styles.display = "block"
        self.query_one("#body").focus()

    def action_speed(self, factor: float) -> None:
        """Of a replay."""

    def action_step(self, step: int) -> None:
        """Of a replay."""

    def action_write(self) -> None:
        """Of a view with a flight recorder."""


def _line(cells: list[str], widths: list[int], left: set[int]) -> str:
    """The cells that there are widths for: what does not fit the screen is left out."""
    return "  ".join(
        text.ljust(width) if number in left else text.rjust(width)
        for number, (text, width) in enumerate(zip(cells, widths, strict=False))
    )


# ---- where frames come from ---------------------------------------------------------------------------------------


class _SocketApp(LiveApp):
    """Frames come as JSON from the tracer."""

    def __init__(self, frames: socket.socket) -> None:
        super().__init__()
        self._frames = frames

    def on_mount(self) -> None:
        super().on_mount()
        self._frames.setblocking(False)
        asyncio.get_running_loop().add_reader(self._frames.fileno(), self._receive)

    def _receive(self) -> None:
        newest = None
        while True:
            try:
                data = self._frames.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                asyncio.get_running_loop().remove_reader(self._frames.fileno())
                last = newest or self.frame
                newest = last if last.ended else replace(last, ended=True, status="the tracer has ended")
                if self._tracer_is_gone():
                    # it was killed: the shell that it was a job of wants its terminal back
                    self.exit(return_code=1, message="bitnet-trace: the tracer was killed")
                break
            if data == b"close":
                self.exit()
                return
            newest = Frame.from_json(data.decode())
        if newest is not None:
            self.feed(newest)

    def _tracer_is_gone(self) -> bool:
        """Whether it closed its end of the socket, and did not only say that no more frames come.

        Who dies closes its files first and is somebody else's parent after that: getppid() would come too early.
        """
        poll = select.poll()
        poll.register(self._frames, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def _tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self._frames.send(word, socket.MSG_NOSIGNAL)

    def action_leave(self) -> None:
        self._tell(b"quit")
        super().action_leave()

    def action_write(self) -> None:
        self._tell(b"write")

    def action_speed(self, factor: float) -> None:
        self._tell(b"slower" if factor > 1 else b"faster")


def run_live(frames: socket.socket) -> None:
    """Shows frames from a socket until the user leaves."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # the terminal is put back also when it is another job's by then
    _SocketApp(frames).run(mouse=False)

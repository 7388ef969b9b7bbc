"""The screen of the live view for a recording: pause, step, speed."""

from bitnet_trace.live.app import LiveApp
from bitnet_trace.live.replay import Replay

_FASTEST, _SLOWEST = 64.0, 1 / 16


class ReplayApp(LiveApp):
    """Frames come from a recording, at a speed that the user chooses."""

    def __init__(self, recording: Replay, interval_s: float) -> None:
        super().__init__()
        self.recording, self._interval_s = recording, interval_s
        self.speed = 1.0
        self.at_ns = recording.first_ns

    def on_mount(self) -> None:
        super().on_mount()
        self._say()
        self.move(0)
        self.set_interval(self._interval_s, self._turn)

    def _turn(self) -> None:
        if not self.paused and self.at_ns < self.recording.length_ns:
            self.move(self._interval_s * self.speed)

    def move(self, seconds: float) -> None:
        """So far forward, or back."""
        self.at_ns = min(max(self.at_ns + round(seconds * 1e9), 0), self.recording.length_ns)
        self.frame = self.recording.advance(self.at_ns)
        self.draw()

    def _say(self) -> None:
        self.note = f"×{self.speed:g} of {self.recording.length_ns / 1e9:.1f} s"

    def action_pause(self) -> None:
        if self.at_ns >= self.recording.length_ns and not self.paused:
            self.at_ns = self.recording.first_ns  # once more
            return
        super().action_pause()

    def action_speed(self, factor: float) -> None:
        self.speed = min(max(self.speed * factor, _SLOWEST), _FASTEST)
        self._say()
        self.draw()

    def action_step(self, step: int) -> None:
        self.paused = True
        self.move(step * self._interval_s * self.speed)


def run_replay(recording: Replay, interval_s: float) -> None:
    """Shows a recording until the user leaves."""
    ReplayApp(recording, interval_s).run(mouse=False)

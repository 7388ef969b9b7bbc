"""What a live view shows at one moment, as plain values: made by figures.py, sent as JSON, drawn by the screens."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ThreadLine:
    """A thread. Shares are of the time since the last frame, in percent; None: not known."""

    tid: int
    comm: str
    role: str
    state: str | None  # letter of proc(5): R, S, D, T, t; X: has ended
    cpu: int | None
    on_cpu_pct: float | None
    run_queue_pct: float | None
    spin_pct: float | None
    futex_pct: float | None
    faults_per_s: float
    switches_per_s: float
    migrations: int
    last_at: int | None  # of `Frame.barriers` those at which it came last; None: none were looked at
    policy: str | None
    cpu_ns: int  # in all


@dataclass(frozen=True)
class TokenLine:
    """A prefill or decode call. `parts`: ns by columns.PARTS, as far as known; `mostly` is the largest of them."""

    name: str
    token: int | None
    n_tokens: int | None
    start_ns: int
    dur_ns: int
    ended: bool
    mostly: str
    parts: dict[str, int]


@dataclass(frozen=True)
class FunctionLine:
    """A function by its samples; shares of all samples, in percent."""

    name: str
    module: str
    role: str
    samples: int
    self_pct: float
    now_pct: float | None


@dataclass(frozen=True)
class PlaceLine:
    """A region of memory, or a tensor of a model. `sums`: by columns.PLACE_SUMS; what is missing is not known."""

    name: str
    path: str | None
    is_tensor: bool
    faults_per_s: float | None
    sums: dict[str, int]


@dataclass(frozen=True)
class Notice:
    """A finding: what is wrong, and what to do."""

    rule: str
    severity: str
    title: str
    advice: str


@dataclass(frozen=True)
class Frame:
    """One moment. Times are ns since the beginning of the recording; `by_phase` rows have columns.COUNTERS."""

    elapsed_ns: int = 0
    interval_ns: int = 0
    status: str = "running"  # what the target does: running, stopped, ended (exit code 0), ...
    ended: bool = False
    command: list[str] = field(default_factory=list)
    pid: int | None = None
    engine: str | None = None
    model: str | None = None
    phase: str | None = None
    prompt_tokens: int | None = None
    decoded_tokens: int | None = None
    tokens_per_s_now: float | None = None
    tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    ttft_ns: int | None = None
    events: int = 0
    events_per_s: float = 0.0
    lost: int | None = None
    own_cpu_pct: float | None = None
    overhead_pct: float | None = None
    barriers: int = 0  # of the newest window in which barriers were probed
    threads: list[ThreadLine] = field(default_factory=list)
    tokens: list[TokenLine] = field(default_factory=list)
    functions: list[FunctionLine] = field(default_factory=list)
    places: list[PlaceLine] = field(default_factory=list)
    by_phase: list[dict[str, Any]] = field(default_factory=list)
    durations: dict[str, list[int]] = field(default_factory=dict)  # of phases, by name: PhaseTotals.histogram
    durations_ns: dict[str, int] = field(default_factory=dict)  # of the same phases, the sums
    notices: list[Notice] = field(default_factory=list)
    message: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Frame":
        """Raises ValueError or TypeError for what is no frame."""
        values = json.loads(text)
        for name, kind in _LISTS.items():
            values[name] = [kind(**one) for one in values[name]]
        return Frame(**values)


_LISTS: dict[str, Any] = {
    "threads": ThreadLine,
    "tokens": TokenLine,
    "functions": FunctionLine,
    "places": PlaceLine,
    "notices": Notice,
}

"""One finding."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "note")
# From this share of a phase's time on a loss is critical.
CRITICAL_PCT = 20.0


@dataclass(frozen=True)
class Finding:
    """`title` says what is wrong, with its figure; `rule` is a name that scripts may rely on.

    `figure` in `unit` reached `threshold`; `phase` is the phase's name that it is of, None: of the whole run.
    `evidence`: what it rests on, a line each. `threads`: numbers of the threads that it is about.
    """

    rule: str
    severity: Severity
    title: str
    figure: float
    threshold: float
    unit: str
    phase: str | None
    evidence: tuple[str, ...]
    advice: str
    threads: tuple[int, ...] = ()


def severity_of(loss_pct: float) -> Severity:
    """Of a share of a phase's time that is lost."""
    return "critical" if loss_pct >= CRITICAL_PCT else "warning"


def plural(n: int, what: str) -> str:
    """`1 CPU`, `2 CPUs`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"

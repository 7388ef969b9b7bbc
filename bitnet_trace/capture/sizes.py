"""How much the kernel side can hold: of its rings in bytes, of its maps in entries."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rings:
    """Sizes in bytes, powers of two."""

    events: int = 64 << 20
    phases: int = 1 << 20
    tasks: int = 4 << 20
    samples: int = 8 << 20


@dataclass(frozen=True)
class Maps:
    """Entries: threads, processes and requests that live at one time; sums not yet taken out; phases looked back at."""

    threads: int = 32768
    processes: int = 8192
    counters: int = 32768
    phases: int = 16384
    io_requests: int = 32768

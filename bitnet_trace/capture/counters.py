"""perf's counters of one run: opened on each CPU, read by the BPF programs, which sum them up by thread and phase."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitnet_trace.capture import syscalls
from bitnet_trace.capture.perf_events import PerfEvent
from bitnet_trace.errors import TraceError
from bitnet_trace.host import cpu_list, n_possible_cpus

_MOST = 32


class Counters:
    """Those of `wanted` that this machine can count are `events`, in the order in which the BPF programs have them, and
    `numbers` their rows in `described`."""

    def __init__(self, wanted: Sequence[PerfEvent], root: Path = Path("/")) -> None:
        """Tries each on one CPU. Raises TraceError when there are too many."""
        if len(wanted) > _MOST:
            raise TraceError(f"{len(wanted)} counters, {_MOST} are possible", "name fewer with --counters")
        folder = root / "sys/devices/system/cpu"
        self._online = cpu_list((folder / "online").read_text().strip()) or (0,)
        self._n_cpus = n_possible_cpus(root)
        self._wanted = [self._tried(event) for event in wanted]
        self.events = [event for event in self._wanted if event.reason is None]
        self.numbers = [number for number, event in enumerate(self._wanted) if event.reason is None]

    def _tried(self, event: PerfEvent) -> PerfEvent:
        if event.reason is not None:
            return event
        cpus = self._cpus(event)
        if not cpus:
            return dataclasses.replace(event, reason="none of the CPUs that have it is online")
        try:
            with _opened(event, cpus[0]):
                return event
        except OSError as error:
            return dataclasses.replace(event, reason=f"this CPU does not count it ({error.strerror})")

    def _cpus(self, event: PerfEvent) -> list[int]:
        return [cpu for cpu in self._online if event.cpus is None or cpu in event.cpus]

    @property
    def constants(self) -> dict[str, int]:
        """What the BPF programs are compiled with; to be used only where there are events."""
        switches = sum(1 << slot for slot, event in enumerate(self.events) if event.counts_switches)
        return {"PERF_COUNTERS": len(self.events), "COUNTER_CPUS": self._n_cpus, "COUNTERS_OF_SWITCHES": switches}

    @property
    def described(self) -> list[dict[str, Any]]:
        """For meta.json, `reason`: why it has no values; `cpus` None: all."""
        keys = ("name", "unit", "scale", "cpus", "reason")
        return [{key: getattr(event, key) for key in keys} for event in self._wanted]

    def connect(self, map_descriptor: int) -> None:
        """Opens the events on all CPUs and gives them to the BPF programs, which keep them open. Raises TraceError."""
        for slot, event in enumerate(self.events):
            for cpu in self._cpus(event):
                try:
                    with _opened(event, cpu) as descriptor:
                        syscalls.put_descriptor(map_descriptor, slot * self._n_cpus + cpu, descriptor)
                except OSError as error:
                    what = f"counter {event.name} cannot be had on CPU {cpu}: {error.strerror}"
                    raise TraceError(what, "is another profiler using the PMU? try fewer with --counters") from None


@contextmanager
def _opened(event: PerfEvent, cpu: int) -> Iterator[int]:
    configs = event.config, event.config1, event.config2
    descriptor = syscalls.open_counter(event.type, configs, cpu, event.exclude_user, event.exclude_kernel)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

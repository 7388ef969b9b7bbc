"""What traces one run: the kernel's side, its reader, and the recording that it fills.

Whose life is traced, and when it ends, is capture/session.py's.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_trace import __version__, host
from bitnet_trace.analysis.health import unattached
from bitnet_trace.capture import calibration, cost, cpuid, footprint, identity, models, numa, symbols
from bitnet_trace.capture.options import Options
from bitnet_trace.capture.parser import Parser
from bitnet_trace.errors import TraceError

if TYPE_CHECKING:  # imported while the kernel's side is compiled
    from bitnet_trace.capture.bpf import Programs
    from bitnet_trace.capture.counters import Counters
    from bitnet_trace.capture.debuggers import Debuggers
    from bitnet_trace.capture.drain import Drain
    from bitnet_trace.capture.flights import Flights
    from bitnet_trace.capture.windows import Windows
    from bitnet_trace.recording.writer import Writer

_PATIENCE_S = 3.0  # of records in their rings, where nobody looks at them before the end


class Tracing:
    """load(), open() and begin() before the target's first instruction; step() while it runs; stop(), take_rest(),
    let_go() and close() after its end. give_up() undoes what of this was done.

    `timeline`: when what was done, CLOCK_MONOTONIC ns. `failure`: why recording ended before the target did.
    """

    programs: "Programs"
    drain: "Drain"
    debuggers: "Debuggers"
    meter: cost.Meter
    windows: "Windows"
    writer: "Writer"

    def __init__(self, options: Options, user: identity.Identity | None, parser: Parser, started_ns: int) -> None:
        self.parser = parser
        self.timeline = {"started": started_ns}
        self.failure: TraceError | None = None
        self.flights: Flights | None = None
        self._options, self._user = options, user
        self._undo = contextlib.ExitStack()
        self._looked_at_again: set[int] = set()
        self._warnings: list[str] = []

    # ---- before the target's first instruction ----------------------------------------------------------------------

    def load(self, attaching: bool) -> None:
        """Compiles the programs and attaches them: all of the kernel's side but the engine's probes."""
        # importing pyarrow takes as long as compiling, which leaves the interpreter free
        importer = threading.Thread(target=import_early)
        importer.start()
        from bitnet_trace.capture.bpf import Programs

        host.mount_tracefs()
        self._vmstat = host.memory_events()
        self._around_ns, self._calibrated = calibration.costs_or_assumed()  # before anything is attached
        self._counters = _counters(self._options.counters)
        self.programs = Programs(
            self._options.detail == "counts",
            self._options.rings,
            self._options.maps,
            sampling=self._options.sample_frequency > 0,
            attaching=attaching,
            counters=self._counters,
            operations=self._options.detail == "ops",
        )
        self._undo.callback(self.programs.close)
        self.mark("loaded")
        self._timing = cost.StatsWindows(self.programs.cost)
        self._undo.callback(self._timing.close)
        self._kernel_rows = _kernel_rows(self.programs.attach_kernel(self._options.sample_frequency))
        self.mark("attached")
        importer.join()
        if self._options.view:  # it may stay for hours
            footprint.give_back()

    def open(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Makes the recording, and all that fills it. `about`: of the target, for meta.json."""
        from bitnet_trace.capture.address_spaces import AddressSpaces
        from bitnet_trace.capture.debuggers import Debuggers
        from bitnet_trace.capture.drain import Drain
        from bitnet_trace.capture.libraries import ProbePlacer
        from bitnet_trace.capture.page_sizes import ResidencyLog

        options = self._options
        self._spaces = AddressSpaces()
        self._nodes = numa.nodes()
        several = numa.node_rows if len(self._nodes) > 1 else None
        self._residency = ResidencyLog(options.page_sizes, look_at_nodes=several)
        numbers = len(self._kernel_rows), options.functions, options.detail == "ops"
        self._placer = ProbePlacer(self.programs, self.parser, self._spaces, *numbers)
        at_end = (lambda pid: self._residency.at(pid, "end")) if options.page_sizes else None
        self.debuggers = Debuggers(self._placer, self.programs.hold, at_end)
        self.holder = self.debuggers.holder
        self.writer = self._writer_of(folder, about)
        self._undo.callback(self.writer.discard)
        if options.view:
            options.view.begin(self.timeline["started"], len(os.sched_getaffinity(0)))
            self.writer.sinks.append(options.view.fold.take)
        self.drain = Drain(self.programs, self.writer, self._spaces, self._residency)
        self._undo.callback(self.drain.close)

    def _writer_of(self, folder: Path, about: Mapping[str, Any]) -> "Writer":
        from bitnet_trace.capture.flights import Flights
        from bitnet_trace.recording.flight import FlightRecorder
        from bitnet_trace.recording.unrecorded import Unrecorded
        from bitnet_trace.recording.writer import Writer

        meta = {**about, **self._first_meta()}
        owner = (self._user.uid, self._user.gid) if self._user else None
        if self._options.ring_s:
            recorder = FlightRecorder(meta, self._options.ring_s)
            self.flights = Flights(recorder, folder, owner, self._options)
            return recorder
        return Writer(folder, meta, self._options.force, owner) if self._options.record else Unrecorded(meta)

    def begin(self) -> None:
        """The target is about to be traced: what that costs is counted from here on."""
        from bitnet_trace.capture.governor import Governor
        from bitnet_trace.capture.window_probes import BARRIERS, OPERATIONS
        from bitnet_trace.capture.windows import Windows

        self.mark("released")
        meter_of = self._placer.rows, lambda: int(self.windows.cpu_ns)
        self.meter = cost.Meter(self.programs, self._timing, self._around_ns, *meter_of)
        governor = Governor(self._options.overhead_budget_pct, self.meter.always_on_ns)
        placed = self._placer.windowed, self._placer.decode_cookies
        operations = [OPERATIONS] * (self._options.detail == "ops")
        asked = [f"{kind}:{name}" for name in self._options.functions for kind in ("function", "durations")]
        whats = [BARRIERS, *operations, *asked]
        layouts = self._placer.layouts
        self.windows = Windows(self.programs, *placed, governor, self._around_ns, whats, layouts)
        self._undo.callback(self.windows.stop)

    def give_up(self) -> None:
        """Takes back what was done, the recording too."""
        self._undo.close()

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def mark(self, name: str) -> None:
        self.timeline[name] = time.monotonic_ns()

    def record(self, step: Callable[[], Any]) -> None:
        """One step of recording. When the disk refuses, recording ends and the target goes on: it comes first."""
        if self.failure is not None:
            return
        try:
            step()
        except TraceError as error:
            self.failure = error
            self.holder.release_all()
            self.windows.stop()
            self.programs.detach()
            if "ended" not in self.timeline:
                # said now, for whom the program runs for hours
                tell("recording has ended, its folder cannot be written any more; the program goes on untraced")

    def turn(self, pid: int) -> None:
        """What is due of the recording and of probes; `pid`: of the target."""
        self.record(lambda: self.step(self._patience_s))
        self.debuggers.take(self.drain.take_news(), look=True)
        if self._options.page_sizes:
            self._residency.at(pid, "interval")

    def step(self, patience_s: float = 0.0) -> None:
        """Moves what the kernel sent into the recording; what can wait, when it has waited for `patience_s`."""
        self.drain.step(patience_s)
        # a program that has the engine in it was let go before its libraries were mapped: OpenMP's may be among them
        for pid in set(self.programs.computing()) - self._looked_at_again:
            self._looked_at_again.add(pid)
            self._placer.look_at(pid)
            self.windows.look_again(pid)
        self._write_windows()

    @property
    def _patience_s(self) -> float:
        options = self._options
        now = options.view or options.ring_s or options.page_sizes or options.counters or options.detail == "counts"
        return 0.0 if now else _PATIENCE_S

    def _write_windows(self) -> None:
        self.writer.windows(self.windows.take_rows())
        self.writer.calls(self.windows.take_call_rows())
        self.writer.durations(self.windows.take_duration_rows())

    def write_flight(self, why: str) -> str:
        """The flight recorder's recording of the last seconds; says where it is."""
        assert self.flights is not None
        self.record(self.step)
        return self.flights.write(
            why,
            self.meta,
            lambda found: symbols.symbol_rows(found, self._spaces, self.parser, self._options.debug_information),
        )

    def show(self, **more: Any) -> None:
        """A frame of the live view; `more`: its fields that only the run knows."""
        if self._options.view:
            losses = {**self.programs.losses(), **self.drain.losses}
            meta = {"engine": self._placer.engine, "command": self.writer.meta["command"]}
            lost = sum(losses.pop("events").values()) + sum(losses.values())
            self._options.view.update(meta, unattached(self._kernel_rows), lost=lost, **more)

    def show_names(self) -> None:
        """Functions that the live view shows by address only are asked for, and tensors."""
        if self._options.view:
            self._options.view.name_tensors(self.drain.files, self.parser)
            self._options.view.name_functions(self._spaces, self.parser)

    # ---- after its end ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Lets go of everything that the target's processes could wait for."""
        self.holder.release_all()
        self.windows.stop()

    def take_rest(self) -> None:
        """Records what is still in the kernel, and what the addresses of stacks mean."""
        self.programs.detach()
        self.record(lambda: self.drain.finish(time.monotonic_ns()))
        self.record(self._write_windows)
        self.debuggers.take(self.drain.take_news(), look=False)
        self._placer.finish()
        self._timing.close()
        sources = self.drain.samples.addresses, self._spaces, self.parser, self._options.debug_information
        self.record(lambda: self.writer.symbols(symbols.symbol_rows(*sources)))
        self.record(lambda: self.writer.tensors(models.tensor_rows(self.drain.files, self.parser, self._warnings)))
        self._spaces.close()
        self._placer.close()
        self.mark("drained")

    def let_go(self) -> None:
        """The kernel's side goes."""
        self.programs.close()
        self.mark("detached")

    def close(self, meta: dict[str, Any], exit_status: int | None, has_logs: bool) -> None:
        """Ends the recording; as much as there is room for where the disk is full. `has_logs`: the target's output was
        kept. Raises TraceError when recording had ended before."""
        self.record(lambda: self._close(meta, exit_status, has_logs))
        if self.failure:
            with contextlib.suppress(TraceError):
                self._close(meta, exit_status, has_logs)  # how it ended, and that it was cut short
            raise self.failure

    def _close(self, meta: dict[str, Any], exit_status: int | None, has_logs: bool) -> None:
        if self.failure:
            meta["warnings"].append(f"recording ended early: {self.failure.message}")
        said = self._engine_said(has_logs, meta["warnings"])
        self.writer.update_meta(
            **meta, timings_reported=said["timings"], buffers_reported=said["buffers"], timeline=dict(self.timeline)
        )
        self.writer.close(exit_status, cut_short=self.failure is not None)

    def _engine_said(self, has_logs: bool, warnings: list[str]) -> dict[str, Any]:
        nothing: dict[str, Any] = {"timings": [], "buffers": []}
        try:
            return self.parser.logs(self.writer.folder) if has_logs else nothing
        except TraceError as error:
            warnings.append(f"what the engine printed of its timings and buffers was not read: {error.message}")
            return nothing

    # ---- what is known of it ----------------------------------------------------------------------------------------

    def _first_meta(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "host": host.gather().to_dict(),
            "options": self._options.as_dict(),
            "start_ns": self.timeline["started"],
            "clock_offset_ns": time.time_ns() - time.monotonic_ns(),
            "probes": self._kernel_rows,
            "io_uring_opcodes": self.programs.io_uring_opcodes,
            "counters": self._counters.described if self._counters else [],
            "tlbs": cpuid.described(),
            "numa": self._nodes,
            "scan_results": self.programs.scan_results,
        }

    def meta(self, target_cpu_ns: int | None = None) -> dict[str, Any]:
        """What is known of the run at this moment; `target_cpu_ns`: what the target used, when it has ended."""
        parts = (self._placer, self.debuggers, self.drain, self._spaces, self.windows)
        return {
            "engine": self._placer.engine,
            "wall_ns": self.timeline.get("ended", time.monotonic_ns()) - self.timeline["released"],
            "probes": self._kernel_rows + self._placer.rows,
            "missing_roles": [{"role": role, "reason": reason} for role, reason in self._placer.missing],
            "losses": {**self.programs.losses(), **self.drain.losses},
            "received": self.drain.received,
            "taskstats": self.drain.taskstats,
            "io_uring_overflows": self.programs.io_uring_overflows(),
            "cost": self._cost(target_cpu_ns),
            "windows": self.windows.meta() if self._options.detail != "counts" else None,
            "neighbours": self.drain.neighbours,
            "huge_pages_asked": self._residency.asked,
            "vmstat": {name: n - self._vmstat.get(name, 0) for name, n in host.memory_events().items()},
            "warnings": [warning for part in parts for warning in part.warnings] + self._not_counted() + self._warnings,
        }

    def _not_counted(self) -> list[str]:
        calls = self.programs.calls_32_bit()
        return [f"{calls:,} system calls of 32-bit code: their time is counted, what they did is not"] if calls else []

    def _cost(self, target_cpu_ns: int | None) -> dict[str, Any]:
        parts = {
            **self.meter.parts(),
            "calibrated": self._calibrated,
            "ptrace_stops": self.holder.stops,
            "held_ns": self.holder.held_ns,
            "page_sizes_ns": self._residency.cost_ns,
        }
        if target_cpu_ns is None:
            return parts
        windows_ns = sum(self.windows.governor.spent_ns.values())
        return {**parts, **self.meter.estimate(target_cpu_ns, windows_ns)}


def _counters(names: Sequence[str]) -> "Counters | None":
    if not names:
        return None
    from bitnet_trace.capture.counters import Counters
    from bitnet_trace.capture.perf_events import find_events

    return Counters(find_events(names))


def _kernel_rows(attached: Mapping[str, str | None]) -> list[dict[str, Any]]:
    return [
        {"name": name, "role": None, "attached": reason is None, "reason": reason, "cost_class": "kernel"}
        for name, reason in attached.items()
    ]


def tell(line: str) -> None:
    """On stderr, if anybody reads that: it is no reason for the run to fail."""
    with contextlib.suppress(OSError):
        print(f"bitnet-trace: {line}", file=sys.stderr, flush=True)


def import_early() -> None:
    """Only to have it done early: an error comes again where the modules are used."""
    with contextlib.suppress(ImportError):
        import numpy.ma  # noqa: F401 — numpy.unique would at its first call: 20 ms of CPU time, while the target runs

        import bitnet_trace.capture.debuggers
        import bitnet_trace.capture.drain
        import bitnet_trace.capture.libraries
        import bitnet_trace.capture.taskstats
        import bitnet_trace.recording.writer

        bitnet_trace.capture.taskstats.import_pyroute2()

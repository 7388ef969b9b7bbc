"""One traced run, from the fork of the target to the end of its recording."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_trace import __version__, host
from bitnet_trace.analysis.health import unattached
from bitnet_trace.capture import (
    calibration,
    cost,
    cpuid,
    delay_accounting,
    footprint,
    identity,
    models,
    numa,
    output,
    symbols,
    target,
)
from bitnet_trace.capture.options import Options
from bitnet_trace.capture.parser import Parser
from bitnet_trace.capture.signals import Signals, die_of_interrupt
from bitnet_trace.errors import TraceError

# Each turn takes a CPU from a target that uses all of them: seldom while little happens, often when a ring fills.
_DRAIN_INTERVAL_S, _BUSY_INTERVAL_S = 1.0, 0.1
_FILL_SHARE = 0.1  # of a ring, between two turns
_META_INTERVAL_S = 5.0
_EARLY_S = 0.05  # a frame may come
_TO_END_S = 3.0  # that a program has which is asked to end
# after the target's end: how long its last output and its held descendants are waited for
_OUTPUT_GRACE_S = 0.5


@dataclass(frozen=True)
class Result:
    """`exit_status` is as subprocess.returncode has it: negative for a death by signal; None: it runs on. `meta` is
    meta.json.

    `interrupted`: it died of an interrupt from the terminal's keyboard.
    """

    recording: Path
    exit_status: int | None
    meta: Mapping[str, Any]
    interrupted: bool = False

    def exit_code(self) -> int:
        """As a shell has it: 128 + N for signal N. Does not return where the program was `interrupted`: so are we."""
        if self.interrupted:
            die_of_interrupt()
        status = self.exit_status or 0
        return status if status >= 0 else 128 - status


def trace(command: Sequence[str], options: Options) -> Result:
    """Runs a command under the tracer and records it. Returns when the command has ended.

    Raises TraceError when it cannot be traced or started, and leaves nothing behind then; also when the recording could
    not be finished (a full disk): what was written is readable, and the command ran to its end. KeyboardInterrupt: the
    user insisted; the command goes on untraced.
    """
    started_ns = time.monotonic_ns()
    host.require_supported()
    identity.require_root()
    user = identity.calling_user(os.environ, options.as_root)
    called_from = identity.caller(user)
    environment = identity.target_environment(os.environ, user, called_from, options.environment)
    program = identity.find_program(command[0], environment)
    folder = options.output or default_output(program)
    refuse_existing(folder, options)
    _open_standard_streams()
    with Signals() as signals, delay_accounting.switched_on(options.allow_system_changes):
        parser = Parser(user)  # before the pipe, which it would keep open
        folder_ready, folder_made = socket.socketpair()
        copy = output.start(folder_ready, user, signals.before) if options.keep_output else None
        target_ends = copy.target_ends if copy else None
        prepare = options.prepare
        launch = target.Launch(program, command, environment, user, called_from, signals.before, target_ends, prepare)
        child = target.start(launch, folder_made.fileno())
        folder_ready.close()
        if copy:
            copy.close_target_ends()
        run = Run(command, program, environment, options, user, signals, parser, child, copy, started_ns)
        try:
            run.prepare(folder, folder_made)
        except BaseException:
            child.abandon()
            run.give_up()
            raise
        finally:
            folder_made.close()
        return run.follow()


def _open_standard_streams() -> None:
    """Those that our caller has closed: else a pipe of ours would get the number, and be taken for one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def refuse_existing(folder: Path, options: Options) -> None:
    """Raises TraceError when there is something already where the recording is to be."""
    if (options.record or options.ring_s) and os.path.lexists(folder) and not options.force:
        raise TraceError(f"{folder} exists already", "choose another name with -o, or replace it with --force")


def default_output(program: str) -> Path:
    """NAME-DATE-TIME.btrace in the current folder."""
    return Path(f"{Path(program).name}-{time.strftime('%Y%m%d-%H%M%S')}.btrace")


class Run:
    """The state of one run; `prepare` until the target execs, `follow` until its end.

    capture/attach.py has another beginning and another end for a program that runs already.
    """

    def __init__(
        self,
        command: Sequence[str],
        program: str,
        environment: Mapping[str, str],
        options: Options,
        user: identity.Identity | None,
        signals: Signals,
        parser: Parser,
        child: target.Target,
        copy: output.OutputCopy | None,
        started_ns: int,
    ) -> None:
        self._command, self._program, self._environment, self._options = command, program, environment, options
        self._user, self._signals, self._parser = user, signals, parser
        self._child, self._copy = child, copy
        self._timeline = {"started": started_ns}
        self._programs: Any = None
        self._timing: Any = None
        self._drain: Any = None
        self._windows: Any = None
        self._writer: Any = None
        self._status: int | None = None
        self._target_cpu_ns: int | None = None
        self._copy_ended = copy is None
        self._log_cut_short = False
        self._failure: TraceError | None = None
        self._looked_at_again: set[int] = set()
        self._warnings: list[str] = []
        self._view = options.view
        self._flights: Any = None
        self._unwatched_until_s = 0.0

    _attaching = False

    # ---- before the target's first instruction ----------------------------------------------------------------------

    def prepare(self, folder: Path, folder_made: socket.socket) -> None:
        """Compiles, attaches, opens the recording, and lets the target exec. Where the output is copied the recording's
        folder is sent through `folder_made`."""
        self._load()
        self._open(folder)
        if self._copy:
            socket.send_fds(folder_made, [b"1"], [self._writer.folder])
        self._drain.begin(self._child.pid, {self._child.pid: Path(self._program).name}, time.monotonic_ns())
        if signal.SIGINT in signal.sigpending():
            raise KeyboardInterrupt
        self._programs.trace_child(self._child.pid)
        self._debuggers.seize(self._child.pid, self._program, self._environment)
        self._begin()
        self._child.release()

    def _load(self) -> None:
        """Compiles the programs and attaches them: all of the kernel's side but the engine's probes."""
        # importing pyarrow takes as long as compiling, which leaves the interpreter free
        importer = threading.Thread(target=import_early)
        importer.start()
        from bitnet_trace.capture.bpf import Programs

        host.mount_tracefs()
        self._vmstat = host.memory_events()
        self._around_ns, self._calibrated = calibration.costs_or_assumed()  # before anything is attached
        sampling = self._options.sample_frequency > 0
        self._counters = _counters(self._options.counters)
        self._programs = Programs(
            self._options.detail == "counts",
            self._options.rings,
            self._options.maps,
            sampling=sampling,
            attaching=self._attaching,
            counters=self._counters,
            operations=self._options.detail == "ops",
        )
        self._mark("loaded")
        self._timing = cost.StatsWindows(self._programs.cost)
        self._kernel_rows = _kernel_rows(self._programs.attach_kernel(self._options.sample_frequency))
        self._mark("attached")
        importer.join()
        if self._view:  # it may stay for hours
            footprint.give_back()

    def _open(self, folder: Path) -> None:
        """Makes the recording, and all that fills it."""
        from bitnet_trace.capture.address_spaces import AddressSpaces
        from bitnet_trace.capture.debuggers import Debuggers
        from bitnet_trace.capture.drain import Drain
        from bitnet_trace.capture.flights import Flights
        from bitnet_trace.capture.libraries import ProbePlacer
        from bitnet_trace.capture.page_sizes import ResidencyLog
        from bitnet_trace.recording.flight import FlightRecorder
        from bitnet_trace.recording.unrecorded import Unrecorded
        from bitnet_trace.recording.writer import Writer

        self._spaces = AddressSpaces()
        self._nodes = numa.nodes()
        several = numa.node_rows if len(self._nodes) > 1 else None
        self._residency = ResidencyLog(self._options.page_sizes, look_at_nodes=several)
        numbers = len(self._kernel_rows), self._options.functions, self._options.detail == "ops"
        self._placer = ProbePlacer(self._programs, self._parser, self._spaces, *numbers)
        at_end = (lambda pid: self._residency.at(pid, "end")) if self._options.page_sizes else None
        self._debuggers = Debuggers(self._placer, self._programs.hold, at_end)
        self._holder = self._debuggers.holder
        owner = (self._user.uid, self._user.gid) if self._user else None
        if self._options.ring_s:
            self._writer = FlightRecorder(self._first_meta(), self._options.ring_s)
            self._flights = Flights(self._writer, folder, owner, self._options)
            self._signals.keeps = {signal.SIGUSR1}
        elif self._options.record:
            self._writer = Writer(folder, self._first_meta(), self._options.force, owner)
        else:
            self._writer = Unrecorded(self._first_meta())
        if self._view:
            self._view.begin(self._timeline["started"], len(os.sched_getaffinity(0)))
            self._writer.sinks.append(self._view.fold.take)
        self._drain = Drain(self._programs, self._writer, self._spaces, self._residency)

    def _begin(self) -> None:
        """The target is about to be traced: what that costs is counted from here on."""
        from bitnet_trace.capture.governor import Governor
        from bitnet_trace.capture.windows import BARRIERS, OPERATIONS, Windows

        self._mark("released")
        meter_of = self._placer.rows, lambda: int(self._windows.cpu_ns)
        self._meter = cost.Meter(self._programs, self._timing, self._around_ns, *meter_of)
        governor = Governor(self._options.overhead_budget_pct, self._meter.always_on_ns)
        placed = self._placer.windowed, self._placer.decode_cookies
        operations = [OPERATIONS] * (self._options.detail == "ops")
        asked = [f"{kind}:{name}" for name in self._options.functions for kind in ("function", "durations")]
        whats = [BARRIERS, *operations, *asked]
        layouts = self._placer.layouts
        self._windows = Windows(self._programs, *placed, governor, self._around_ns, whats, layouts)

    def give_up(self) -> None:
        """Takes back what was done before it failed."""
        if self._windows:
            self._windows.stop()
        if self._timing:
            self._timing.close()
        if self._drain:
            self._drain.close()
        if self._programs:
            self._programs.close()
        if self._writer:
            self._writer.discard()

    def _first_meta(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "command": list(self._command),
            "program": self._program,
            "host": host.gather().to_dict(),
            "options": self._options.as_dict(),
            "start_ns": self._timeline["started"],
            "clock_offset_ns": time.time_ns() - time.monotonic_ns(),
            "probes": self._kernel_rows,
            "io_uring_opcodes": self._programs.io_uring_opcodes,
            "counters": self._counters.described if self._counters else [],
            "tlbs": cpuid.described(),
            "numa": self._nodes,
            "scan_results": self._programs.scan_results,
        }

    def _mark(self, name: str) -> None:
        self._timeline[name] = time.monotonic_ns()

    # ---- while it runs ---------------------------------------------------------------------------------------------

    def follow(self) -> Result:
        """Drains and handles stops until the target has ended; then ends the recording."""
        if self._options.detail != "counts":
            self._windows.start()
        last_drain = time.monotonic()
        next_meta = last_drain + _META_INTERVAL_S
        self._handle_ends()
        while not self._is_over():
            next_turn = min(last_drain + self._interval_s, self._meter.next_s)
            self._sleep(next_turn - time.monotonic())
            self._meter.step()
            if time.monotonic() >= last_drain + self._interval_s:
                self._record(self._step)
                self._debuggers.take(self._drain.take_news(), look=True)
                if self._options.page_sizes:
                    self._residency.at(self._pid, "interval")
                last_drain = time.monotonic()
                self._write_if_asked()
                self._show()
            if time.monotonic() >= next_meta:
                self._record(lambda: self._writer.update_meta(**self._meta()))
                next_meta = time.monotonic() + _META_INTERVAL_S
        self._mark("ended")
        self._meter.end()
        self._before_finish()
        self._show_now(status=self._how_it_ended(), ended=False)  # the last figures take a moment
        return self._finish()

    def _is_over(self) -> bool:
        if self._is_unwatched() and time.monotonic() > self._unwatched_until_s:
            return True
        return self._status is not None or self._signals.insisted

    def _is_unwatched(self) -> bool:
        """Whether its view was left and nothing is recorded: nobody sees it any more, and it is asked to end."""
        if self._view is None or not self._view.is_enough or self._options.record:
            return False
        if not self._unwatched_until_s:
            self._unwatched_until_s = time.monotonic() + _TO_END_S
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGTERM)
                os.kill(self._child.pid, signal.SIGCONT)  # or it would not see the other
        return True

    def _write_if_asked(self) -> None:
        """The flight recorder's recording: the user wants it, or a token was slow."""
        if self._flights is None:
            return
        by_user = self._signals.take_kept() or (self._view is not None and self._view.take_write())
        why = "asked for" if by_user else self._flights.slow_token(self._view.fold) if self._view else None
        if why:
            self._record(self._step)
            said = self._flights.write(
                why,
                self._meta,
                lambda found: symbols.symbol_rows(found, self._spaces, self._parser, self._options.debug_information),
            )
            if self._view:
                self._view.message = said
            tell(said)

    def _show(self) -> None:
        """The live view's frame, when it is due."""
        if self._view and not self._view.is_enough and time.monotonic() >= self._view.next_s - _EARLY_S:
            self._view.name_functions(self._spaces, self._parser)
            status = "stopped" if self._is_stopped() else "running"
            used_ns = self._view.fold.cpu_ns()
            overhead_pct = 100 * self._meter.always_on_ns(used_ns) / used_ns if used_ns else None
            self._show_now(status=status, ended=False, overhead_pct=overhead_pct)

    def _show_now(self, **more: Any) -> None:
        if self._view:
            losses = {**self._programs.losses(), **self._drain.losses}
            meta = {"engine": self._placer.engine, "command": self._command}
            lost = sum(losses.pop("events").values()) + sum(losses.values())
            blind = unattached(self._kernel_rows)
            self._view.update(meta, blind, lost=lost, pid=self._pid, **more)

    def _is_stopped(self) -> bool:
        return self._holder.is_stopped(self._pid)

    def _sleep(self, seconds: float) -> None:
        """For so long, or until something happened to the target."""
        self._signals.sleep(seconds, self._child.pid)
        self._write_if_asked()
        self._handle_ends()
        if self._signals.asked_to_stop and self._holder.is_stopped(self._child.pid):
            self._stop_too()

    def _before_finish(self) -> None:
        if self._status is not None:
            self._check_exec()

    @property
    def _pid(self) -> int:
        return self._child.pid

    @property
    def _interval_s(self) -> float:
        if self._debuggers.waiting:
            return _BUSY_INTERVAL_S
        longest_s = min(_DRAIN_INTERVAL_S, self._view.interval_s) if self._view else _DRAIN_INTERVAL_S
        return min(max(_FILL_SHARE / (self._drain.fill_rate or _FILL_SHARE), _BUSY_INTERVAL_S), longest_s)

    def _record(self, step: Any) -> None:
        """One step of recording. When the disk refuses, recording ends and the target goes on: it comes first."""
        if self._failure is not None:
            return
        try:
            step()
        except TraceError as error:
            self._failure = error
            self._holder.release_all()
            self._windows.stop()
            self._programs.detach()
            if self._status is None:
                # said now, for whom the program runs for hours
                tell("recording has ended, its folder cannot be written any more; the program goes on untraced")

    def _step(self) -> None:
        self._drain.step()
        # a program that has the engine in it was let go before its libraries were mapped: OpenMP's may be among them
        for pid in set(self._programs.computing()) - self._looked_at_again:
            self._looked_at_again.add(pid)
            self._placer.look_at(pid)
            self._windows.look_again(pid)
        self._write_windows()

    def _write_windows(self) -> None:
        self._writer.windows(self._windows.take_rows())
        self._writer.calls(self._windows.take_call_rows())
        self._writer.durations(self._windows.take_duration_rows())

    def _stop_too(self) -> None:
        """The target was stopped with all of its job: so are we, for our shell to see, until the job is continued.

        Not before: a program that handles or ignores the signal decides when, and whether, the job stops.
        """
        self._signals.stop()
        if self._holder.is_stopped(self._child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGCONT)  # whoever continued us only meant the program

    def _handle_ends(self) -> None:
        for pid, ended in self._holder.wait().items():
            if pid == self._child.pid:
                self._status = os.waitstatus_to_exitcode(ended.status)
                self._target_cpu_ns = ended.cpu_ns
            elif self._copy and pid == self._copy.pid:
                self._copy_ended = True
                if os.WIFEXITED(ended.status) and os.WEXITSTATUS(ended.status) == output.LOG_CUT_SHORT:
                    self._log_cut_short = True

    def _check_exec(self) -> None:
        """Raises TraceError, and leaves no recording, when the target was never more than our own child."""
        error = self._child.exec_error()
        if error is not None:
            self.give_up()
            hint = f"file {self._program}"
            raise TraceError(f"cannot run {self._program}: {error.strerror}", hint) from None

    # ---- after its end ---------------------------------------------------------------------------------------------

    def _finish(self) -> Result:
        self._holder.release_all()
        self._windows.stop()
        self._wait_for_output()
        self._programs.detach()
        self._record(lambda: self._drain.finish(time.monotonic_ns()))
        self._record(self._write_windows)
        self._debuggers.take(self._drain.take_news(), look=False)
        self._placer.finish()
        self._timing.close()
        sources = self._drain.samples.addresses, self._spaces, self._parser, self._options.debug_information
        self._record(lambda: self._writer.symbols(symbols.symbol_rows(*sources)))
        self._record(lambda: self._writer.tensors(models.tensor_rows(self._drain.files, self._parser, self._warnings)))
        self._spaces.close()
        self._placer.close()
        self._mark("drained")
        meta = self._meta()
        if self._view:
            overhead_pct = meta["cost"].get("overhead_pct_estimate")
            self._show_now(status=self._how_it_ended(), ended=True, overhead_pct=overhead_pct)
        self._programs.close()
        self._mark("detached")
        self._record(lambda: self._close(meta))
        if self._failure:
            with contextlib.suppress(TraceError):
                self._close(meta)  # as much as there is room for: how it ended, and that it was cut short
            raise self._failure
        return self._result()

    def _how_it_ended(self) -> str:
        """In words, for the live view."""
        if self._status is None:
            return "no longer traced"
        return f"ended by signal {-self._status}" if self._status < 0 else f"ended, exit code {self._status}"

    def _result(self) -> Result:
        if self._status is None and not self._is_unwatched():
            raise KeyboardInterrupt
        interrupted = self._signals.interrupted_by_key and self._status == -signal.SIGINT
        return Result(self._writer.path, self._status, self._writer.meta, interrupted)

    def _close(self, meta: dict[str, Any]) -> None:
        if self._log_cut_short:
            meta["warnings"].append("stdout.log or stderr.log is cut short: there was no room for it")
        if self._failure:
            meta["warnings"].append(f"recording ended early: {self._failure.message}")
        said = self._engine_said(meta["warnings"])
        self._writer.update_meta(
            **meta, timings_reported=said["timings"], buffers_reported=said["buffers"], timeline=dict(self._timeline)
        )
        self._writer.close(self._status, cut_short=self._failure is not None)

    def _wait_for_output(self) -> None:
        deadline = time.monotonic() + _OUTPUT_GRACE_S
        while (not self._copy_ended or self._holder.holds_any) and time.monotonic() < deadline:
            self._signals.sleep(deadline - time.monotonic(), None)
            self._handle_ends()

    def _meta(self) -> dict[str, Any]:
        """What is known of the run at this moment."""
        return {
            "engine": self._placer.engine,
            "wall_ns": self._wall_ns(),
            "probes": self._kernel_rows + self._placer.rows,
            "missing_roles": [{"role": role, "reason": reason} for role, reason in self._placer.missing],
            "losses": {**self._programs.losses(), **self._drain.losses},
            "received": self._drain.received,
            "taskstats": self._drain.taskstats,
            "io_uring_overflows": self._programs.io_uring_overflows(),
            "cost": self._cost(),
            "windows": self._windows.meta() if self._options.detail != "counts" else None,
            "neighbours": self._drain.neighbours,
            "huge_pages_asked": self._residency.asked,
            "vmstat": {name: n - self._vmstat.get(name, 0) for name, n in host.memory_events().items()},
            "warnings": [
                warning
                for part in (self._placer, self._debuggers, self._drain, self._spaces, self._windows)
                for warning in part.warnings
            ]
            + self._not_counted()
            + self._warnings,
        }

    def _not_counted(self) -> list[str]:
        calls = self._programs.calls_32_bit()
        return [f"{calls:,} system calls of 32-bit code: their time is counted, what they did is not"] if calls else []

    def _engine_said(self, warnings: list[str]) -> dict[str, Any]:
        nothing: dict[str, Any] = {"timings": [], "buffers": []}
        try:
            return self._parser.logs(self._writer.folder) if self._copy else nothing
        except TraceError as error:
            warnings.append(f"what the engine printed of its timings and buffers was not read: {error.message}")
            return nothing

    def _wall_ns(self) -> int:
        return self._timeline.get("ended", time.monotonic_ns()) - self._timeline["released"]

    def _cost(self) -> dict[str, Any]:
        parts = {
            **self._meter.parts(),
            "calibrated": self._calibrated,
            "ptrace_stops": self._holder.stops,
            "held_ns": self._holder.held_ns,
            "page_sizes_ns": self._residency.cost_ns,
        }
        if self._target_cpu_ns is None:
            return parts
        windows_ns = sum(self._windows.governor.spent_ns.values())
        return {**parts, **self._meter.estimate(self._target_cpu_ns, windows_ns)}


def _counters(names: Sequence[str]) -> Any:
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

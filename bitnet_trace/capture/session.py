"""One traced run, from the fork of the target to the end of its recording."""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from bitnet_trace import __version__, host
from bitnet_trace.capture import identity, output, target
from bitnet_trace.errors import TraceError

_DRAIN_INTERVAL_S = 0.2
_META_INTERVAL_S = 5.0
# after the target's end: how long its last output and its held descendants are waited for
_OUTPUT_GRACE_S = 0.5
_LOG_LIMIT = 64 << 20
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Options:
    """How a run is traced. `buffer_bytes`: of the event ring, a power of two."""

    output: Path | None = None
    force: bool = False
    detail: str = "events"
    keep_output: bool = True
    as_root: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    buffer_bytes: int = 64 << 20

    def as_dict(self) -> dict[str, Any]:
        return {"detail": self.detail, "buffer_bytes": self.buffer_bytes, "as_root": self.as_root}


@dataclass(frozen=True)
class Result:
    """`exit_status` is as subprocess.returncode has it: negative for a death by signal. `meta` is meta.json."""

    recording: Path
    exit_status: int
    meta: Mapping[str, Any]


def trace(command: Sequence[str], options: Options) -> Result:
    """Runs a command under the tracer and records it. Returns when the command has ended.

    Raises TraceError when it cannot be traced or started; nothing is left behind then.
    """
    started_ns = time.monotonic_ns()
    host.require_supported()
    if os.geteuid() != 0:
        raise TraceError("tracing needs root", "sudo bitnet-trace ... (the program itself still runs as you)")
    user = identity.calling_user(os.environ, options.as_root)
    environment = identity.target_environment(os.environ, user, options.environment)
    program = identity.find_program(command[0], environment)
    folder = options.output or default_output(program)
    if folder.exists() and not options.force:
        raise TraceError(f"{folder} exists already", "choose another name with -o, or replace it with --force")
    folder_ready, folder_signal = os.pipe()
    copy = None
    if options.keep_output:
        copy = output.start(folder, user, lambda: _told(folder_ready, folder_signal))
    child = target.start(program, command, environment, user, copy.target_ends if copy else None)
    os.close(folder_ready)
    if copy:
        copy.close_target_ends()
    run = _Run(command, program, options, user, child, copy, started_ns)
    try:
        run.prepare(folder, folder_signal)
    except BaseException:
        os.close(folder_signal)
        child.abandon()
        run.discard()
        raise
    return run.follow()


def default_output(program: str) -> Path:
    """NAME-DATE-TIME.btrace in the current folder."""
    return Path(f"{Path(program).name}-{time.strftime('%Y%m%d-%H%M%S')}.btrace")


def _told(read_end: int, write_end: int) -> bool:
    """In the output process: waits for the word that the recording's folder is there; False when there will be none."""
    os.close(write_end)
    return os.read(read_end, 1) != b""


class _Run:
    """The state of one run; `prepare` until the target execs, `follow` until its end."""

    def __init__(
        self,
        command: Sequence[str],
        program: str,
        options: Options,
        user: identity.Identity | None,
        child: target.Target,
        copy: output.OutputCopy | None,
        started_ns: int,
    ) -> None:
        self._command, self._program, self._options = command, program, options
        self._user, self._child, self._copy = user, child, copy
        self._timeline = {"started": started_ns}
        self._programs: Any = None
        self._writer: Any = None
        self._status: int | None = None
        self._copy_ended = copy is None
        self._interrupts = 0

    # ---- before the target's first instruction ----------------------------------------------------------------------

    def prepare(self, folder: Path, folder_signal: int) -> None:
        """Compiles, attaches, opens the recording, and lets the target exec."""
        # importing pyarrow takes as long as compiling, in which the interpreter is free: side by side
        importer = threading.Thread(target=_import_recording)
        importer.start()
        from bitnet_trace.capture.bpf import Programs, Rings

        host.mount_tracefs()
        self._programs = Programs(self._options.detail == "counts", Rings(events=self._options.buffer_bytes))
        self._mark("loaded")
        kernel_probes = self._programs.attach_kernel()
        self._mark("attached")
        importer.join()

        from bitnet_trace.capture.drain import Drain
        from bitnet_trace.capture.hold import Holder
        from bitnet_trace.capture.libraries import ProbePlacer
        from bitnet_trace.recording.writer import Writer

        self._placer = ProbePlacer(self._programs)
        self._holder = Holder(self._placer.look_at, self._programs.hold)
        owner = (self._user.uid, self._user.gid) if self._user else None
        self._writer = Writer(folder, self._first_meta(kernel_probes), self._options.force, owner)
        if self._copy:
            os.write(folder_signal, b"1")
        self._drain = Drain(self._programs, self._writer, self._child.pid, Path(self._program).name)
        self._programs.trace_child(self._child.pid)
        self._holder.seize(self._child.pid)
        self._catch_signals()
        self._mark("released")
        self._child.release()
        os.close(folder_signal)

    def discard(self) -> None:
        if self._programs:
            self._programs.close()

    def _first_meta(self, kernel_probes: Mapping[str, str | None]) -> dict[str, Any]:
        self._kernel_rows = [
            {"name": name, "role": None, "attached": reason is None, "reason": reason, "cost_class": "kernel"}
            for name, reason in kernel_probes.items()
        ]
        return {
            "version": __version__,
            "command": list(self._command),
            "program": self._program,
            "host": host.gather().to_dict(),
            "options": self._options.as_dict(),
            "start_ns": self._timeline["started"],
            "clock_offset_ns": time.time_ns() - time.monotonic_ns(),
            "probes": self._kernel_rows,
        }

    def _mark(self, name: str) -> None:
        self._timeline[name] = time.monotonic_ns()

    # ---- while it runs ------------------------------------------------------------------------------------------------

    def follow(self) -> Result:
        """Drains and handles stops until the target has ended; then ends the recording."""
        try:
            next_drain = time.monotonic() + _DRAIN_INTERVAL_S
            next_meta = time.monotonic() + _META_INTERVAL_S
            self._handle_ends()
            while self._status is None:
                self._sleep(next_drain - time.monotonic())
                self._handle_ends()
                if time.monotonic() >= next_drain:
                    self._drain.step()
                    next_drain = time.monotonic() + _DRAIN_INTERVAL_S
                if time.monotonic() >= next_meta:
                    self._writer.update_meta(**self._meta())
                    next_meta = time.monotonic() + _META_INTERVAL_S
            self._mark("ended")
            error = self._child.exec_error()
            if error is not None:
                self._programs.close()
                self._writer.discard()
                raise TraceError(f"cannot run {self._program}: {error.strerror}", "check it with: file " + self._program)
            return self._finish()
        finally:
            self._restore_signals()

    def _handle_ends(self) -> None:
        for pid, status in self._holder.wait().items():
            if pid == self._child.pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif self._copy and pid == self._copy.pid:
                self._copy_ended = True

    def _finish(self) -> Result:
        assert self._status is not None
        self._holder.release_all()
        self._wait_for_output()
        self._drain.finish()
        self._placer.finish()
        self._mark("drained")
        meta = self._meta()
        self._programs.close()
        self._mark("detached")
        self._writer.update_meta(**meta, timings_reported=self._reported_timings(), timeline=self._timeline)
        self._writer.close(self._status)
        return Result(self._writer.path, self._status, self._writer.meta)

    def _wait_for_output(self) -> None:
        deadline = time.monotonic() + _OUTPUT_GRACE_S
        while (not self._copy_ended or self._holder.holds) and time.monotonic() < deadline:
            self._sleep(deadline - time.monotonic())
            self._handle_ends()

    def _meta(self) -> dict[str, Any]:
        """What is known of the run at this moment."""
        cost = self._programs.cost()
        return {
            "engine": self._placer.engine,
            "wall_ns": self._timeline.get("ended", time.monotonic_ns()) - self._timeline["released"],
            "probes": self._kernel_rows + self._placer.rows,
            "missing_roles": [{"role": role, "reason": reason} for role, reason in self._placer.missing],
            "losses": self._programs.losses(),
            "received": self._drain.received,
            "cost": {**cost, "tracer_cpu_ns": time.process_time_ns(), "ptrace_stops": self._holder.stops},
            "warnings": self._placer.warnings + self._drain.warnings,
        }

    def _reported_timings(self) -> list[dict[str, Any]]:
        """The engine's own timing lines, wherever it printed them."""
        from bitnet_trace.engines.timings import parse_timings

        found = []
        for name in ("stdout.log", "stderr.log"):
            with contextlib.suppress(OSError), open(self._writer.path / name, "rb") as log:
                found += parse_timings(log.read(_LOG_LIMIT).decode(errors="replace"))
        return [asdict(timing) for timing in found]

    # ---- signals --------------------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        """SIGCHLD wakes the loop; what a process sends us goes to the target; a terminal's Ctrl-C has reached it already."""
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(wake_write, False)
        self._wake_write = wake_write
        self._old_wakeup = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, self._forward) for number in _FORWARDED}
        self._old_handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        self._old_handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupted)
        self._old_handlers[signal.SIGQUIT] = signal.signal(signal.SIGQUIT, lambda *_: None)

    def _restore_signals(self) -> None:
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self._status is None:
            os.kill(self._child.pid, number)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt

    def _sleep(self, seconds: float) -> None:
        """Until a signal (a child's stop among them) or the time is up."""
        if seconds > 0:
            select.select([self._wake_read], [], [], seconds)
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return


def _import_recording() -> None:
    """Fails where it is used, with the message that belongs there."""
    try:
        import bitnet_trace.capture.drain
        import bitnet_trace.recording.writer  # noqa: F401
    except ImportError as error:
        print(f"bitnet-trace: {error}", file=sys.stderr)

"""One traced run, from the fork of the target to the end of its recording."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitnet_trace import host
from bitnet_trace.capture import delay_accounting, identity, output, target
from bitnet_trace.capture.options import Options
from bitnet_trace.capture.parser import Parser
from bitnet_trace.capture.signals import Signals, die_of_interrupt
from bitnet_trace.capture.tracing import Tracing, tell
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
    called_from = replace(called_from, limits={**identity.lift_limits(), **called_from.limits})
    environment = identity.target_environment(os.environ, user, called_from, options.environment)
    program = identity.find_program(command[0], environment)
    folder = options.output or default_output(program)
    refuse_existing(folder, options)
    _open_standard_streams()
    with Signals() as signals, delay_accounting.switched_on(options.allow_system_changes):
        tracing = Tracing(
            options, user, Parser(user), started_ns
        )  # the parser before the pipe: it would keep that open
        folder_ready, folder_made = socket.socketpair()
        copy = output.start(folder_ready, user, signals.before) if options.keep_output else None
        target_ends = copy.target_ends if copy else None
        prepare = options.prepare
        launch = target.Launch(program, command, environment, user, called_from, signals.before, target_ends, prepare)
        child = target.start(launch, folder_made.fileno())
        folder_ready.close()
        if copy:
            copy.close_target_ends()
        run = Run(tracing, options, signals, child, copy)
        try:
            run.prepare(command, program, environment, folder, folder_made)
        except BaseException:
            child.abandon()
            tracing.give_up()
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
        tracing: Tracing,
        options: Options,
        signals: Signals,
        child: target.Target,
        copy: output.OutputCopy | None,
    ) -> None:
        self._tracing, self._options, self._signals = tracing, options, signals
        self._child, self._copy = child, copy
        self._program = ""
        self._status: int | None = None
        self._target_cpu_ns: int | None = None
        self._copy_ended = copy is None
        self._log_cut_short = False
        self._view = options.view
        self._unwatched_until_s = 0.0
        if options.ring_s:
            signals.keeps = {signal.SIGUSR1}

    # ---- before the target's first instruction ----------------------------------------------------------------------

    def prepare(
        self,
        command: Sequence[str],
        program: str,
        environment: Mapping[str, str],
        folder: Path,
        folder_made: socket.socket,
    ) -> None:
        """Compiles, attaches, opens the recording, and lets the target exec. Where the output is copied the recording's
        folder is sent through `folder_made`."""
        tracing, pid, self._program = self._tracing, self._child.pid, program
        tracing.load(attaching=False)
        tracing.open(folder, {"command": list(command), "program": program})
        if self._copy:
            socket.send_fds(folder_made, [b"1"], [tracing.writer.folder])
        tracing.drain.begin(pid, {pid: Path(program).name}, time.monotonic_ns())
        if signal.SIGINT in signal.sigpending():
            raise KeyboardInterrupt
        tracing.programs.trace_child(pid)
        tracing.debuggers.seize(pid, program, environment)
        tracing.begin()
        self._child.release()

    # ---- while it runs ---------------------------------------------------------------------------------------------

    def follow(self) -> Result:
        """Drains and handles stops until the target has ended; then ends the recording."""
        tracing = self._tracing
        if self._options.detail != "counts":
            tracing.windows.start()
        last_turn = time.monotonic()
        next_meta = last_turn + _META_INTERVAL_S
        self._handle_ends()
        while not self._is_over():
            next_turn = min(last_turn + self._interval_s, tracing.meter.next_s)
            self._sleep(next_turn - time.monotonic())
            tracing.meter.step()
            if time.monotonic() >= last_turn + self._interval_s:
                tracing.turn(self._pid)
                last_turn = time.monotonic()
                self._write_if_asked()
                self._show()
            if time.monotonic() >= next_meta:
                tracing.record(lambda: tracing.writer.update_meta(**tracing.meta()))
                next_meta = time.monotonic() + _META_INTERVAL_S
        self._handle_ends()  # the user insisted: by that it may have ended, during a long turn of ours
        tracing.mark("ended")
        tracing.meter.end()
        self._before_finish()
        tracing.show(pid=self._pid, status=self._how_it_ended(), ended=False)  # the last figures take a moment
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
        flights = self._tracing.flights
        if flights is None:
            return
        by_user = self._signals.take_kept() or (self._view is not None and self._view.take_write())
        why = "asked for" if by_user else flights.slow_token(self._view.fold) if self._view else None
        if why:
            said = self._tracing.write_flight(why)
            if self._view:
                self._view.message = said
            tell(said)

    def _show(self) -> None:
        """The live view's frame, when it is due."""
        if self._view and not self._view.is_enough and time.monotonic() >= self._view.next_s - _EARLY_S:
            self._tracing.show_names()
            status = "stopped" if self._is_stopped() else "running"
            used_ns = self._view.fold.cpu_ns()
            overhead_pct = 100 * self._tracing.meter.always_on_ns(used_ns) / used_ns if used_ns else None
            self._tracing.show(pid=self._pid, status=status, ended=False, overhead_pct=overhead_pct)

    def _is_stopped(self) -> bool:
        return self._tracing.holder.is_stopped(self._pid)

    def _sleep(self, seconds: float) -> None:
        """For so long, or until something happened to the target."""
        self._signals.sleep(seconds, self._child.pid)
        self._write_if_asked()
        self._handle_ends()
        if self._signals.asked_to_stop and self._tracing.holder.is_stopped(self._child.pid):
            self._stop_too()

    def _before_finish(self) -> None:
        if self._status is not None:
            self._check_exec()

    @property
    def _pid(self) -> int:
        return self._child.pid

    @property
    def _interval_s(self) -> float:
        if self._tracing.debuggers.waiting:
            return _BUSY_INTERVAL_S
        longest_s = min(_DRAIN_INTERVAL_S, self._view.interval_s) if self._view else _DRAIN_INTERVAL_S
        return min(max(_FILL_SHARE / (self._tracing.drain.fill_rate or _FILL_SHARE), _BUSY_INTERVAL_S), longest_s)

    def _stop_too(self) -> None:
        """The target was stopped with all of its job: so are we, for our shell to see, until the job is continued.

        Not before: a program that handles or ignores the signal decides when, and whether, the job stops.
        """
        self._signals.stop()
        if self._tracing.holder.is_stopped(self._child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGCONT)  # whoever continued us only meant the program

    def _handle_ends(self) -> None:
        for pid, ended in self._tracing.holder.wait().items():
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
            self._tracing.give_up()
            hint = f"file {self._program}"
            raise TraceError(f"cannot run {self._program}: {error.strerror}", hint) from None

    # ---- after its end ---------------------------------------------------------------------------------------------

    def _finish(self) -> Result:
        tracing = self._tracing
        tracing.stop()
        self._wait_for_output()
        tracing.take_rest()
        meta = tracing.meta(self._target_cpu_ns)
        overhead_pct = meta["cost"].get("overhead_pct_estimate")
        tracing.show(pid=self._pid, status=self._how_it_ended(), ended=True, overhead_pct=overhead_pct)
        tracing.let_go()
        if self._log_cut_short:
            meta["warnings"].append("stdout.log or stderr.log is cut short: there was no room for it")
        tracing.close(meta, self._exit_status(), has_logs=self._copy is not None)
        return self._result()

    def _exit_status(self) -> int | None:
        return self._status

    def _how_it_ended(self) -> str:
        """In words, for the live view."""
        if self._status is None:
            return "no longer traced"
        return f"ended by signal {-self._status}" if self._status < 0 else f"ended, exit code {self._status}"

    def _result(self) -> Result:
        if self._status is None and not self._is_unwatched():
            raise KeyboardInterrupt
        interrupted = self._signals.interrupted_by_key and self._status == -signal.SIGINT
        return Result(self._tracing.writer.path, self._status, self._tracing.writer.meta, interrupted)

    def _wait_for_output(self) -> None:
        deadline = time.monotonic() + _OUTPUT_GRACE_S
        while (not self._copy_ended or self._tracing.holder.holds_any) and time.monotonic() < deadline:
            self._signals.sleep(deadline - time.monotonic(), None)
            self._handle_ends()

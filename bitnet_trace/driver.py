"""Runs a command, traced or not, in a process of its own: what experiments and scripts use.

Each run is a fork of the caller, so that a run leaves nothing behind in it: no probes, no children, no blocked signals.
Untraced runs are started by the same code, as the same user, with the same environment, and observed from outside.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from bitnet_trace.capture import identity, target
from bitnet_trace.capture.options import Options
from bitnet_trace.capture.output import LOG_NAMES
from bitnet_trace.capture.parser import Parser
from bitnet_trace.errors import TraceError

PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_TAIL_BYTES = 2000
_MAX_PROCESSES = 1000


@dataclass(frozen=True)
class Ended:
    """A run that has ended. `exit_status` as subprocess.returncode has it; `timings`: what the engine printed, as
    engines.timings has it; `usage`: wall_ns; of an untraced program (wait4(2)) cpu_ns, faults and switches too; `said`:
    the end of what it wrote to stderr, of an untraced one that failed."""

    exit_status: int
    timings: list[dict[str, Any]]
    recording: Path | None = None
    usage: dict[str, int] = field(default_factory=dict)
    said: str = ""


class Running:
    """A run under way. `pid` of the program once it exists; wait for `done`, then take `result`."""

    def __init__(self, work: Callable[[int], dict[str, Any]], not_for_it: Sequence[int] = ()) -> None:
        """`work` is called in the run's own process, with where to write the program's number as soon as it exists.
        `not_for_it`: descriptors of ours that it closes."""
        self._answer, answer = os.pipe()
        self._number, number = os.pipe()
        self.pid: int | None = None
        self.rusage: Any = None
        self._data = bytearray()
        self._ended = False
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self._worker = fork()
        if self._worker == 0:
            for descriptor in (self._answer, self._number, *not_for_it):
                os.close(descriptor)
            _serve(work, answer, number, parent)
        os.close(answer)
        os.close(number)

    def wait(self, seconds: float) -> bool:
        """Waits at most so long; whether the run has ended."""
        deadline = time.monotonic() + seconds
        waiting = [self._answer] if self.pid else [self._answer, self._number]
        while not self._ended:
            ready, _, _ = select.select(waiting, [], [], max(deadline - time.monotonic(), 0))
            if self._number in ready:
                text = os.read(self._number, 32)
                waiting.remove(self._number)
                self.pid = int(text) if text else None
            if self._answer in ready:
                data = os.read(self._answer, 1 << 16)
                self._data += data
                if not data:
                    _, _, self.rusage = os.wait4(self._worker, 0)
                    os.close(self._answer)
                    os.close(self._number)
                    self._ended = True
            elif not ready or self.pid:
                break
        return self._ended

    def stop(self) -> None:
        """Ends the program and what it has started, politely at first; returns when the run has ended."""
        family = _Family(descendants(self.pid)) if self.pid is not None else _Family([])
        for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
            if self._ended:
                break
            if number == signal.SIGTERM:
                os.kill(self._worker, number)
            family.send(number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not self.wait(0.2):
                pass
        if not self._ended:
            os.kill(self._worker, signal.SIGKILL)
            while not self.wait(1.0):
                pass
        family.send(signal.SIGKILL)
        family.close()

    def result(self) -> Ended:
        """Raises TraceError where the run could not be made."""
        try:
            answer = json.loads(bytes(self._data))
        except ValueError:
            raise TraceError("the process of a run ended without a result", "dmesg may tell why") from None
        if "error" in answer:
            raise TraceError(answer["error"], answer["hint"])
        recording = Path(answer["recording"]) if answer.get("recording") else None
        return Ended(**{**answer, "recording": recording})


class _Family:
    """Processes, held by descriptors: a number is another process's once its own has ended."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._descriptors = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._descriptors.append(os.pidfd_open(pid))

    def send(self, number: int) -> None:
        for descriptor in self._descriptors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)


def descendants(pid: int) -> list[int]:
    """The process first."""
    found = [pid]
    for process in found:
        if len(found) > _MAX_PROCESSES:
            break
        with contextlib.suppress(OSError):
            for tid in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError):
                    found += map(int, Path(f"/proc/{process}/task/{tid}/children").read_text().split())
    return found


def start_traced(command: Sequence[str], options: Options, not_for_it: Sequence[int] = ()) -> Running:
    """A run under the tracer. Its output goes to the recording only."""

    def work(number: int) -> dict[str, Any]:
        from bitnet_trace.capture.session import trace

        done = trace(command, replace(options, prepare=_telling(number, options.prepare)))
        timings = list(done.meta.get("timings_reported", []))
        usage = {"wall_ns": done.meta["wall_ns"]}
        return {"exit_status": done.exit_status, "timings": timings, "recording": str(done.recording), "usage": usage}

    return Running(work, not_for_it)


def start_untraced(command: Sequence[str], options: Options, not_for_it: Sequence[int] = ()) -> Running:
    """The same run without the tracer; nothing of its output is kept but the timings."""

    def work(number: int) -> dict[str, Any]:
        return _untraced(command, replace(options, prepare=_telling(number, options.prepare)))

    return Running(work, not_for_it)


def run(command: Sequence[str], options: Options) -> Path:
    """Runs a command under the tracer; returns its recording. Raises TraceError, also where the command fails."""
    running = start_traced(command, options)
    try:
        while not running.wait(1.0):
            pass
    except BaseException:
        running.stop()
        raise
    ended = running.result()
    if ended.exit_status:
        raise TraceError(f"{command[0]} ended with {ended.exit_status}", f"bitnet-trace report {ended.recording}")
    assert ended.recording is not None
    return ended.recording


def command_line(
    engine: str,
    model: str | None,
    prompt: str | None,
    threads: int | None,
    tokens: int | None,
    arguments: Sequence[str],
) -> list[str]:
    """A command line that llama.cpp and its forks (BitNet, T-MAC, ik_llama.cpp) understand."""
    options = (("-m", model), ("-p", prompt), ("-t", threads), ("-n", tokens))
    words = [str(word) for name, value in options if value is not None for word in (name, value)]
    return [engine, *words, *arguments]


def environment_of(options: Options) -> dict[str, str]:
    """The environment that a run's program has."""
    user = identity.calling_user(os.environ, options.as_root)
    return identity.target_environment(os.environ, user, identity.caller(user), options.environment)


def fork() -> int:
    """os.fork in which no handler of a signal can raise: Python drops what is raised there. The child begins with the
    signals' defaults, and ignores what its caller ignored."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
        pid = os.fork()
        if pid == 0:
            for one in _FORWARDED:
                if signal.getsignal(one) is not signal.SIG_IGN:
                    signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(work: Callable[[int], dict[str, Any]], answer: int, number: int, parent: int) -> NoReturn:
    """No exception may leave it: a second copy of the caller would go on."""
    try:
        # told to go on with the program's end when the caller is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        try:
            found = work(number)
        except TraceError as error:
            found = {"error": error.message, "hint": error.hint}
        except OSError as error:
            found = {"error": f"{error.filename or 'a run'}: {error.strerror}", "hint": None}
        except KeyboardInterrupt:
            found = {"error": "interrupted", "hint": None}
        except Exception as error:
            found = {"error": f"internal error: {type(error).__name__}: {error}", "hint": "report it"}
        data = json.dumps(found).encode()
        while data:
            data = data[os.write(answer, data) :]
    finally:
        os._exit(0)


def _telling(number: int, prepare: Callable[[], None] | None) -> Callable[[], None]:
    def tell() -> None:
        if prepare is not None:
            prepare()
        os.write(number, str(os.getpid()).encode())

    return tell


def _untraced(command: Sequence[str], options: Options) -> dict[str, Any]:
    user = identity.calling_user(os.environ, options.as_root)
    called_from = identity.caller(user)
    environment = identity.target_environment(os.environ, user, called_from, options.environment)
    program = identity.find_program(command[0], environment)
    parser = Parser(user)
    with tempfile.TemporaryDirectory(prefix="bitnet-trace-") as folder:
        logs = [os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL) for name in LOG_NAMES]
        ends = (logs[0], logs[1])
        launch = target.Launch(program, command, environment, user, called_from, set(), ends, options.prepare)
        unused = os.open(os.devnull, os.O_RDONLY)
        child = target.start(launch, unused)
        for one in _FORWARDED:
            # the program is told; it has at most as long to end as our caller leaves it
            signal.signal(one, lambda got, _frame: _Family(descendants(child.pid)).send(got))
        begin_ns = time.monotonic_ns()
        child.release()
        error = child.exec_error()
        _, status, usage = os.wait4(child.pid, 0)
        wall_ns = time.monotonic_ns() - begin_ns
        if error is not None:
            raise TraceError(f"cannot run {program}: {error.strerror}", f"file {program}")
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        timings = parser.logs(directory)["timings"]
        parser.close()
        exit_status = os.waitstatus_to_exitcode(status)
        return {
            "exit_status": exit_status,
            "timings": timings,
            "usage": _usage(usage, wall_ns),
            "said": _tail(Path(folder) / LOG_NAMES[1]) if exit_status else "",
        }


def _usage(usage: Any, wall_ns: int) -> dict[str, int]:
    return {
        "wall_ns": wall_ns,
        "cpu_ns": round((usage.ru_utime + usage.ru_stime) * 1e9),
        "faults_minor": usage.ru_minflt,
        "faults_major": usage.ru_majflt,
        "switches_voluntary": usage.ru_nvcsw,
        "switches_involuntary": usage.ru_nivcsw,
        "rss_peak_bytes": usage.ru_maxrss << 10,
    }


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
        return file.read(_TAIL_BYTES).decode(errors="replace")

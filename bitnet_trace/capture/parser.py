"""A process without root that reads what the target's side wrote: programs, libraries, logs.

The tracer opens a file and hands over the open descriptor; an answer is JSON. What a damaged or hostile file can do is
done to a process that has no rights but the user's, a limit on its memory, and a deadline.
"""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, NoReturn

from bitnet_trace.capture import footprint, helper
from bitnet_trace.capture.identity import NOBODY, Identity
from bitnet_trace.capture.output import LOG_NAMES
from bitnet_trace.engines.libraries import Links
from bitnet_trace.errors import TraceError

_DEADLINE_S = 20.0
_IDLE_S = 5.0
_CPU_LIMIT_S = 60
_MEMORY_LIMIT_BYTES = 4 << 30  # address space: a 200 MB library is mapped, not read
_LOG_LIMIT_BYTES = 64 << 20
_MESSAGE_LIMIT_BYTES = 16 << 20

# what a terminal and a shell send to all of a job
_JOB_SIGNALS = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU
)  # fmt: skip

Answer = dict[str, Any]


class Parser:
    """The tracer's end. Requests are made one at a time."""

    def __init__(self, user: Identity | None) -> None:
        """Forks the process. `user` is whom it becomes; None: nobody."""
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.pid = os.fork()
        if self.pid == 0:
            _serve(other, user or NOBODY)
        other.close()

    def resolve(self, file: BinaryIO, path: str, functions: Sequence[str] = (), operations: bool = False) -> Answer:
        """What is to be probed in an open file: the fields of `engines.resolve.Resolution`.

        `functions`: names of functions whose calls are to be counted, as patterns (engines/names.py);
        `operations`: those of the engine's graph are to be probed.

        Raises TraceError: it is damaged, or more than the parser may take.
        """
        return self._ask({"resolve": path, "functions": list(functions), "operations": operations}, [file.fileno()])

    def inventory(self, file: BinaryIO, path: str, engine: str | None, recognised: bool) -> Answer:
        """What the functions of an open file are for: the fields of `engines.inventory.Inventory`, which see.

        Raises TraceError, as resolve().
        """
        return self._ask({"inventory": path, "engine": engine, "recognised": recognised}, [file.fileno()])

    def symbolize(self, file: BinaryIO, path: str, offsets: Sequence[int], patient: bool) -> list[Answer]:
        """What is at those offsets of an open file, in their order: the fields of `engines.symbolize.Place`, which see.

        Raises TraceError: it is damaged, or more than the parser may take.
        """
        with open(os.memfd_create("offsets"), "w+b") as wanted:
            wanted.write(json.dumps(list(offsets)).encode())
            wanted.seek(0)  # where the other process begins to read: the descriptor's position is shared
            request = {"symbolize": path, "patient": patient}
            found: list[Answer] = self._ask(request, [file.fileno(), wanted.fileno()])["places"]
        return found

    def links(self, file: BinaryIO, path: str) -> Links:
        """What an open file says of the libraries that it needs. Raises TraceError, as resolve()."""
        return Links(**self._ask({"links": path}, [file.fileno()]))

    def tensors(self, file: BinaryIO, path: str) -> list[Answer]:
        """The tensors of an open model file: fields of `engines.model_file.Tensor`. Raises TraceError, as resolve()."""
        found: list[Answer] = self._ask({"tensors": path}, [file.fileno()])["tensors"]
        return found

    def logs(self, folder: int) -> Answer:
        """What the engine printed, in the logs of a recording, whose folder is open as `folder`.

        `timings`: its timing lines; `buffers`: [what for, bytes] of those it allocated.
        """
        logs = [log for name in LOG_NAMES if (log := _open_log(folder, name)) is not None]
        try:
            return self._ask({"logs": len(logs)}, logs) if logs else {"timings": [], "buffers": []}
        finally:
            for log in logs:
                os.close(log)

    def close(self) -> None:
        """The process ends when it sees that nobody asks any more."""
        self._socket.close()

    def _ask(self, request: Answer, descriptors: list[int]) -> Answer:
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], descriptors)
            answer = self._receive()
        except (OSError, ValueError, EOFError) as error:
            self._give_up()
            raise TraceError(f"the file parser failed ({error or 'it ended'})", "report it with the file") from None
        if "error" in answer:
            raise TraceError(answer["error"], answer.get("hint"))
        return answer

    def _receive(self) -> Answer:
        data = b""
        deadline = time.monotonic() + _DEADLINE_S
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([self._socket], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise ValueError(f"no answer within {_DEADLINE_S:.0f} s")
            more = self._socket.recv(1 << 16)
            if not more:
                raise EOFError
            data += more
            if len(data) > _MESSAGE_LIMIT_BYTES:
                raise ValueError("the answer is too long")
        answer = json.loads(data)
        if not isinstance(answer, dict):
            raise ValueError("the answer is no answer")
        return answer

    def _give_up(self) -> None:
        """It hangs or is dead: the next request is refused at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._socket.close()


def _open_log(folder: int, name: str) -> int | None:
    """None when there is none: the folder is the user's, who may have put there what they like."""
    try:
        # O_NONBLOCK: a FIFO would wait for somebody to write
        log = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(log).st_mode):
        return log
    os.close(log)
    return None


# ---- the other process ------------------------------------------------------------------------------------------


def _serve(connection: socket.socket, user: Identity) -> NoReturn:
    """Answers until the tracer closes its end. Never returns: a second copy of the tool would go on."""
    try:
        for number in _JOB_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # it ends with the tracer
        helper.keep_only(connection.fileno())
        # our own code first: it may lie where that user cannot read it
        from bitnet_trace.engines import buffers, inventory, libraries, model_file, resolve, symbolize, timings
        from bitnet_trace.engines.probes import load_probe_sets
        from bitnet_trace.engines.roles import known_roles
        from bitnet_trace.engines.shapes import known_shapes

        answers = _Answers(
            load_probe_sets(),
            resolve.resolve,
            libraries.links,
            timings.parse_timings,
            buffers.parse_buffers,
            symbolize.symbolize,
            inventory.inventory,
            model_file.tensors,
        )
        known_roles(), known_shapes()  # from files too
        if os.geteuid() == 0:
            user.assume()
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        questions = select.poll()
        questions.register(connection, select.POLLIN)
        while True:
            if not questions.poll(_IDLE_S * 1000):
                footprint.trim()  # most is asked at the beginning, and tables of large files are large
            line, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 4)
            if not line:
                break
            answer = answers.to(json.loads(line), descriptors)
            connection.sendall(json.dumps(answer).encode() + b"\n")
    finally:
        os._exit(0)


@dataclass(frozen=True)
class _Answers:
    """What can be asked. The functions are given: their modules are imported while they can be read."""

    probe_sets: Sequence[Any]
    resolve: Callable[..., Any]
    links: Callable[..., Any]
    parse_timings: Callable[[str], list[Any]]
    parse_buffers: Callable[[str], list[Any]]
    symbolize: Callable[..., list[Any]]
    inventory: Callable[..., Any]
    tensors: Callable[..., list[Any]]

    def to(self, request: Answer, descriptors: list[int]) -> Answer:
        try:
            if "logs" in request:
                return self._logs(descriptors)
            with open(descriptors[0], "rb", closefd=False) as file:
                if "symbolize" in request:
                    return _in_a_child(lambda: self._places(file, request, descriptors[1]))
                if "inventory" in request:
                    arguments = request["inventory"], request["engine"], request["recognised"]
                    return _in_a_child(lambda: asdict(self.inventory(file, *arguments, self.probe_sets)))
                if "tensors" in request:
                    return {"tensors": [asdict(one) for one in self.tensors(file, request["tensors"])]}
                if "links" in request:
                    return dict(self.links(file, request["links"])._asdict())
                # the fields of engines.resolve.Resolution, as JSON has them
                wanted = request["functions"], request["operations"]
                return asdict(self.resolve(file, request["resolve"], self.probe_sets, *wanted))
        except TraceError as error:
            return {"error": error.message, "hint": error.hint}
        except (MemoryError, RecursionError, ValueError, OSError) as error:
            asked = (request.get(name) for name in ("resolve", "symbolize", "inventory", "links", "tensors"))
            what = next((path for path in asked if path), "the logs")
            return {"error": f"{what} cannot be read: {type(error).__name__} {error}"}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _places(self, file: BinaryIO, request: Answer, offsets: int) -> Answer:
        with open(offsets, "rb", closefd=False) as wanted:
            places = self.symbolize(file, request["symbolize"], json.loads(wanted.read()), request["patient"])
        return {"places": [asdict(one) for one in places]}

    def _logs(self, descriptors: list[int]) -> Answer:
        timings, buffers = [], []
        for descriptor in descriptors:
            with open(descriptor, "rb", closefd=False) as log:
                text = log.read(_LOG_LIMIT_BYTES).decode(errors="replace")
            timings += self.parse_timings(text)
            buffers += self.parse_buffers(text)
        return {"timings": [asdict(timing) for timing in timings], "buffers": buffers}


def _in_a_child(work: Callable[[], Answer]) -> Answer:
    """What reads debug information ends its process when it runs out of memory: other files are still to be read.

    Raises TraceError as `work` does, ValueError when the child ended without an answer.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (_CPU_LIMIT_S, _CPU_LIMIT_S))  # should nobody wait any more
            try:
                answer = work()
            except TraceError as error:
                answer = {"error": error.message, "hint": error.hint}
            except Exception as error:
                answer = {"failed": f"{type(error).__name__} {error}"}
            with open(writer, "wb") as pipe:
                pipe.write(json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read(_MESSAGE_LIMIT_BYTES)
    _, status = os.waitpid(child, 0)
    if not data or status:
        raise ValueError(f"its reader ended ({os.waitstatus_to_exitcode(status)})")
    found: Answer = json.loads(data)
    if "failed" in found:
        raise ValueError(found["failed"])
    return found

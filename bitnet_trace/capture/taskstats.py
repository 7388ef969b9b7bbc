"""The kernel's own accounting of each thread, received at its exit: taskstats over generic netlink, through pyroute2.

Documentation/accounting/taskstats.rst. The kernel sends a message to whoever has registered for the CPU that a thread
exits on, of every thread on the system; those of the target are kept. The message is sent before the thread's exit
is told by its tracepoint, so when that is known, the message is there or was lost.
"""

import contextlib
import errno
import importlib.util
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bitnet_trace.capture import delay_accounting
from bitnet_trace.capture.taskstats_layout import decode, to_row

_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
_IO_ACCOUNTS = Path("/proc/self/io")
# A message takes some 2.5 KB of it: room for thousands of exits between two reads.
_BUFFER_BYTES = 16 << 20
_LARGEST_MESSAGE = 1 << 16
_SO_MEMINFO, _SK_MEMINFO_DROPS, _MEMINFO_WORDS = 55, 8, 9  # asm-generic/socket.h, linux/sock_diag.h
_NLMSG_ERROR = 2
_HEADERS = 20  # of netlink (16 bytes) and generic netlink (4)
_TYPE_PID, _TYPE_STATS, _TYPE_AGGREGATE = 1, 3, 4  # TASKSTATS_TYPE_PID, _STATS, _AGGR_PID

Row = dict[str, Any]


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tid, struct taskstats) of each message about one thread in what one read of the socket gave.

    Raises OSError for an error message of the kernel's. What is cut short is left out.
    """
    position = 0
    while position + 16 <= len(data):
        length, kind = struct.unpack_from("<IH", data, position)
        end = position + max(length, 16)
        if kind == _NLMSG_ERROR and position + 20 <= len(data):
            (number,) = struct.unpack_from("<i", data, position + 16)
            if number:
                raise OSError(-number, os.strerror(-number))
        elif kind != _NLMSG_ERROR:
            for name, value in _attributes(data[position + _HEADERS : end]):
                parts = dict(_attributes(value)) if name == _TYPE_AGGREGATE else {}
                if len(parts.get(_TYPE_PID, b"")) == 4 and len(parts.get(_TYPE_STATS, b"")) >= 2:
                    yield int.from_bytes(parts[_TYPE_PID], "little"), parts[_TYPE_STATS]
        position = end + 3 & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("<HH", data, position)
        if length < 4:
            return
        yield kind & 0x3FFF, data[position + 4 : position + length]  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
        position += length + 3 & ~3


class Taskstats:
    """Our registration for the exits of all threads. Nothing raises: where the kernel refuses, `reason` says why.

    `delay_reason`: why disk and memory delays are missing; None when they are not. `version`: the kernel's, once known.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.version: int | None = None
        self.delay_reason = delay_accounting.why_off()
        self._io_accounted = _IO_ACCOUNTS.exists()
        self._received: list[tuple[int, bytes]] = []
        self._waiting: list[tuple[int, bytes]] = []  # of threads that were not known at the last turn
        self._taken: set[tuple[int, int]] = set()  # (tid, start_ns)
        self._dropped = 0
        self._registration: Any = None
        self._socket: socket.socket | None = None
        try:
            self._register(_POSSIBLE_CPUS.read_text().strip())
        except ImportError as error:
            self.reason = f"pyroute2 cannot be imported ({error})"
        except Exception as error:  # pyroute2 has errors of its own, and of the event loop below it
            self.reason = f"the kernel's taskstats cannot be had: {error}"
        if self.reason is not None:
            self.close()

    def _register(self, cpus: str) -> None:
        self._cpus = cpus
        self._registration = _open()
        # pyroute2 would read through an event loop, which queues exits of the whole system in memory and gives the
        # socket up at its first ENOBUFS: its descriptor is read here instead
        self._socket = socket.socket(fileno=os.dup(self._registration.fileno()))
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), _BUFFER_BYTES)
        self._registration.register_mask(cpus)
        self._receive()  # a refusal is there at once

    def _receive(self) -> None:
        """Takes what has arrived. Raises OSError where the kernel sent an error."""
        if self._socket is None:
            return
        while True:
            try:
                data = self._socket.recv(_LARGEST_MESSAGE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue  # told once for any number of lost messages: `dropped` has it
                raise
            self._received.extend(messages(data))

    @property
    def dropped(self) -> int:
        """Messages that found no room in the socket's buffer: of any thread on the system."""
        if self._socket is None:
            return self._dropped
        words = struct.calcsize(f"{_MEMINFO_WORDS}I")
        try:
            data = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, words)
        except OSError:
            return 0
        return int(struct.unpack_from("I", data, 4 * _SK_MEMINFO_DROPS)[0]) if len(data) >= words else 0

    def take(self, threads: Mapping[int, Mapping[str, Any]]) -> list[Row]:
        """Rows (schema.TASKSTATS_SCHEMA) of the target's threads that have exited since the last call.

        `threads`: the last row of schema.THREAD_SCHEMA of each tid, at least as new as the call before this one.
        """
        with contextlib.suppress(OSError):
            self._receive()
        known_before = set(self._taken)
        rows: list[Row] = []
        waiting = []
        for is_new, (tid, payload) in [
            *((False, one) for one in self._waiting),
            *((True, one) for one in self._received),
        ]:
            thread = threads.get(tid)
            if thread is None:
                if is_new:  # its fork may be told in the next turn; if not, it is somebody else's
                    waiting.append((tid, payload))
                continue
            key = (tid, thread["start_ns"])
            if key in known_before and thread["exit_code"] is not None:
                continue  # the number of a thread that ended has been given to somebody else's
            row = self._row("exit", tid, thread["pid"], payload)
            if row is not None:
                self._taken.add(key)
                rows.append(row)
        self._received, self._waiting = [], waiting
        return rows

    def _row(self, at: str, tid: int, pid: int, payload: bytes) -> Row | None:
        """None: the message is of a thread of another process."""
        stats = decode(payload)
        self.version = stats["version"]
        if stats.get("ac_tgid", pid) != pid:
            return None
        # before 5.14 there was no switch, and nothing of delays at all without the boot parameter
        delays = self.delay_reason is None or (not delay_accounting.SWITCH.exists() and bool(stats.get("cpu_count")))
        return {"at": at, "tid": tid, "pid": pid, **to_row(stats, delays, self._io_accounted)}

    def lost(self, threads: Mapping[int, Mapping[str, Any]]) -> int:
        """Threads whose exit is known (`exit_code` is set) and whose message was not received."""
        if self.reason is not None:
            return 0
        ended = {(tid, row["start_ns"]) for tid, row in threads.items() if row["exit_code"] is not None}
        return len(ended - self._taken)

    def of_running(self, threads: Mapping[int, Mapping[str, Any]]) -> list[Row]:
        """Rows of those threads that have not ended, asked for one by one: what they have used so far."""
        alive = [row for row in threads.values() if row["end_ns"] is None]
        if self.reason is not None or not alive:
            return []
        rows = []
        # A socket of its own: on the registered one an exit's number may be taken for that of the answer.
        with contextlib.suppress(Exception), _open() as asking:
            for thread in alive:
                with contextlib.suppress(Exception):  # it has ended meanwhile
                    (answer,) = asking.get_pid_stat(thread["tid"])
                    for tid, payload in messages(bytes(answer.data)):
                        if row := self._row("running", tid, thread["pid"], payload):
                            rows.append(row)
        return rows

    def meta(self) -> dict[str, Any]:
        """What a recording says of it."""
        return {
            "version": self.version,
            "reason": self.reason,
            "delay_reason": self.delay_reason,
            "dropped_messages": self.dropped,
        }

    def close(self) -> None:
        """Ends the registration."""
        if self._registration is not None:
            with contextlib.suppress(Exception):
                self._registration.deregister_mask(self._cpus)
            with contextlib.suppress(Exception):
                self._registration.close()
        self._dropped = self.dropped
        if self._socket is not None:
            self._socket.close()
        self._registration = self._socket = None


def import_pyroute2() -> Any:
    """pyroute2's class TaskStats. Raises ImportError.

    The package's own __init__ imports all of it, and the target would start 0.12 s later for that: the package is
    stood in for while the one module is imported. Who imports pyroute2 afterwards gets the whole of it.
    """
    loaded = sys.modules.get("pyroute2.netlink.taskstats")
    if loaded is not None:
        return loaded.TaskStats
    spec = importlib.util.find_spec("pyroute2")
    if spec is None or "pyroute2" in sys.modules:
        from pyroute2.netlink.taskstats import TaskStats

        return TaskStats
    sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module("pyroute2.netlink.taskstats").TaskStats
    finally:
        del sys.modules["pyroute2"]


def _open() -> Any:
    """pyroute2's socket for taskstats, with the number of the generic netlink family found."""
    opened = import_pyroute2()()
    try:
        opened.asyncore.module_err_level = "debug"  # that the kernel lacks it is ours to say
        opened.bind()
    except BaseException:
        opened.close()
        raise
    return opened

"""The BPF programs: loaded, attached, asked for what they know."""

import contextlib
import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_trace import host
from bitnet_trace.capture import btf, compiler, syscalls, tracepoints
from bitnet_trace.capture.sizes import Maps, Rings
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.header import Kind, Role

if TYPE_CHECKING:
    from bitnet_trace.capture.counters import Counters

TRACEPOINTS = (
    "task_newtask",
    "sched_process_exec",
    "sched_process_exit",
    "task_rename",
    "sched_switch",
    "sched_wakeup",
    "sched_wakeup_new",
    "sched_migrate_task",
    "page_fault_user",
    "page_fault_kernel",
    "sys_enter",
    "sys_exit",
)
# the frequent ones: their programs read what they are given by plain loads and not by a helper's call
_TYPED = frozenset({"sys_enter", "sys_exit"})

_LOST_OTHER = ("tasks", "threads", "processes", "counters", "phases", "io_requests", "samples", "ticks")
_IO_OVERFLOWS, _CALLS_32_BIT = len(_LOST_OTHER), len(_LOST_OTHER) + 1
FIRST_PHASE = 1
_EXPECTED = 2  # enum armed of bpf/state.bpf.c
WINDOW_PROGRAMS = ("enter_barrier", "count_function", "enter_function", "leave_function")
OPERATION_PROGRAM = "enter_operation"
_MAX_PROBES = 1024
_PERF_TYPE_SOFTWARE, _CPU_CLOCK, _PAGE_FAULTS_MIN, _PAGE_FAULTS_MAJ = 1, 0, 5, 6


class Programs:
    """All programs of one recording, loaded; attached by the methods below; gone after close().

    `counting`: keep counters in a kernel map (--detail counts) instead of streaming each event. `extra`: a source that
    is compiled behind ours, for programs that use our maps and functions. `sampling`: stacks of long waits too;
    `operations`: the program for operations of the graph; `counters`: perf's, which are read where threads have their
    edges; `attaching`: threads may have run before, see expect(). Raises TraceError when the kernel refuses.
    """

    def __init__(
        self,
        counting: bool,
        rings: Rings,
        maps: Maps | None = None,
        extra: Path | None = None,
        sampling: bool = False,
        attaching: bool = False,
        counters: "Counters | None" = None,
        operations: bool = False,
    ) -> None:
        bcc = compiler.import_bcc()
        kernel = compiler.kernel(counting)
        self.scan_results = tracepoints.names_by_number(kernel.btf.enumerators("scan_result"))
        self.io_uring_opcodes = kernel.io_uring_opcodes
        self._tracepoints = {name: f"on_{name}" for name in TRACEPOINTS} | dict(kernel.attach)
        self._missing = kernel.missing
        self.counting, self.rings = counting, rings
        self.counters = counters if counters and counters.events else None
        constants = {**kernel.constants, **(self.counters.constants if self.counters else {})}
        choices = {"DETAIL_COUNTS": counting, "SAMPLING": sampling, "ATTACHING": attaching, "OPERATIONS": operations}
        flags = compiler.flags(constants, rings, maps or Maps(), [name for name, chosen in choices.items() if chosen])
        self._links: list[int] = []
        self._not_held = 0
        self._sample_frequency = self._stolen_before_ns = self._lost_ticks = 0
        self._windows_opened = 0
        with compiler.explained():
            self._bpf = compiler.compiled(bcc, flags, extra)
            self._loaded = {
                name: self._load_tracepoint(bcc, kernel.btf, name, function)
                for name, function in self._tracepoints.items()
            }
            for name in ("fault_minor", "fault_major", "take_sample"):
                self._loaded[name] = self._bpf.load_func(name, bcc.BPF.PERF_EVENT).fd
            if self.counters:
                self.counters.connect(self._bpf["counter_events"].map_fd)
            self._engine_program, self._multi = self._load_uprobe(bcc, "engine_probe")
            window_programs = (*WINDOW_PROGRAMS, *[OPERATION_PROGRAM] * operations)
            self._window_programs = {name: self._load_uprobe(bcc, name)[0] for name in window_programs}

    def _load_tracepoint(self, bcc: Any, kernel: btf.Btf, name: str, function: str) -> int:
        type_id = kernel.tracepoint_type(name) if name in _TYPED else None
        if type_id is None:
            return int(self._bpf.load_func(function, bcc.BPF.RAW_TRACEPOINT).fd)
        return syscalls.load_tracepoint_program(self._bpf.dump_func(function), function, type_id)

    def _load_uprobe(self, bcc: Any, name: str) -> tuple[int, bool]:
        """A uprobe program: for many probes at once where the kernel can, else for one at a time."""
        try:
            return syscalls.load_multi_uprobe_program(self._bpf.dump_func(name), name), True
        except OSError:
            return self._bpf.load_func(name, bcc.BPF.KPROBE).fd, False

    # ---- attaching ----------------------------------------------------------------------------------------------

    def attach_kernel(self, sample_frequency: int = 0) -> dict[str, str | None]:
        """Attaches tracepoints, fault events and, where a frequency is given, the timer that samples.

        Returns for each None, or why it could not be attached.
        """
        self._sample_frequency, self._stolen_before_ns = sample_frequency, host.stolen_ns()
        results: dict[str, str | None] = dict(self._missing)
        for name, function in self._tracepoints.items():
            try:
                if name in _TYPED:
                    self._links.append(syscalls.attach_tracepoint_program(self._loaded[name]))
                else:
                    self._bpf.attach_raw_tracepoint(tp=name, fn_name=function)
                results[name] = None
            except Exception as error:  # BCC raises bare Exception
                results[name] = str(error)
        events = [
            ("fault_minor", _PAGE_FAULTS_MIN, {"sample_period": 1}),
            ("fault_major", _PAGE_FAULTS_MAJ, {"sample_period": 1}),
            ("take_sample", _CPU_CLOCK, {"sample_freq": sample_frequency}),
        ]
        for name, event, rate in events if sample_frequency else events[:2]:
            try:
                self._bpf.attach_perf_event(ev_type=_PERF_TYPE_SOFTWARE, ev_config=event, fn_name=name, **rate)
                results[name] = None
            except Exception as error:  # BCC raises bare Exception
                results[name] = str(error)
        return results

    def attach_function(self, tracepoint: str, function: str) -> None:
        """Attaches one more function, of the extra source, to a raw tracepoint."""
        self._bpf.attach_raw_tracepoint(tp=tracepoint, fn_name=function)

    def attach_engine_probes(self, path: str, offsets: list[int], cookies: list[int]) -> None:
        """Places the uprobe program at file offsets of one file. Raises OSError."""
        self._link_uprobes(self._engine_program, path, offsets, cookies, 0, self._links)

    def attach_window_probes(
        self, program: str, path: str, offsets: list[int], cookies: list[int], pid: int, links: list[int]
    ) -> None:
        """Places one of the programs of windows, for one process where the kernel can; adds what holds it to `links`:
        to close those takes it away. Raises OSError."""
        self._link_uprobes(self._window_programs[program], path, offsets, cookies, pid, links)

    def _link_uprobes(
        self, program: int, path: str, offsets: list[int], cookies: list[int], pid: int, links: list[int]
    ) -> None:
        if self._multi:
            links.append(syscalls.link_multi_uprobe(program, path, offsets, cookies, pid))
            return
        pmu_type = int(Path("/sys/bus/event_source/devices/uprobe/type").read_text())
        for offset, cookie in zip(offsets, cookies, strict=True):
            event = syscalls.open_uprobe_event(pmu_type, path, offset)
            links.append(event)
            links.append(syscalls.link_perf_event(program, event, cookie))

    def describe_probe(self, cookie: int, fields: list[int]) -> None:
        """Tells the kernel side what a probe means: the fields of `struct probe` in order."""
        table = self._bpf["probes"]
        if cookie >= _MAX_PROBES:
            raise TraceError(f"more than {_MAX_PROBES} probes", "fewer engine libraries in one run")
        leaf = table.Leaf()
        for (name, _type), value in zip(leaf._fields_, fields, strict=True):
            setattr(leaf, name, value)
        table[table.Key(cookie)] = leaf

    # ---- what is traced -------------------------------------------------------------------------------------------

    def trace_child(self, pid: int) -> None:
        """Follows a process that has not yet made its first execve; counting begins with that, in phase FIRST_PHASE.

        That phase has no record of the kernel's: its row is the caller's to begin.
        """
        threads, processes, counter = self._bpf["threads"], self._bpf["processes"], self._bpf["phase_counter"]
        thread = threads.Leaf()
        thread.pid = pid
        process = processes.Leaf()
        process.threads = 1
        process.phase = FIRST_PHASE
        process.role = Role.STARTUP
        counter[counter.Key(0)] = counter.Leaf(FIRST_PHASE)
        processes[processes.Key(pid)] = process
        threads[threads.Key(pid)] = thread

    def reserve_phases(self, n: int) -> None:
        """The numbers up to `n` are the caller's to give; before anything is traced."""
        counter = self._bpf["phase_counter"]
        counter[counter.Key(0)] = counter.Leaf(n)

    def expect(self, pid: int, threads: Mapping[int, int], phase: int) -> set[int]:
        """Follows a process that runs already, from when each of its threads is seen first; in `phase` until a call.

        `threads`: the CPU of each, by tid; those that are known stay as they are. Returns those that are new. To be
        called until there are none: then the process is known with all its threads.
        """
        table, processes = self._bpf["threads"], self._bpf["processes"]
        key = processes.Key(pid)
        try:
            process = processes[key]
        except KeyError:
            process = processes.Leaf()
            process.phase, process.role = phase, Role.ATTACHED
        if process.threads != len(threads):
            process.threads = len(threads)
            processes[key] = process
        new = set()
        for tid, cpu in threads.items():
            thread = table.Leaf()
            thread.pid, thread.armed, thread.cpu = pid, _EXPECTED, cpu
            thread.on_phase = thread.off_phase = phase
            thread.off_ts = time.monotonic_ns()
            if syscalls.insert_into_map(table.map_fd, bytes(table.Key(tid)), bytes(thread)):
                new.add(tid)
        return new

    def hold(self, pid: int, how: int) -> None:
        """How our ptrace is on this process: `enum held_how` of bpf/state.bpf.c; 0: not at all."""
        held = self._bpf["held"]
        if how:
            try:
                held[held.Key(pid)] = held.Leaf(how)
            except Exception:  # BCC raises bare Exception: the map is full
                self._not_held += 1
        else:
            with contextlib.suppress(KeyError):
                del held[held.Key(pid)]

    # ---- what came of it ------------------------------------------------------------------------------------------

    def table(self, name: str) -> Any:
        """A map, as BCC has it."""
        return self._bpf[name]

    def ring_descriptor(self, name: str) -> int:
        return int(self._bpf[name].map_fd)

    def take_counters(self, name: str, of_phase: Callable[[int], bool]) -> bytes:
        """The map `name` of counters per thread and phase: for each a `struct counter_key` and what is behind it.

        Those of phases for which `of_phase` says so are taken out of the kernel map. They should not be counted in any
        more: what is added between the reading and the taking is lost.
        """
        table = self._bpf[name]
        taken = []
        for key, leaf in table.items():
            if of_phase(key.phase):
                taken.append(bytes(key) + bytes(leaf))
                with contextlib.suppress(KeyError):
                    del table[key]
        return b"".join(taken)

    def threads_left(self) -> Iterator[tuple[int, Any, int, Any]]:
        """(tid, struct thread, phase of its process, its struct wake_run or None) of threads that have not ended.

        To be called after detach(): what is read then changes no more.
        """
        processes, runs = self._bpf["processes"], self._bpf["wake_runs"]
        phases = {pid.value: process.phase for pid, process in processes.items()}
        for tid, thread in self._bpf["threads"].items():
            run = runs[runs.Key(tid.value % len(runs))]
            if thread.armed:
                yield tid.value, thread, phases.get(thread.pid, 0), run if run.calls and run.tid == tid.value else None

    def io_uring_overflows(self) -> int | None:
        """Completions of io_uring that found their ring full; None when the kernel does not tell."""
        if "io_uring_cqe_overflow" not in self._tracepoints:
            return None
        return self._sum("lost_others", _IO_OVERFLOWS)

    def calls_32_bit(self) -> int:
        """System calls of 32-bit code: their time is counted, what they did is not."""
        return self._sum("lost_others", _CALLS_32_BIT)

    def probe_hits(self, count: int) -> list[int]:
        """Hits of the probes with cookies 0 to count − 1, of traced processes only."""
        return [self._sum("probe_hits", cookie) for cookie in range(count)]

    def hits_of(self, cookies: list[int]) -> int:
        """Hits of some probes together."""
        return sum(self._sum("probe_hits", cookie) for cookie in cookies)

    def open_window(self, is_open: bool) -> None:
        """What the programs of windows are hit by is recorded from now on, or no more."""
        table = self._bpf["window_open"]
        self._windows_opened += is_open
        table[table.Key(0)] = table.Leaf(self._windows_opened if is_open else 0)

    def set_tensor_layout(self, operation: int, name: int, first_source: int) -> None:
        """Where tensors of the process that is looked at in the next window have these, in bytes."""
        table = self._bpf["tensor_layout"]
        table[table.Key(0)] = table.Leaf(operation, name, first_source)

    def window_hits(self) -> tuple[int, int]:
        """Hits of the programs of windows so far: all, and those that were recorded."""
        return self._sum("window_hits", 0), self._sum("window_hits", 1)

    def take_window_calls(self) -> list[tuple[int, int, int]]:
        """(phase, row of meta's probes, calls) that count_function counted since the last time; no window is open."""
        table = self._bpf["window_calls"]
        found = [(key.phase, key.row, sum(values)) for key, values in table.items()]
        table.clear()
        return found

    def take_window_durations(self) -> list[tuple[int, int, int, int, int]]:
        """(phase, row of meta's probes, bucket, calls, ns in all) of calls that were timed since the last time."""
        table = self._bpf["durations"]
        found = [
            (key.phase, key.row, key.bucket, sum(one.calls for one in values), sum(one.ns for one in values))
            for key, values in table.items()
        ]
        table.clear()
        return found

    def computing(self) -> dict[int, bool]:
        """Processes that have called the engine: whether they are in a decode call now, or between two calls."""
        roles = {pid.value: process.role for pid, process in self._bpf["processes"].items()}
        return {pid: role == Role.DECODE for pid, role in roles.items() if role in (Role.DECODE, Role.GAP, Role.IDLE)}

    def losses(self) -> dict[str, Any]:
        """Everything that could not be sent or kept: {"events": {kind: n}, "tasks": n, …, "recursion": n}.

        `held`: processes whose libraries that they load later are not looked at.
        """
        events = {kind.name.lower(): self._sum("lost_events", kind) for kind in Kind}
        others = {name: self._sum("lost_others", number) for number, name in enumerate(_LOST_OTHER)}
        recursion = sum(info["recursion_misses"] for info in self._infos())
        recursion += sum(syscalls.program_info(one)["recursion_misses"] for one in self._window_programs.values())
        # what came in no time of ours was not lost
        stolen = (host.stolen_ns() - self._stolen_before_ns) * self._sample_frequency / 1e9
        self._lost_ticks = max(others["ticks"] - math.ceil(stolen), self._lost_ticks)  # what was told stays told
        others["ticks"] = self._lost_ticks
        others.update(held=self._not_held, recursion=recursion)
        return {"events": {kind: n for kind, n in events.items() if n}, **others}

    def cost(self) -> dict[str, int]:
        """What the programs took while they were timed, by the kernel's own accounting, on all CPUs; `calls` of them
        were ends of system calls. And always, timed or not: how many of either were for programs of others."""
        infos = list(self._infos())
        return {
            "bpf_ns": sum(info["run_time_ns"] for info in infos),
            "bpf_runs": sum(info["run_count"] for info in infos),
            "calls": syscalls.program_info(self._loaded["sys_exit"])["run_count"],
            "others_runs": self._sum("others", 0),
            "others_calls": self._sum("others", 1),
        }

    def _sum(self, name: str, key: int) -> int:
        """Of a per-CPU array, over all CPUs."""
        return int(self._bpf[name].sum(ctypes.c_int(key)).value)

    def _infos(self) -> Iterator[dict[str, int]]:
        for descriptor in (*self._loaded.values(), self._engine_program):
            yield syscalls.program_info(descriptor)

    def detach(self) -> None:
        """Takes all probes out of the way; what was gathered can still be read."""
        for link in self._links:
            os.close(link)
        self._links.clear()
        for name in list(self._bpf.raw_tracepoint_fds):
            self._bpf.detach_raw_tracepoint(name)
        for event in list(self._bpf.open_perf_events):
            self._bpf.detach_perf_event(*event)

    def close(self) -> None:
        self.detach()
        self._bpf.cleanup()

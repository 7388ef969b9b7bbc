"""Moves what the kernel sent into the recording: the rings, and in counts mode the counters."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.capture import still_open
from bitnet_trace.capture.address_spaces import AddressSpaces
from bitnet_trace.capture.asked import asked_rows
from bitnet_trace.capture.bpf import FIRST_PHASE, Programs
from bitnet_trace.capture.counted import perf_rows
from bitnet_trace.capture.page_sizes import ResidencyLog
from bitnet_trace.capture.ring import Ring
from bitnet_trace.capture.samples import SampleLog
from bitnet_trace.capture.task_log import TaskLog, accounting_rows, exec_rows, tensor_rows
from bitnet_trace.capture.taskstats import Taskstats
from bitnet_trace.recording.layout import (
    COUNTER_FIELDS,
    COUNTER_KEY_DTYPE,
    COUNTERS_DTYPE,
    EVENT_DTYPE,
    SAMPLE_DTYPE,
    TASK_DTYPE,
    Kind,
    Role,
    SwitchFlag,
    TaskKind,
)
from bitnet_trace.recording.phase_log import PhaseLog
from bitnet_trace.recording.writer import Writer

_BATCH = 1 << 18
_WORTH_A_TURN = 0.1  # of a ring: whoever is more patient than that would lose records in a burst
_MAX_NEIGHBOURS = 1000
_MOST_ENDED = 64  # processes whose code is remembered, where nothing is kept
_NEWS = (TaskKind.EXEC, TaskKind.MAP_FILE, TaskKind.PTRACED, TaskKind.EXIT)
_NEW_MAPPINGS = (TaskKind.FORK, TaskKind.EXEC, TaskKind.MAP_FILE)
_COUNTERS = np.dtype(COUNTER_KEY_DTYPE.descr + COUNTERS_DTYPE.descr)
# counters that are numbers of events, each event in one of them
_EVENT_COUNTERS = [
    name for name in COUNTER_FIELDS if not name.endswith(("_ns", "_bytes", "_pages")) and name != "tlb_full_flushes"
]


class Drain:
    """The reader of one run's rings. `step()` is called on a timer, `finish()` once when the target has ended."""

    def __init__(self, programs: Programs, writer: Writer, spaces: AddressSpaces, residency: ResidencyLog) -> None:
        self._programs, self._writer, self._spaces, self._residency = programs, writer, spaces, residency
        dtypes = {"events": EVENT_DTYPE, "phases": EVENT_DTYPE, "tasks": TASK_DTYPE, "samples": SAMPLE_DTYPE}
        self._rings = {
            name: Ring(programs.ring_descriptor(name), getattr(programs.rings, name), dtype)
            for name, dtype in dtypes.items()
        }
        self._phase_log, self._task_log, self.samples = PhaseLog(), TaskLog(), SampleLog(writer.keeps)
        self._taskstats = Taskstats()
        self._taskstats_count = 0
        self._kind_counts = np.zeros(max(Kind) + 1, np.int64)
        self._task_count = self._sample_count = self._counted = 0
        self._fill_rate = 0.0
        self._emptied_s = time.monotonic()
        self._open_phases: set[int] = set()
        self._changed_phases: set[int] = set()  # in the last turn
        self._newest_phase = 0  # up to the last turn
        self._neighbours: dict[int, str] = {}
        self._news: list[npt.NDArray[np.void]] = []
        self._ended: list[int] = []
        self.warnings: list[str] = []

    def begin(
        self, pid: int, comms: Mapping[int, str], now_ns: int, phase: int = FIRST_PHASE, role: Role = Role.STARTUP
    ) -> None:
        """A process that no record tells the beginning of: the names of its threads, by tid, and its phase."""
        self._writer.threads([self._task_log.begin(pid, tid, comm, now_ns) for tid, comm in comms.items()])
        begin = np.zeros(1, EVENT_DTYPE)
        begin["ts_ns"], begin["tid"], begin["phase"], begin["kind"] = now_ns, pid, phase, Kind.PHASE_BEGIN
        begin["arg0"], begin["arg2"] = role, pid << 32
        self._writer.phases(self._phase_log.fold(begin))
        self._open_phases.add(phase)

    def know_files(self, paths: Mapping[tuple[int, int], str]) -> None:
        """Files that were mapped before, by (device, inode) as the kernel has them."""
        self._task_log.files.known.update(paths)

    @property
    def threads(self) -> Mapping[int, dict[str, Any]]:
        """The last row of each thread, by tid: schema.THREAD_SCHEMA."""
        return self._task_log.threads

    @property
    def fill_rate(self) -> float:
        """What share of the busiest ring was filled a second, before the last step."""
        return self._fill_rate

    @property
    def received(self) -> dict[str, int]:
        """Records by kind; `counted`: events that the kernel side counted and sent no record of."""
        counts = {Kind(i).name.lower(): int(n) for i, n in enumerate(self._kind_counts) if n}
        others = {
            "tasks": self._task_count,
            "taskstats": self._taskstats_count,
            "samples": self._sample_count,
            "counted": self._counted,
        }
        return {**counts, **{name: n for name, n in others.items() if n}}

    @property
    def losses(self) -> dict[str, int]:
        """What did not reach us on other ways than the rings: threads whose exit statistics were lost."""
        return {"taskstats": self._taskstats.lost(self._task_log.threads)}

    @property
    def taskstats(self) -> dict[str, Any]:
        """How the kernel's own accounting was had: version, reason (why not), delay_reason, dropped_messages."""
        return self._taskstats.meta()

    @property
    def files(self) -> Mapping[tuple[int, int], str]:
        """Paths of the files that were mapped or read, by (device, inode) as the kernel has them."""
        return self._task_log.files.known

    def take_news(self) -> npt.NDArray[np.void]:
        """The records EXEC, MAP_FILE, PTRACED and EXIT of the ring `tasks` since the last time, in order of time."""
        news, self._news = self._news, []
        return np.concatenate([np.empty(0, TASK_DTYPE), *news])

    def step(self, patience_s: float = 0.0) -> int:
        """Takes all that is there; returns the number of events. Raises TraceError when it cannot be written.

        Threads, programs and mappings are taken every time. The rest may wait for `patience_s` since the last time
        while there is room for it: a turn begins with cold caches, so few long ones cost the target less.
        """
        moved = 0
        now_s = time.monotonic()
        filled, since_s = max(ring.filled_share for ring in self._rings.values()), now_s - self._emptied_s
        self._fill_rate = filled / max(since_s, 1e-3)
        # threads and phases first: what the events refer to is there when they come
        self._step_tasks()
        self._writer.areas(self._spaces.take_area_rows())
        self._step_taskstats()
        if filled < _WORTH_A_TURN and since_s < patience_s:
            return 0
        self._emptied_s = now_s
        changed = self._step_phases()
        self._writer.residency(self._residency.take())
        self._writer.numa(self._residency.take_nodes())
        self._step_samples()
        if self._programs.counting or self._programs.counters:
            # A closed phase is taken out one turn after its end: whoever was still counting has finished by then. What
            # began since the phases were looked at is not known yet, but by its number: they only grow.
            left, known = self._open_phases | changed | self._changed_phases, self._newest_phase
            self._write_counters(lambda phase: 0 < phase <= known and phase not in left)
            self._changed_phases = changed
            self._newest_phase = max(changed | {known})
        while len(batch := self._rings["events"].drain(_BATCH)):
            self._write_events(batch)
            self._note_neighbours(batch)
            moved += len(batch)
            if len(batch) < _BATCH:
                break
        return moved

    def finish(self, end_ns: int) -> None:
        """Takes the rest, after the programs were detached, and closes at `end_ns` what is still under way."""
        while self.step():
            pass
        self._write_events(still_open.events(self._programs.threads_left(), end_ns))
        self._write_counters(lambda _phase: True)
        self._step_tasks()
        self._step_taskstats()
        self._write_taskstats(self._taskstats.of_running(self._task_log.threads))
        for name, ring in self._rings.items():
            if ring.fullest_share > 0.5:
                self.warnings.append(f"the ring of {name} was {ring.fullest_share:.0%} full at its fullest")
        self.close()

    def close(self) -> None:
        """Lets go of the rings and of the kernel's exit statistics; nothing when that is done."""
        for ring in self._rings.values():
            ring.close()
        self._taskstats.close()

    def _write_events(self, batch: npt.NDArray[np.void]) -> None:
        self._kind_counts += np.bincount(batch["kind"], minlength=len(self._kind_counts))
        # in the order of time, not of reservation
        self._writer.events(batch[np.argsort(batch["ts_ns"], kind="stable")])

    def _note_neighbours(self, batch: npt.NDArray[np.void]) -> None:
        """Names of foreign threads that took a CPU from one of ours, while they can be asked for."""
        preempted = (batch["kind"] == Kind.SWITCH_OUT) & (batch["arg0"] & SwitchFlag.VOLUNTARY == 0)
        for tid in np.unique(batch["arg2"][preempted]).tolist():
            if tid and tid not in self._neighbours and len(self._neighbours) < _MAX_NEIGHBOURS:
                with contextlib.suppress(OSError):
                    self._neighbours[tid] = Path(f"/proc/{tid}/comm").read_text(errors="replace").rstrip("\n")

    @property
    def neighbours(self) -> dict[int, str]:
        """Names of threads that ran in place of ours, by number; those that had ended too soon are missing."""
        return dict(self._neighbours)

    def _write_counters(self, of_phase: Callable[[int], bool]) -> None:
        if self._programs.counting:
            taken = np.frombuffer(self._programs.take_counters("counts", of_phase), _COUNTERS)
            self._counted += sum(int(taken[name].sum()) for name in _EVENT_COUNTERS)
            self._writer.counters(taken)
        if self._programs.counters:
            taken_bytes = self._programs.take_counters("counted", of_phase)
            self._writer.perf(perf_rows(taken_bytes, self._programs.counters.numbers))

    def _step_phases(self) -> set[int]:
        """The numbers of the phases that began or changed."""
        batch = self._rings["phases"].drain()
        if not len(batch):
            return set()
        self._kind_counts += np.bincount(batch["kind"], minlength=len(self._kind_counts))
        rows = self._phase_log.fold(batch[np.argsort(batch["ts_ns"], kind="stable")])
        for row in rows:
            (self._open_phases.discard if row["end_ns"] else self._open_phases.add)(row["id"])
        self._writer.phases(rows)
        self._residency.ended(dict.fromkeys((row["pid"], row["role"]) for row in rows if row["end_ns"]))
        return {row["id"] for row in rows}

    def _step_tasks(self) -> None:
        batch = self._rings["tasks"].drain()
        if not len(batch):
            return
        self._task_count += len(batch)
        batch = batch[np.argsort(batch["ts_ns"], kind="stable")]
        self._news.append(batch[np.isin(batch["kind"], _NEWS)])
        self._spaces.changed(batch["pid"][np.isin(batch["kind"], _NEW_MAPPINGS)].tolist())
        threads, maps = self._task_log.fold(batch)
        self._writer.threads(threads)
        self._writer.maps(maps)
        self._writer.areas(exec_rows(batch))
        self._writer.taskstats(accounting_rows(batch))
        self._writer.scheduling(asked_rows(batch))
        self._writer.graph_tensors(tensor_rows(batch))
        self._forget(batch)

    def _forget(self, batch: npt.NDArray[np.void]) -> None:
        """A view may stay for hours beside programs that start others again and again."""
        ended = batch["pid"][(batch["kind"] == TaskKind.EXIT) & (batch["pid"] == batch["tid"])].tolist()
        self._spaces.ended(ended)
        if not self._writer.keeps:
            self._ended += ended
            for pid in self._ended[:-_MOST_ENDED]:
                self._spaces.forget(pid)
                self.samples.forget(pid)
            del self._ended[:-_MOST_ENDED]

    def _step_samples(self) -> None:
        batch = self._rings["samples"].drain()
        if len(batch):
            self._sample_count += len(batch)
            if not self._writer.takes_waits:
                batch = batch[batch["reason"] == 0]
            samples, stacks = self.samples.fold(batch)
            self._writer.samples(samples, stacks)
            self._spaces.cover(np.unique(stacks["pid"]).tolist())

    def _step_taskstats(self) -> None:
        # after the tasks: the exit statistics of a thread that has ended are there by then
        self._write_taskstats(self._taskstats.take(self._task_log.threads))

    def _write_taskstats(self, rows: list[dict[str, Any]]) -> None:
        self._taskstats_count += len(rows)
        self._writer.taskstats(rows)

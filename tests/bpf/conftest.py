"""Fixtures of the tests against the running kernel: compiled programs, and traced runs of them."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bitnet_trace
from bitnet_trace import host
from bitnet_trace.analysis.fold import fold_events, from_stored
from bitnet_trace.analysis.sums import Sums, added
from bitnet_trace.recording.layout import COUNTER_FIELDS
from bitnet_trace.recording.reader import Recording, open_recording

# Started in a script's background or by nohup, tests would hand on that these are ignored.
for ignored in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)

PROGRAMS = Path(__file__).parent.parent / "programs"
TOOL = [sys.executable, "-m", "bitnet_trace"]
# where neither the environment nor the current folder says which checkout is meant: under sudo, as another user
_CHECKOUT = str(Path(bitnet_trace.__file__).parents[1])
TOOL_ANYWHERE = [
    sys.executable, "-I", "-c",
    f"import sys; sys.path.insert(0, {_CHECKOUT!r}); from bitnet_trace.cli import main; main()",
]  # fmt: skip
PAGE = 4096


@pytest.fixture(params=["events", "counts"], scope="session")
def detail(request):
    return request.param


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Callable[..., Path]:
    """`program("work.c", *flags)` is the path of that program of tests/programs, compiled once."""
    folder = tmp_path_factory.mktemp("programs")
    made: dict[tuple[str, ...], Path] = {}

    def compiled(source: str, *flags: str) -> Path:
        key = (source, *flags)
        if key not in made:
            made[key] = folder / f"{Path(source).stem}-{len(made)}{'.so' if '-shared' in flags else ''}"
            compiler = "g++" if source.endswith(".cpp") else "gcc"
            command = [compiler, "-O2", "-g", "-Wall", "-Werror", "-pthread", str(PROGRAMS / source), *flags]
            subprocess.run([*command, "-o", str(made[key])], check=True)
        return made[key]

    return compiled


@pytest.fixture(scope="session")
def data_file(tmp_path_factory) -> Path:
    """1,009 pages that are no holes."""
    path = tmp_path_factory.mktemp("data") / "pages"
    path.write_bytes(np.random.default_rng(7).bytes(1009 * PAGE))
    return path


@dataclass
class Traced:
    """A run of the tool that has ended."""

    folder: Path
    exit_code: int
    stdout: str
    stderr: str
    # what a hypervisor took from all CPUs meanwhile, known in steps of 10 ms: the kernel takes it out of a thread's CPU
    # time, for which the clock between two switches has no eye (time accounting of a paravirtualised guest)
    stolen_ns: int = 0

    @cached_property
    def recording(self) -> Recording:
        return open_recording(self.folder)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """What a program of tests/programs says of itself: one JSON object a line."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]

    @cached_property
    def counters(self) -> pd.DataFrame:
        """index (phase, tid), one column per field of struct counters; the same in both details."""
        folded = fold_events(self.recording.event_batches(), self.recording.phases)
        return added([from_stored(self.recording.stored_counters), Sums.of(folded)]).table()

    def total(self, tids: Sequence[int], phases: Sequence[int] | None = None) -> pd.Series:
        """Sums over threads and phases (all of them when None)."""
        table = self.counters
        chosen = table.index.get_level_values("tid").isin(tids)
        if phases is not None:
            chosen &= table.index.get_level_values("phase").isin(phases)
        return table[chosen].sum()

    def between(self, tid: int, begin_ns: int, end_ns: int) -> pd.Series:
        """Sums over the events of one thread in an open interval of time."""
        events = self.recording.events
        inside = (events["tid"] == tid) & (events["ts_ns"] > begin_ns) & (events["ts_ns"] < end_ns)
        return fold_events(events[inside], self.recording.phases).sum().reindex(COUNTER_FIELDS, fill_value=0)

    def calls(self, pid: int, role: str = "decode") -> pd.DataFrame:
        """Phases of one role of a process, in order."""
        phases = self.recording.phases
        return phases[(phases["pid"] == pid) & (phases["role"] == role)].sort_values("begin_ns")

    def assert_nothing_lost(self, most_recursions: int = 10) -> None:
        losses = dict(self.recording.meta["losses"])
        # an interrupt's own event inside the same tracepoint's program (TLB flushes, of the whole system): rare
        assert losses.pop("recursion") < most_recursions, losses
        # samples that came too late: a hypervisor takes the CPU away
        losses.pop("ticks")
        assert not losses.pop("events")
        assert not any(losses.values()), losses
        assert self.recording.complete
        assert not self.recording.warnings


@pytest.fixture(scope="session")
def trace(tmp_path_factory) -> Callable[..., Traced]:
    """`trace(command, detail=…, options=…, env=…)`: runs the tool on a command and waits for its end."""

    def run(
        command: Sequence[object],
        detail: str = "events",
        options: Sequence[str] = (),
        env: dict[str, str] | None = None,
        exit_code: int | None = 0,
        timeout: float = 100,
    ) -> Traced:
        folder = tmp_path_factory.mktemp("run") / "x.btrace"
        environment = [f"--env={name}={value}" for name, value in (env or {}).items()]
        arguments = [*TOOL, "run", "-q", "--detail", detail, "-o", str(folder), *environment, *options, "--"]
        stolen_before_ns = host.stolen_ns()
        done = subprocess.run(
            [*arguments, *map(str, command)], capture_output=True, text=True, timeout=timeout, check=False
        )
        if exit_code is not None:
            assert done.returncode == exit_code, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        stolen_ns = host.stolen_ns() - stolen_before_ns
        return Traced(folder, done.returncode, done.stdout, done.stderr, stolen_ns)

    return run


@pytest.fixture(scope="module")
def caller():
    """A user who may call sudo without a password, with an empty folder of their own; gone afterwards."""
    name = f"bitnet-trace-{os.getpid()}"
    rules = Path(f"/etc/sudoers.d/{name}")
    subprocess.run(["useradd", "--system", "--no-create-home", "--groups", "users", name], check=True)
    folder = Path(tempfile.mkdtemp(prefix="bitnet-trace-", dir="/var/tmp"))
    try:
        rules.write_text(f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n")
        rules.chmod(0o440)
        user = pwd.getpwnam(name)
        os.chown(folder, user.pw_uid, user.pw_gid)
        folder.chmod(0o755)
        yield user, folder
    finally:
        rules.unlink(missing_ok=True)
        subprocess.run(["userdel", "-f", name], capture_output=True, check=False)
        shutil.rmtree(folder)

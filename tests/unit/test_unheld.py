"""Which processes are looked at without being held, and what is said of them."""

import os
import time

import numpy as np
import pytest

from bitnet_trace.capture.debuggers import Debuggers
from bitnet_trace.recording.layout import TASK_DTYPE, TaskKind

PID = 1 << 30  # of no process


class Placer:
    """Finds the engine in the processes of `engines`."""

    def __init__(self):
        self.engines, self.looked = set(), []

    def look_at(self, pid):
        self.looked.append(pid)
        return pid in self.engines

    def take_looked(self):
        looked, self.looked = self.looked, []
        return looked


@pytest.fixture
def placer():
    return Placer()


@pytest.fixture
def debuggers(placer):
    return Debuggers(placer, lambda pid, how: None)


def record(kind, pid, value=0, text=b"", length=0):
    event = np.zeros(1, TASK_DTYPE)
    event["ts_ns"], event["kind"], event["pid"], event["tid"] = time.monotonic_ns(), kind, pid, pid
    event["value"], event["text"], event["length"] = value, text, length
    return event


def take(debuggers, *records):
    debuggers.take(np.concatenate(records), look=True)


def test_files_of_a_process_are_looked_at_until_its_engine_is_found(debuggers, placer):
    take(debuggers, record(TaskKind.EXEC, PID), record(TaskKind.MAP_FILE, PID))
    assert placer.take_looked() == [PID]
    placer.engines.add(PID)
    take(debuggers, record(TaskKind.MAP_FILE, PID))
    assert placer.take_looked() == [PID]
    take(debuggers, record(TaskKind.MAP_FILE, PID))
    assert placer.take_looked() == []
    take(debuggers, record(TaskKind.EXEC, PID))  # another program
    assert placer.take_looked() == [PID]
    assert not debuggers.warnings
    assert not debuggers.waiting


def test_the_kernels_late_word_of_what_was_handled_already(debuggers, placer):
    before = record(TaskKind.EXEC, PID)
    placer.engines.add(PID)
    debuggers.holder._look(PID)
    assert placer.take_looked() == [PID]
    take(debuggers, before, record(TaskKind.PTRACED, PID, 7, b"gdb"))
    assert placer.take_looked() == []
    assert not debuggers.warnings
    assert not debuggers.waiting


def test_a_traced_process_is_waited_for_and_told(debuggers):
    take(debuggers, record(TaskKind.PTRACED, PID, 7, b"strace"))
    assert debuggers.waiting
    assert not debuggers.warnings  # nothing was opened
    take(debuggers, record(TaskKind.MAP_FILE, PID))
    (warning,) = debuggers.warnings
    assert warning.startswith(f"process {PID} is traced by strace (process 7): libraries")
    take(debuggers, record(TaskKind.EXIT, PID))
    assert not debuggers.waiting
    assert debuggers.warnings == [warning]


def test_one_line_for_many(debuggers):
    for i in range(9):
        take(debuggers, record(TaskKind.PTRACED, PID + i, i, b"gdb"), record(TaskKind.EXEC, PID + i))
    (warning,) = debuggers.warnings
    assert warning.startswith(f"processes {PID}, {PID + 1}, {PID + 2} and 6 more are traced by gdb (process 0), ")
    assert "gdb (process 3)" not in warning


def test_after_the_end_nothing_is_looked_at_any_more(debuggers, placer):
    news = np.concatenate([record(TaskKind.PTRACED, os.getpid(), 7, b"gdb"), record(TaskKind.EXEC, os.getpid())])
    debuggers.take(news, look=False)
    assert placer.take_looked() == []
    assert len(debuggers.warnings) == 1

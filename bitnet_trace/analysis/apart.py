"""A part of a report that is computed in a process of its own, where it takes no turns from the rest."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar, cast

T = TypeVar("T")


def begun_apart(work: Callable[[], T]) -> Callable[[], T]:
    """Begins `work` in a fork. What is returned waits for it and has its result, which has to be picklable.

    When nothing came of the fork, for want of memory for instance, `work` is done here, where its errors are told. Only
    for a process none of whose threads holds a lock.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, sender), daemon=True)  # ended when we end
    try:
        process.start()
    except OSError:  # there may be no more processes
        return work
    finally:
        sender.close()

    def result() -> T:
        try:
            return cast(T, receiver.recv())
        except (EOFError, OSError):
            return work()
        finally:
            receiver.close()
            process.join()

    return result


def _serve(work: Callable[[], T], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's reaches us both: who waits for us tells of it
    with contextlib.suppress(Exception):
        sender.send(work())

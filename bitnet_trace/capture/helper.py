"""What our helper processes have in common: each is a fork of the tracer and may outlive it."""

import os


def keep_only(*descriptors: int) -> None:
    """Closes every other descriptor; where stdin, stdout and stderr are not kept they become /dev/null.

    What a fork holds open without need changes what others see: a pipe that never ends, a lock that stays taken, a
    process that waits for the tracer's end and is not told.
    """
    kept = {*descriptors, 0, 1, 2}
    first = 0
    for descriptor in sorted(kept):
        if first < descriptor:  # closerange(0, 0) closes them all: it hands -1 to close_range(2), whose end is unsigned
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in {0, 1, 2} - set(descriptors):
        os.dup2(nothing, descriptor)
    if nothing not in (0, 1, 2):
        os.close(nothing)

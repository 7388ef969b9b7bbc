"""An io_uring for reads: the kernel's interface itself (linux/io_uring.h), x86-64.

Not the package liburing: what PyPI has of it dies of an illegal instruction on CPUs without AVX-512.
"""

import contextlib
import ctypes
import mmap
import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from bitnet_trace.capture.syscalls import call

_NR_SETUP, _NR_ENTER, _NR_REGISTER = 425, 426, 427
_REGISTER_BUFFERS, _GETEVENTS = 0, 1
_OP_READ_FIXED, _OP_READ = 4, 22
_SUBMISSIONS_AT, _COMPLETIONS_AT, _ENTRIES_AT = 0, 0x8000000, 0x10000000  # for mmap(2)
_ENTRY = struct.Struct("<BBHiQQIIQHHiQQ")  # struct io_uring_sqe
_COMPLETION = np.dtype([("number", "<u8"), ("result", "<i4"), ("flags", "<u4")])  # struct io_uring_cqe
# struct io_uring_params: both counts of entries, the offsets of either ring
_PARAMETERS = struct.Struct("<2I 32x 8I 8x 8I 8x")


class Ring:
    """Up to `depth` reads under way. To be closed. Raises OSError where the kernel has no io_uring for us."""

    def __init__(self, depth: int) -> None:
        parameters = ctypes.create_string_buffer(_PARAMETERS.size)
        self._ring = call(_NR_SETUP, depth, parameters)
        self._waiting = 0  # put in, not yet handed to the kernel
        try:
            n_in, n_out, *offsets = _PARAMETERS.unpack(parameters.raw)
            _, tail, mask, _, _, _, array, _ = offsets[:8]
            self._in = self._mapped(array + 4 * n_in, _SUBMISSIONS_AT)
            self._entries = self._mapped(_ENTRY.size * n_in, _ENTRIES_AT)
            self._in_tail, self._in_mask = self._word(self._in, tail), int(self._word(self._in, mask)[0])
            np.frombuffer(self._in, np.uint32, n_in, array)[:] = np.arange(n_in)
            head, tail, mask, _, _, completions, _, _ = offsets[8:]
            self._out = self._mapped(completions + _COMPLETION.itemsize * n_out, _COMPLETIONS_AT)
            self._out_head, self._out_tail = self._word(self._out, head), self._word(self._out, tail)
            self._out_mask = int(self._word(self._out, mask)[0])
            self._completions = np.frombuffer(self._out, _COMPLETION, n_out, completions)
        except BaseException:
            os.close(self._ring)
            raise

    def _mapped(self, length: int, at: int) -> mmap.mmap:
        return mmap.mmap(self._ring, length, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=at)

    @staticmethod
    def _word(ring: mmap.mmap, at: int) -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
        return np.frombuffer(ring, np.uint32, 1, at)

    def close(self) -> None:
        os.close(self._ring)

    def register(self, buffers: Sequence[memoryview]) -> None:
        """Memory that the kernel keeps at hand: reads into it name the buffer by its number."""
        vectors = b"".join(struct.pack("<QQ", _address_of(one), len(one)) for one in buffers)
        call(_NR_REGISTER, self._ring, _REGISTER_BUFFERS, ctypes.create_string_buffer(vectors), len(buffers))

    def read(self, file: int, memory: memoryview, offset: int, number: int, buffer: int | None = None) -> None:
        """Puts in a read of as much as `memory` holds, to be handed over by wait(). There has to be room for it.

        `number` comes back with its result; `buffer` is that of a registered one that `memory` lies in.
        """
        place = int(self._in_tail[0]) & self._in_mask
        code = _OP_READ if buffer is None else _OP_READ_FIXED
        entry = (code, 0, 0, file, offset, _address_of(memory), len(memory), 0, number, buffer or 0, 0, 0, 0, 0)
        _ENTRY.pack_into(self._entries, place * _ENTRY.size, *entry)
        self._in_tail += np.uint32(1)  # goes round
        self._waiting += 1

    def wait(self) -> Iterator[tuple[int, int]]:
        """Hands over what was put in, waits until one read at least has ended; (number, result) of those that have."""
        while True:
            with contextlib.suppress(InterruptedError):
                self._waiting -= call(_NR_ENTER, self._ring, self._waiting, 1, _GETEVENTS, None, 0)
                break
        while self._out_head[0] != self._out_tail[0]:
            ended = self._completions[int(self._out_head[0]) & self._out_mask]
            yield int(ended["number"]), int(ended["result"])
            self._out_head += np.uint32(1)


def _address_of(memory: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))

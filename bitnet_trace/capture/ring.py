"""A BPF ring buffer, drained by numpy.

BCC's own reader calls a Python function for each record. All records of one of our rings have one size, so a span of
the ring is an array: it is looked at in place and copied once. The layout of the mapping: kernel/bpf/ringbuf.c.
"""

import mmap

import numpy as np
import numpy.typing as npt

_PAGE = mmap.PAGESIZE
_HEADER_BYTES = 8
_BUSY, _DISCARD = np.uint32(1 << 31), np.uint32(1 << 30)


class Ring:
    """The reader's side of one ring whose records all have `dtype`.

    `descriptor`: of the map; `size_bytes`: of its data area, a power of two. There must be one reader only.
    """

    def __init__(self, descriptor: int, size_bytes: int, dtype: np.dtype[np.void]) -> None:
        record_bytes = _HEADER_BYTES + (dtype.itemsize + 7) // 8 * 8
        self._consumer_map = mmap.mmap(descriptor, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        # the data area is mapped twice in a row: a span never has to be put together from two pieces
        length = _PAGE + 2 * size_bytes
        self._producer_map = mmap.mmap(descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumer = np.frombuffer(self._consumer_map, np.uint64, 1)
        self._producer = np.frombuffer(self._producer_map, np.uint64, 1)
        self._size = size_bytes
        self._record_bytes = record_bytes
        self._record = np.dtype(
            {
                "names": ["length", "record"],
                "formats": ["<u4", dtype],
                "offsets": [0, _HEADER_BYTES],
                "itemsize": record_bytes,
            }
        )
        self._dtype = dtype
        self.high_water_bytes = 0

    def drain(self, limit: int = 1 << 20) -> npt.NDArray[np.void]:
        """All records that are complete, at most `limit`, oldest first by reservation; takes them out of the ring."""
        consumer, producer = int(self._consumer[0]), int(self._producer[0])
        filled = producer - consumer
        self.high_water_bytes = max(self.high_water_bytes, filled)
        count = min(filled // self._record_bytes, limit)
        if count == 0:
            return np.empty(0, self._dtype)
        start = _PAGE + (consumer & (self._size - 1))
        view = np.frombuffer(self._producer_map, self._record, count, start)
        # the length words are read in the live mapping, before the records: a record not BUSY now is complete
        lengths = view["length"].copy()
        busy = lengths & _BUSY
        if busy.any():
            count = int(busy.argmax())
            lengths = lengths[:count]
        records = view["record"][:count].copy()
        self._consumer[0] = consumer + count * self._record_bytes
        discarded = lengths & _DISCARD
        return records[discarded == 0] if discarded.any() else records

    @property
    def filled_share(self) -> float:
        """How full the ring is, 0 to 1."""
        return int(self._producer[0] - self._consumer[0]) / self._size

    @property
    def fullest_share(self) -> float:
        """How full the ring was at its fullest, 0 to 1."""
        return self.high_water_bytes / self._size

    def close(self) -> None:
        if self._consumer_map.closed:
            return
        # numpy's views keep the mappings alive; without them the mappings can be closed
        del self._consumer, self._producer
        self._consumer_map.close()
        self._producer_map.close()

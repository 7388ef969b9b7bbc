"""What lies where in one address space at one moment."""

import bisect

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

# Fewer addresses than this are looked up one by one: making arrays of the areas would take longer.
_FEW = 48
# Areas that are kept; a program has 65,530 at most (vm.max_map_count), a damaged recording may claim any number.
_MAX_AREAS = 1 << 17
_LARGEST_SHIFT = 1 << 60


class AddressSpace:
    """Areas [begin, end) that do not overlap, each with two numbers: `region`, and `shift` = address - file offset."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._regions: list[int] = []
        self._shifts: list[int] = []
        self._arrays: tuple[Ints, Ints, Ints, Ints] | None = None

    def copy(self) -> "AddressSpace":
        other = AddressSpace()
        other._begins, other._ends = list(self._begins), list(self._ends)
        other._regions, other._shifts = list(self._regions), list(self._shifts)
        return other

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def put(self, begin: int, end: int, region: int, shift: int = 0) -> None:
        """Replaces what lies there."""
        if begin >= end or len(self._begins) >= _MAX_AREAS:
            return
        if abs(shift) > _LARGEST_SHIFT:
            shift = 0  # damage
        at = self._cut(begin, end)
        self._begins.insert(at, begin)
        self._ends.insert(at, end)
        self._regions.insert(at, region)
        self._shifts.insert(at, shift)

    def fill(self, begin: int, end: int, region: int, shift: int = 0) -> None:
        """Puts it where nothing lies."""
        for one, other in self._gaps(begin, end):
            self.put(one, other, region, shift)

    def remove(self, begin: int, end: int) -> None:
        if begin < end:
            self._cut(begin, end)

    def move(self, begin: int, end: int, to: int, to_end: int) -> None:
        """As mremap does: what lay at [begin, end) lies at [to, to_end) now, its last area made longer or cut."""
        moved = [(max(b, begin), min(e, end), region, shift) for b, e, region, shift in self._within(begin, end)]
        self.remove(begin, end)
        self.remove(to, to_end)
        for number, (b, e, region, shift) in enumerate(moved):
            new_end = to_end if number == len(moved) - 1 else min(e - begin + to, to_end)
            self.put(b - begin + to, new_end, region, shift - begin + to if shift else 0)

    def at(self, address: int) -> tuple[int, int]:
        """(region, shift) at an address; region -1 where nothing lies."""
        place = bisect.bisect_right(self._begins, address) - 1
        if place >= 0 and address < self._ends[place]:
            return self._regions[place], self._shifts[place]
        return -1, 0

    def lookup(self, addresses: Ints) -> tuple[Ints, Ints]:
        """`at` for each address."""
        if len(addresses) < _FEW:
            found = [self.at(address) for address in addresses.tolist()]
            return np.array([one for one, _ in found], np.int64), np.array([one for _, one in found], np.int64)
        if not self._begins:
            return np.full(len(addresses), -1), np.zeros(len(addresses), np.int64)
        if self._arrays is None:
            lists = (self._begins, self._ends, self._regions, self._shifts)
            begins, ends, regions, shifts = (np.array(one, np.int64) for one in lists)
            self._arrays = begins, ends, regions, shifts
        begins, ends, regions, shifts = self._arrays
        place = np.maximum(np.searchsorted(begins, addresses, side="right") - 1, 0)
        inside = (addresses >= begins[place]) & (addresses < ends[place])
        return np.where(inside, regions[place], -1), np.where(inside, shifts[place], 0)

    def parts(self, begin: int, end: int) -> list[tuple[int, int]]:
        """(region, bytes) of what lies in [begin, end); region -1 where nothing lies."""
        found = [(region, min(e, end) - max(b, begin)) for b, e, region, _ in self._within(begin, end)]
        return [*found, *((-1, e - b) for b, e in self._gaps(begin, end))]

    def _within(self, begin: int, end: int) -> list[tuple[int, int, int, int]]:
        """Areas that have a part in [begin, end)."""
        first = max(bisect.bisect_right(self._begins, begin) - 1, 0)
        found = []
        for at in range(first, len(self._begins)):
            if self._begins[at] >= end:
                break
            if self._ends[at] > begin:
                found.append((self._begins[at], self._ends[at], self._regions[at], self._shifts[at]))
        return found

    def _gaps(self, begin: int, end: int) -> list[tuple[int, int]]:
        gaps = []
        for b, e, _, _ in self._within(begin, end):
            if b > begin:
                gaps.append((begin, b))
            begin = max(begin, e)
        return [*gaps, (begin, end)] if begin < end else gaps

    def _cut(self, begin: int, end: int) -> int:
        """Empties [begin, end); returns where an area that begins there belongs."""
        self._arrays = None
        begins, ends, regions, shifts = self._begins, self._ends, self._regions, self._shifts
        first = bisect.bisect_left(begins, begin)
        if first and ends[first - 1] > begin:
            if ends[first - 1] > end:  # it goes on behind
                begins.insert(first, end)
                ends.insert(first, ends[first - 1])
                regions.insert(first, regions[first - 1])
                shifts.insert(first, shifts[first - 1])
            ends[first - 1] = begin
        last = bisect.bisect_left(begins, end, lo=first)
        if last > first and ends[last - 1] > end:
            last -= 1
            begins[last] = end
        del begins[first:last], ends[first:last], regions[first:last], shifts[first:last]
        return first

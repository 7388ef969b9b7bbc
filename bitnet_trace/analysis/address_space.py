"""What lies where in one address space, now and at the moments before."""

import bisect

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

# Areas that are kept; a program has 65,530 at most (vm.max_map_count), a damaged recording may claim any number.
_MAX_AREAS = 1 << 17
_LARGEST_SHIFT = 1 << 60
# Areas of the past that are looked through at a time, and pairs of a point and such an area for each point.
_FEW_AREAS, _FEW_PAIRS = 256, 4


class AddressSpace:
    """Areas [begin, end) that do not overlap, each with two numbers: `region`, and `shift` = address - file offset.

    Changes are made at `now_ns`, which is set before them and never goes back.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._begins: list[int] = []
        self._areas: list[tuple[int, int, int, int]] = []  # end, region, shift, since when
        self._past: list[tuple[int, int, int, int, int, int]] = []  # begin, end, region, shift, since when, until when

    def take_over(self, other: "AddressSpace") -> None:
        """Holds from now on what `other` does."""
        self.clear()
        self._begins = list(other._begins)
        self._areas = [(end, region, shift, self.now_ns) for end, region, shift, _ in other._areas]

    def clear(self) -> None:
        for begin, area in zip(self._begins, self._areas, strict=True):
            self._ended(begin, *area)
        self._begins, self._areas = [], []

    def put(self, begin: int, end: int, region: int, shift: int = 0) -> None:
        """Replaces what lies there."""
        if begin >= end or len(self._begins) >= _MAX_AREAS:
            return
        if abs(shift) > _LARGEST_SHIFT:
            shift = 0  # damage
        at = self._cut(begin, end)
        self._begins.insert(at, begin)
        self._areas.insert(at, (end, region, shift, self.now_ns))

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
        """(region, shift) at an address now; region -1 where nothing lies."""
        place = bisect.bisect_right(self._begins, address) - 1
        if place >= 0 and address < self._areas[place][0]:
            return self._areas[place][1:3]
        return -1, 0

    def lookup(self, times_ns: Ints, addresses: Ints) -> tuple[Ints, Ints]:
        """(region, shift) at each address at its time, of no time before the last `forget_past`.

        A change holds from its own moment on.
        """
        # before the first area: one in which nothing lies
        areas = np.array([(-1, -1, 0, 0), *self._areas], np.int64)
        ends, of_region, of_shift, since_ns = np.ascontiguousarray(areas.T)
        place = np.searchsorted(np.array(self._begins, np.int64), addresses, side="right")
        missed = (addresses >= ends.take(place)) | (times_ns < since_ns.take(place))
        regions, shifts = of_region.take(place), of_shift.take(place)
        rest = np.flatnonzero(missed)
        regions[rest], shifts[rest] = -1, 0
        if self._past and len(rest):
            past = np.array(self._past, np.int64).T
            place = _places(past, times_ns[rest], addresses[rest])
            rest, place = rest[place >= 0], place[place >= 0]
            regions[rest], shifts[rest] = past[2][place], past[3][place]
        return regions, shifts

    def forget_past(self) -> None:
        self._past = []

    def parts(self, begin: int, end: int) -> list[tuple[int, int]]:
        """(region, bytes) of what lies in [begin, end); region -1 where nothing lies."""
        found = [(region, min(e, end) - max(b, begin)) for b, e, region, _ in self._within(begin, end)]
        return [*found, *((-1, e - b) for b, e in self._gaps(begin, end))]

    def _within(self, begin: int, end: int) -> list[tuple[int, int, int, int]]:
        """Areas that have a part in [begin, end)."""
        first = max(bisect.bisect_right(self._begins, begin) - 1, 0)
        last = bisect.bisect_left(self._begins, end, lo=first)
        areas = zip(self._begins[first:last], self._areas[first:last], strict=True)
        return [(b, e, region, shift) for b, (e, region, shift, _) in areas if e > begin]

    def _gaps(self, begin: int, end: int) -> list[tuple[int, int]]:
        gaps = []
        for b, e, _, _ in self._within(begin, end):
            if b > begin:
                gaps.append((begin, b))
            begin = max(begin, e)
        return [*gaps, (begin, end)] if begin < end else gaps

    def _cut(self, begin: int, end: int) -> int:
        """Empties [begin, end); returns where an area that begins there belongs."""
        begins, areas = self._begins, self._areas
        first = bisect.bisect_left(begins, begin)
        if first and areas[first - 1][0] > begin:
            area_end, region, shift, since_ns = areas[first - 1]
            areas[first - 1] = (begin, region, shift, since_ns)
            self._ended(begin, min(area_end, end), region, shift, since_ns)
            if area_end > end:  # it goes on behind
                begins.insert(first, end)
                areas.insert(first, (area_end, region, shift, since_ns))
        last = first
        while last < len(begins) and begins[last] < end:
            area_end, region, shift, since_ns = areas[last]
            self._ended(begins[last], min(area_end, end), region, shift, since_ns)
            if area_end > end:
                begins[last] = end
                break
            last += 1
        del begins[first:last], areas[first:last]
        return first

    def _ended(self, begin: int, end: int, region: int, shift: int, since_ns: int) -> None:
        if since_ns < self.now_ns:
            self._past.append((begin, end, region, shift, since_ns, self.now_ns))


def _places(past: Ints, times_ns: Ints, addresses: Ints) -> Ints:
    """The column of `past` (rows as of AddressSpace._past) that each point is in; -1 where it is in none.

    The columns overlap in no point. Points are taken with the areas of their time, some at a time.
    """
    result = np.full(len(times_ns), -1)
    order = np.argsort(times_ns, kind="stable")
    n_parts = min(past.shape[1] // _FEW_AREAS + 1, len(order))
    parts = np.array_split(order, n_parts)
    while parts:
        points = parts.pop()
        areas = np.flatnonzero((past[4] <= times_ns[points[-1]]) & (past[5] > times_ns[points[0]]))
        begins, ends, since_ns, until_ns = past[:, areas][[0, 1, 4, 5]]
        by_address = points[np.argsort(addresses[points], kind="stable")]
        first = np.searchsorted(addresses[by_address], begins)
        n_inside = np.searchsorted(addresses[by_address], ends) - first
        n_pairs = int(n_inside.sum())
        if n_pairs > _FEW_PAIRS * len(points) + _FEW_AREAS and len(points) > 1:
            parts += np.array_split(points, 2)
            continue
        area = np.repeat(np.arange(len(areas)), n_inside)
        nth = np.arange(n_pairs) - np.repeat(np.cumsum(n_inside) - n_inside, n_inside)
        point = by_address[first[area] + nth]
        then = (times_ns[point] >= since_ns[area]) & (times_ns[point] < until_ns[area])
        result[point[then]] = areas[area[then]]
    return result

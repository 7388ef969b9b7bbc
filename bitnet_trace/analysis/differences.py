"""Whether a difference of means is real, and how large it may be; corrected for how many are looked at."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

FALSE_DISCOVERIES = 0.05

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Of means, with Student's distribution: NaN where there is one value on a side."""

    p_value: float
    error: float
    freedom: float

    @staticmethod
    def welch(a: Values, b: Values, unit: float = 0.0) -> "Difference":
        """Of b and a, whose variances need not be equal. `unit`: of counts, what one event is worth."""
        if min(len(a), len(b)) < 2:
            return Difference(math.nan, math.nan, math.nan)
        parts = [values.var(ddof=1) / len(values) for values in (a, b)]
        error = math.sqrt(sum(parts))
        difference = abs(b.mean() - a.mean())
        if error <= 1e-12 * max(abs(a).max(), abs(b).max()):
            # the same in all runs of a group: what differs then differs by more than chance from three runs on
            same = difference == 0 or min(len(a), len(b)) < 3
            return Difference(1.0 if same else _chance_of_two_values(a, b, unit), 0.0, 1.0)
        freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
        return Difference(float(2 * special.stdtr(freedom, -difference / error)), error, freedom)

    @staticmethod
    def paired(values: Values) -> "Difference":
        """Of the mean of differences, each of two runs that belong together, and 0."""
        if len(values) < 2:
            return Difference(math.nan, math.nan, math.nan)
        error, freedom = math.sqrt(values.var(ddof=1) / len(values)), len(values) - 1
        if error <= 1e-12 * max(abs(values).max(), 1e-300):
            return Difference(1.0 if not values.any() or len(values) < 3 else 0.0, 0.0, freedom)
        return Difference(float(2 * special.stdtr(freedom, -abs(values.mean()) / error)), error, freedom)

    def half_width(self, level: float) -> float:
        """Of the interval that misses the truth with probability `level`."""
        if math.isnan(self.error):
            return math.nan
        return -float(special.stdtrit(self.freedom, level / 2)) * self.error


def _chance_of_two_values(a: Values, b: Values, unit: float) -> float:
    """How probable it is that counts of rare events (Poisson's, with the mean of all) are one number in all of `a` and
    another in all of `b`: 0 and 1 may well be, 10 and 12 are not. Without a unit 0."""
    if not unit:
        return 0.0
    mean = float(np.concatenate([a, b]).mean() / unit)
    numbers = np.rint(np.array([a[0], b[0]]) / unit)
    log_chance = float((stats.poisson.logpmf(numbers, mean) * [len(a), len(b)]).sum())
    return min(1.0, 2 * math.exp(log_chance))


def chosen(p_values: Values) -> tuple[npt.NDArray[np.bool_], float]:
    """Which are called real (Benjamini and Hochberg), and the level of all intervals that agrees with it."""
    n = len(p_values)
    if not n or np.isnan(p_values).any():
        return np.zeros(n, dtype=bool), FALSE_DISCOVERIES
    adjusted = stats.false_discovery_control(p_values, method="bh")
    real = adjusted <= FALSE_DISCOVERIES
    return real, FALSE_DISCOVERIES * max(int(real.sum()), 1) / n

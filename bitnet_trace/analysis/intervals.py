"""What counts and samples say of a mean.

SciPy has it all, but takes 0.3 s to import, a fifth of a report: the interval that most reports need does without.
"""

import math
from statistics import NormalDist

import numpy as np

_STEPS = 5  # each doubles the digits, of which the first guess has one


def t_quantile(freedom: int, confidence: float) -> float:
    """How many standard errors the interval of a mean is wide to each side, by Student's distribution."""
    from scipy import special

    return float(special.stdtrit(freedom, (1 + confidence) / 2))


def poisson(n: int, confidence: float) -> tuple[float, float]:
    """The exact interval of the mean of a Poisson distribution from which `n` > 0 was drawn (Garwood 1936)."""
    tail = (1 - confidence) / 2
    return _gamma_quantile(n, tail), _gamma_quantile(n + 1, 1 - tail)


def _gamma_quantile(shape: int, probability: float) -> float:
    """Newton's steps from the quantile of Wilson and Hilferty (1931)."""
    ninth = 1 / (9 * shape)
    x = shape * max(1 - ninth + NormalDist().inv_cdf(probability) * math.sqrt(ninth), 0.2) ** 3
    for _ in range(_STEPS):
        density = math.exp((shape - 1) * math.log(x) - x - math.lgamma(shape))
        # the series of the incomplete gamma function, DLMF 8.7.1, as far as its terms count
        n_terms = int(2 * max(x - shape, 0)) + 20 * math.isqrt(shape) + 60
        terms = np.cumprod(x / (shape + 1 + np.arange(n_terms)))
        below = density * x / shape * (1 + float(terms.sum()))
        x = max(x - (below - probability) / density, x / 4)
    return x

"""The few distributions that intervals and tests need, from their definitions: no scipy for five functions.

The incomplete beta function gives Student's t and the binomial; accuracy is about 1e-10 relative (a test compares with
goldens of another library).
"""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()
#: Steps of the continued fraction; it needs about the root of the larger parameter.
_STEPS = 100_000
_TINY = 1e-300


def normal_quantile(p: float) -> float:
    """The value that a standard normal variable stays below with probability ``p`` in (0, 1)."""
    return _NORMAL.inv_cdf(p)


def normal_below(z: float) -> float:
    """Probability that a standard normal variable is below ``z``, accurate in both tails."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (modified Lentz)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges quickly below the mean only
        return 1.0 - incomplete_beta(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1.0 + term * d
            c = 1.0 + term / c
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = c if abs(c) > _TINY else _TINY
            step = c * d
            value *= step
        if abs(step - 1.0) < 1e-15:
            break
    return math.exp(front) * value / a


def t_below(t: float, df: float) -> float:
    """Probability that a Student t variable with ``df`` degrees of freedom is below ``t``."""
    tail = 0.5 * incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return 1.0 - tail if t > 0 else tail


def t_quantile(p: float, df: float) -> float:
    """The value that a Student t variable stays below with probability ``p`` in (0, 1)."""
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, max(2.0, 2 * normal_quantile(p))
    while t_below(high, df) < p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if t_below(middle, df) < p else (low, middle)
    return high


def binomial_at_most(k: int, n: int, p: float) -> float:
    """Probability of at most ``k`` successes in ``n`` trials of probability ``p``."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return incomplete_beta(n - k, k + 1, 1 - p)


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927). ``n`` may be an effective number of documents.

    Unlike the normal interval it stays within 0 and 1, has a width when all documents agree, and holds its level for
    small n and for rates near 0 and 1 (Brown, Cai and DasGupta 2001).
    """
    z = normal_quantile(0.5 + level / 2)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    spread = z * math.sqrt(max(0.0, rate * (1 - rate)) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if rate <= 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if rate >= 1 else min(1.0, (centre + spread) / scale)
    return low, high

"""What a handful of runs can say: means, intervals and one-sided tests, after Student and Welch.

The distribution of t comes from the regularised incomplete beta function, computed by its continued
fraction (Press et al., "Numerical Recipes", section 6.4, with Lentz's method).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
"""Of the intervals that are shown."""

_TINY = 1e-300
_PRECISION = 1e-14
_MOST_TERMS = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that holds the true value with a stated confidence."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def holds_zero(self) -> bool:
        """Whether a difference may as well be none."""
        return self.low <= 0 <= self.high


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The mean's interval; None for fewer than two values, of which nothing can be said."""
    if len(values) < 2:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values))
    return _around(statistics.fmean(values), error, len(values) - 1.0, confidence)


def difference_interval(
    values: Sequence[float], base: Sequence[float], confidence: float = CONFIDENCE
) -> Interval | None:
    """Of mean(values) - mean(base), without taking their spreads for equal (Welch, "The
    generalization of Student's problem", Biometrika 34, 1947); None if either is fewer than two."""
    if len(values) < 2 or len(base) < 2:
        return None
    error, freedom = _welch(values, base)
    return _around(statistics.fmean(values) - statistics.fmean(base), error, freedom, confidence)


def probability_not_lower(values: Sequence[float], base: Sequence[float]) -> float | None:
    """One-sided p of Welch's test that mean(values) is below mean(base): how likely a difference
    this large or larger is if it is not. None if either has fewer than two values."""
    if len(values) < 2 or len(base) < 2:
        return None
    error, freedom = _welch(values, base)
    difference = statistics.fmean(values) - statistics.fmean(base)
    if error == 0.0:
        return 0.0 if difference < 0 else 1.0
    return t_probability(difference / error, freedom)


def _welch(values: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """The standard error of the difference of means, and its degrees of freedom."""
    shares = [statistics.variance(each) / len(each) for each in (values, base)]
    total = sum(shares)
    if total == 0.0:
        return 0.0, float(len(values) + len(base) - 2)
    parts = zip(shares, (values, base), strict=True)
    return math.sqrt(total), total**2 / sum(share**2 / (len(of) - 1) for share, of in parts)


def _around(mean: float, error: float, freedom: float, confidence: float) -> Interval:
    reach = error * t_quantile((1 + confidence) / 2, freedom) if error else 0.0
    return Interval(mean, mean - reach, mean + reach)


def t_probability(t: float, freedom: float) -> float:
    """P(T <= t) for Student's T with so many degrees of freedom, above 0."""
    tail = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return tail if t < 0 else 1 - tail


def t_quantile(probability: float, freedom: float) -> float:
    """The t with P(T <= t) = probability, in (0, 1)."""
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if t_probability(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), regularised; a and b above 0, x in [0, 1]."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _fraction(a, b, x) / a
    return 1 - math.exp(log_front) * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b)."""
    c, d = 1.0, _inverse(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MOST_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c = 1 + term / c or _TINY
            d = _inverse(1 + term * d)
            value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value


def _inverse(value: float) -> float:
    return 1 / (value or _TINY)

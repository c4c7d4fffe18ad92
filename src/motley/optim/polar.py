"""Polynomials that orthogonalise a matrix: the best ones for the number of iterations.

An iteration X <- a X + b (XX')X + c (XX')^2 X applies the odd polynomial p(x) = ax + bx^3 + cx^5 to
every singular value. Taking in each iteration the polynomial that is closest to 1 over the whole
interval in which the values can lie is optimal among all compositions (Amsel et al., "The Polar
Express", arXiv 2505.16932, theorem 3.1). The interval here is the widest that so many iterations
bring within `TOLERANCE` of 1: Muon needs directions of about equal size, not exact ones.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

TOLERANCE = 0.3
"""Largest distance of a singular value from 1 that is left: what the first Muon's polynomial leaves
(values between about 0.7 and 1.2)."""
CUSHION = 0.024
"""Share of the largest value below which an iteration does not aim: an interval without end would
bring values within it as low as its lower bound on the way, where 16 bits lose them (section 3.4 of
the paper)."""
SAFETY = 1.01
"""Rounding may lift a singular value above the interval, where polynomials diverge."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of the first Muon (Keller Jordan 2024) and of `torch.optim.Muon`."""


class Coefficients(NamedTuple):
    """p(x) = ax + bx^3 + cx^5."""

    a: float
    b: float
    c: float

    def __call__(self, x: float) -> float:
        return x * (self.a + x * x * (self.b + x * x * self.c))


@lru_cache(maxsize=32)
def polar_coefficients(num_iterations: int) -> tuple[Coefficients, ...]:
    """The polynomials of so many iterations, for singular values of at most 1."""
    return _composition(lower_bound(num_iterations), num_iterations)[0]


@lru_cache(maxsize=32)
def lower_bound(num_iterations: int) -> float:
    """The least singular value that so many iterations bring within the tolerance of 1."""
    low, high = -40.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        error = _composition(math.exp(middle), num_iterations)[1]
        low, high = (middle, high) if error > TOLERANCE else (low, middle)
    return math.exp(high)


def _composition(lower: float, num_iterations: int) -> tuple[tuple[Coefficients, ...], float]:
    """The best polynomials one after another for values in [lower, 1], and the error they leave."""
    upper, found = 1.0, []
    for _ in range(num_iterations):
        best = _best_polynomial(max(lower, CUSHION * upper), upper)
        centre = (best(lower) + best(upper)) / 2
        a, b, c = (factor / centre for factor in best)
        found.append(Coefficients(a / SAFETY, b / SAFETY**3, c / SAFETY**5))
        lower = best(lower) / centre
        upper = 2 - lower
    return tuple(found), 1 - lower


def _best_polynomial(lower: float, upper: float) -> Coefficients:
    """The odd polynomial of degree 5 closest to 1 on [lower, upper].

    Remez's exchange: the error has the same size and alternating signs at both ends and at the two
    extrema between them.
    """
    first, second = (3 * lower + upper) / 4, (lower + 3 * upper) / 4
    best, error = Coefficients(1.875 / upper, -1.25 / upper**3, 0.375 / upper**5), 0.0
    if lower > (1 - 1e-5) * upper:
        return best
    for _ in range(50):
        points = np.array([lower, first, second, upper])
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        rows = np.stack([points, points**3, points**5, signs], axis=1)
        a, b, c, found = (float(value) for value in np.linalg.solve(rows, np.ones(4)))
        best = Coefficients(a, b, c)
        root = math.sqrt(9 * b * b - 20 * a * c)
        first, second = (math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1))
        if abs(found - error) < 1e-12:
            break
        error = found
    return best

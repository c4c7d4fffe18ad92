"""Latency and bandwidth from message times: time = latency + bytes / bandwidth.

The fit minimises relative errors, so that small messages settle the latency and large ones the
bandwidth, and weighs points down that lie far off the line (iterated Huber weights, tuned as in
Holland and Welsch 1977). The model is that of Hockney (Parallel Computing 20, 1994).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HUBER_WIDTH = 1.345
"""In standard deviations: 95 % efficient on normal errors."""
NUM_ITERATIONS = 20
LEAST_ERROR = 1e-6
"""Relative; smaller ones are rounding and never weighed down."""
NORMAL_MAD = 0.6745
"""Median absolute deviation of the standard normal distribution."""


@dataclass(frozen=True)
class LinkPoint:
    """One message size of a link measurement."""

    num_bytes: int
    seconds: float
    """One way, median of the repetitions."""
    num_messages: int

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """What a message of this size gets, its latency included."""
        return self.num_bytes / self.seconds


def fit_link(points: Sequence[LinkPoint]) -> tuple[float, float]:
    """Bandwidth (bytes/s) and latency (s) of at least two sizes.

    Where the line has no positive slope or a negative latency, the largest message gives the
    bandwidth and the smallest the latency.
    """
    if len({point.num_bytes for point in points}) < 2:
        raise ValueError(f"points: needs two message sizes, found {len(points)} points")
    ordered = sorted(points, key=lambda point: point.num_bytes)
    robust = [1.0] * len(ordered)
    latency = slope = 0.0
    for _ in range(NUM_ITERATIONS):
        weights = [factor / point.seconds**2 for factor, point in zip(robust, ordered, strict=True)]
        latency, slope = _weighted_line(ordered, weights)
        robust = _huber_weights(ordered, latency, slope)
    if slope <= 0:
        return ordered[-1].bandwidth_bytes_per_s, ordered[0].seconds
    if latency < 0:
        return 1 / slope, max(0.0, ordered[0].seconds - ordered[0].num_bytes * slope)
    return 1 / slope, latency


def _weighted_line(points: Sequence[LinkPoint], weights: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of the weighted least squares line of seconds over bytes."""
    total = sum(weights)
    pairs = list(zip(weights, points, strict=True))
    mean_bytes = sum(weight * point.num_bytes for weight, point in pairs) / total
    mean_s = sum(weight * point.seconds for weight, point in pairs) / total
    spread = sum(weight * (point.num_bytes - mean_bytes) ** 2 for weight, point in pairs)
    shared = sum(
        weight * (point.num_bytes - mean_bytes) * (point.seconds - mean_s)
        for weight, point in pairs
    )
    slope = shared / spread
    return mean_s - slope * mean_bytes, slope


def _huber_weights(points: Sequence[LinkPoint], latency: float, slope: float) -> list[float]:
    errors = [abs((latency + point.num_bytes * slope) / point.seconds - 1) for point in points]
    limit = max(LEAST_ERROR, HUBER_WIDTH * statistics.median(errors) / NORMAL_MAD)
    return [1.0 if error <= limit else limit / error for error in errors]

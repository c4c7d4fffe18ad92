"""The maths of the plots: scales, ticks, paths and thinning; and the marks that charts over steps
share.

Places are shares of the drawing, 0 to 1, so that one drawing fits every width: the page stretches
it and keeps lines and labels at their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from motley.report.markup import Markup, tag

VIEW = 1000
"""Width and height of the coordinates that paths are written in."""

MOST_TICKS = 6
"""On each axis of a chart over steps."""

LARGEST = 1e100
"""Values beyond this are drawn at the edge: no axis can name them."""

Point = tuple[float, float]
"""(x, y); a y that is not finite is a gap."""


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [0, 1], evenly or by logarithm."""

    low: float
    high: float
    is_log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], *, is_log: bool = False, margin: float = 0.0) -> Scale:
        """A scale that holds the values with a margin; [0, 1] ([1, 10]) if none is."""
        lowest = 1 / LARGEST if is_log else -LARGEST
        drawn = [value for value in values if lowest <= value <= LARGEST]
        if not drawn:
            return cls(1.0, 10.0, True) if is_log else cls(0.0, 1.0)
        low, high = min(drawn), max(drawn)
        if is_log:
            widen = (high / low) ** margin if high > low else 1.1
            return cls(low / widen, high * widen, True)
        widen = (high - low) * margin if high > low else max(abs(low) * 0.05, 1e-9)
        return cls(low - widen, high + widen)

    def share(self, value: float) -> float:
        """Where `value` is; values outside are moved to the nearest end. NaN stays NaN."""
        if math.isnan(value):
            return math.nan
        if self.high <= self.low:
            return 0.5
        value = min(max(value, self.low), self.high)
        if self.is_log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[float]:
        """At most `most` round values inside the scale, ascending."""
        if self.is_log and self.high / self.low >= 5:
            return _log_ticks(self.low, self.high, most)
        return _even_ticks(self.low, self.high, most)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 in each decade, or decades only, or some of those."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [factor * 10.0**power for power in decades for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            return inside
    return inside[:: -(-len(inside) // most)]


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    if not high > low:
        return [low]
    raw = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return sorted({index * step for index in range(first, last + 1)})
    return []


def tick_text(value: float) -> str:
    """0.30000000000000004 -> "0.3"."""
    return f"{value:.6g}"


def stroke(path: str, kind: str) -> Markup:
    """A path in the style of that class."""
    return tag("path", d=path, class_=kind)


def grid(values: Scale) -> list[Markup]:
    """A line across the drawing at every tick."""
    heights = [(1 - values.share(tick)) * VIEW for tick in values.ticks(MOST_TICKS)]
    return [stroke(f"M0 {height:.1f}H{VIEW}", "grid") for height in heights]


def step_labels(steps: Scale, values: Scale) -> list[Markup]:
    """What the ticks of both axes say; there are no parts of a step."""
    whole = [tick for tick in steps.ticks(MOST_TICKS) if tick == int(tick)]
    return [
        *(
            tag("span", tick_text(tick), class_="y", style=f"bottom:{values.share(tick):.2%}")
            for tick in values.ticks(MOST_TICKS)
        ),
        *(
            tag("span", tick_text(tick), class_="x", style=f"left:{steps.share(tick):.2%}")
            for tick in whole
        ),
    ]


def line_path(points: Iterable[Point]) -> str:
    """An SVG path through points given as shares, y upwards; it breaks at gaps."""
    written: list[str] = []
    for run in _runs(points):
        for index, (x, y) in enumerate(run):
            written.append(f"{'L' if index else 'M'}{_coordinate(x)} {_coordinate(1 - y)}")
    return "".join(written)


def dots_path(points: Iterable[Point]) -> str:
    """An SVG path of dots: lines of no length, which round caps make visible."""
    places = [(x, y) for x, y in points if math.isfinite(y)]
    return "".join(f"M{_coordinate(x)} {_coordinate(1 - y)}h0" for x, y in places)


def lone_points(points: Iterable[Point]) -> list[Point]:
    """The points between two gaps, which a line does not show."""
    return [run[0] for run in _runs(points) if len(run) == 1]


def _runs(points: Iterable[Point]) -> list[list[Point]]:
    runs: list[list[Point]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _coordinate(share: float) -> str:
    return f"{share * VIEW:.1f}".removesuffix(".0")


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points that look the same: of each bucket its lowest and highest.

    The ends stay, and a gap inside a bucket stays a gap.
    """
    if len(points) <= most:
        return list(points)
    size = -(-len(points) // max(1, most // 3))
    kept = [points[0]]
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        finite = [index for index, (_, y) in enumerate(bucket) if math.isfinite(y)]
        gaps = [index for index, (_, y) in enumerate(bucket) if not math.isfinite(y)]
        chosen = set(gaps[:1])
        if finite:
            ranked = sorted(finite, key=[y for _, y in bucket].__getitem__)
            chosen |= {ranked[0], ranked[-1]}
        kept += [bucket[index] for index in sorted(chosen)]
    return [*kept, points[-1]]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of about `window` values around each place; NaN where the value is.

    Near the ends fewer values are taken, as many on each side, so that the mean does not lag.
    """
    sums, counts = [0.0], [0]
    for value in values:
        is_finite = math.isfinite(value)
        sums.append(sums[-1] + (value if is_finite else 0.0))
        counts.append(counts[-1] + is_finite)
    means = []
    for index, value in enumerate(values):
        reach = min(window // 2, index, len(values) - 1 - index)
        low, high = index - reach, index + reach + 1
        known = counts[high] - counts[low]
        means.append((sums[high] - sums[low]) / known if math.isfinite(value) else math.nan)
    return means

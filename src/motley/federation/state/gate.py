"""The loss gate: what an update does to a reviewer's own held-out loss, against what the others do.

No threshold of nats holds for all models and all stages of a training. The round itself gives the
measure: how much its middle update lowers the loss, and how far apart its updates are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from motley.federation.codec.codec import Codec
from motley.federation.codec.layout import Shapes
from motley.federation.codec.payload import Payload
from motley.federation.state.merge import clip_factors

LossOf = Callable[[Mapping[str, Tensor]], float]
"""Held-out nats per token of a model with these parameters replaced."""

SPREADS = 6.0
"""So many standard deviations from the middle an update is at least allowed to be."""
NORMAL_SPREAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
LEAST_FOR_SPREAD = 3


def largest_rise(rises: Sequence[float], ratio: float) -> float:
    """The rise of the loss above which an update of a round is refused.

    An update may cost `ratio` times what the middle update gains; and, where three or more tell how
    far apart updates of the round are, six of their standard deviations more than the middle one.
    """
    if not rises:
        return math.inf
    middle = statistics.median_low(rises)
    if not math.isfinite(middle):
        return math.inf
    if len(rises) < LEAST_FOR_SPREAD:
        return -ratio * middle if middle < 0 else math.inf
    spread = NORMAL_SPREAD * statistics.median_low(abs(rise - middle) for rise in rises)
    return max(-ratio * middle, 0.0, middle + SPREADS * spread)


def measure_rises(
    parameters: Mapping[str, Tensor],
    payloads: Sequence[Payload],
    *,
    codec: Codec,
    shapes: Shapes,
    loss_of: LossOf,
    rate: float,
) -> list[float]:
    """How much each update raises the held-out loss by the share with which it would count: cut to
    the median norm, one of as many as there are. At full length an honest one raises it too: what
    makes a sparse update of one party noisy goes away only in the average.

    `rate` is the outer learning rate. An update that makes the loss infinite or NaN gives infinity.
    """
    norms = [math.sqrt(codec.squared_norm(payload, shapes)) for payload in payloads]
    before = loss_of({})
    rises = []
    for payload, factor in zip(payloads, clip_factors(norms) if norms else [], strict=True):
        delta = codec.decode(payload, shapes)
        share = rate * factor / len(payloads)
        moved = {name: parameters[name] + value * share for name, value in delta.items()}
        rise = loss_of(moved) - before
        rises.append(rise if math.isfinite(rise) else math.inf)
    return rises

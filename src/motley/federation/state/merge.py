"""A round's accepted payloads into the shared parameters: decode, clip, average, outer step.

Done slab by slab over all payloads, so beside the parameters and the payloads nothing of the
model's size is ever held, and all cores work. The result depends on the arguments alone: not on the
machine, the number of threads, or who calls.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from motley.federation.charter.terms import AggregateConfig, OuterConfig
from motley.federation.codec.codec import Codec, flat_arrays
from motley.federation.codec.layout import Floats, Slab
from motley.federation.codec.payload import Payload, arrays_of
from motley.federation.state.outer import has_momentum, move


def merge(
    parameters: Mapping[str, Tensor],
    momentum: Mapping[str, Tensor],
    updates: Sequence[tuple[int, Payload]],
    *,
    names: Sequence[str],
    codec: Codec,
    outer: OuterConfig,
    aggregate: AggregateConfig,
) -> list[float]:
    """One outer step on the parameters of those names, in place; returns the updates' L2 norms.

    `updates` are weights (tokens, above zero) and payloads, in canonical order: round, then party
    name. `parameters` and `momentum` are contiguous fp32 CPU tensors; momentum is used if `outer`
    has it. `PayloadError` before anything is changed, if a payload is not one of this codec for
    these parameters. No updates change nothing.
    """
    if not updates:
        return []
    shapes = {name: tuple(parameters[name].shape) for name in names}
    layout = codec.layout(shapes)
    norms = [math.sqrt(codec.squared_norm(payload, shapes)) for _, payload in updates]
    specs = codec.specs(layout)
    sources = [arrays_of(payload, specs) for _, payload in updates]
    factors = _factors([weight for weight, _ in updates], norms, aggregate)
    values = flat_arrays({name: parameters[name] for name in names})
    speeds = flat_arrays({name: momentum[name] for name in names if has_momentum(outer)})

    def work(slab: Slab) -> None:
        parts = (codec.decode_slab(arrays, slab) for arrays in sources)
        if aggregate.aggregate == "trimmed_mean":
            average = _trimmed_mean(parts, factors, aggregate.assumed_attackers)
        else:
            average = _weighted_sum(parts, factors)
        for piece in slab.pieces:
            part = slice(piece.start, piece.stop)
            speed = speeds[piece.name][part] if speeds else None
            move(values[piece.name][part], speed, average.reshape(-1)[piece.span], outer)

    layout.map(work)
    return norms


def clip_factors(norms: Sequence[float]) -> list[float]:
    """What shortens each update to the (lower) median norm; 1 for those that are not longer."""
    median = statistics.median_low(norms)
    return [median / norm if norm > median else 1.0 for norm in norms]


def _factors(
    weights: Sequence[int], norms: Sequence[float], aggregate: AggregateConfig
) -> list[np.float32]:
    """What each decoded update is multiplied with; a trimmed mean does not weigh."""
    clips = clip_factors(norms) if aggregate.clip_to_median else [1.0] * len(norms)
    if aggregate.aggregate == "trimmed_mean":
        return [np.float32(clip) for clip in clips]
    total = sum(weights)
    return [np.float32(weight / total * clip) for weight, clip in zip(weights, clips, strict=True)]


def _weighted_sum(parts: Iterable[Floats], factors: Sequence[np.float32]) -> Floats:
    """In the order of the parts."""
    total: Floats | None = None
    for part_ce, factor in zip(parts, factors, strict=True):
        scaled_ce = part_ce * factor
        total = scaled_ce if total is None else np.add(total, scaled_ce, out=total)
    assert total is not None
    return total


def _trimmed_mean(
    parts: Iterable[Floats], factors: Sequence[np.float32], num_trimmed: int
) -> Floats:
    """Of each coordinate without its `num_trimmed` largest and smallest values; one stays."""
    stacked_pce = np.stack([p * factor for p, factor in zip(parts, factors, strict=True)])
    stacked_pce.sort(axis=0)
    trimmed = min(num_trimmed, (len(stacked_pce) - 1) // 2)
    kept_pce = stacked_pce[trimmed : len(stacked_pce) - trimmed]
    return _weighted_sum(kept_pce, [np.float32(1 / len(kept_pce))] * len(kept_pce))

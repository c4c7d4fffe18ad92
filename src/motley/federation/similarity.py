"""How alike the updates of a round are: the cosine of each two, exact and so the same everywhere.

Each update is divided by its norm and rounded to whole multiples of 2^-20. Sums of products of such
numbers are whole and below 2^53: float64 holds them exactly in any order, fused or not, so that
even a BLAS product gives the same bits on every machine. All coordinates count; nobody can hide in
those that a sample leaves out.

Legend: p payloads, e elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from motley.federation.codec.codec import Codec
from motley.federation.codec.layout import Shapes, Slab, on_all_cores
from motley.federation.codec.payload import Payload, arrays_of

Cosines = NDArray[np.float64]
"""[p, p], symmetric; 0 where one of two updates is zero."""
UNIT = 2.0**-20
_LARGEST_SHARE = 2**17
"""Largest single value in units (an eighth of the norm; larger ones are cut): 2^18 products of two
stay below 2^53."""
_BLOCK_VALUES = 2**18
_BLOCK_BYTES = 2**26


def cosines(
    payloads: Sequence[Payload], norms: Sequence[float], codec: Codec, shapes: Shapes
) -> Cosines:
    """The cosine of each two of the payloads, whose L2 norms are given."""
    layout = codec.layout(shapes)
    sources = [arrays_of(payload, codec.specs(layout)) for payload in payloads]
    scales = [np.float32(1 / (norm * UNIT) if norm > 0 else 0.0) for norm in norms]

    def gram(slab: Slab) -> NDArray[np.float64]:
        units_pe = np.stack(
            [
                np.rint(codec.decode_slab(arrays, slab).reshape(-1) * scale)
                for arrays, scale in zip(sources, scales, strict=True)
            ]
        ).astype(np.float64)
        np.clip(units_pe, -_LARGEST_SHARE, _LARGEST_SHARE, out=units_pe)
        product: NDArray[np.float64] = units_pe @ units_pe.T
        return product

    values = min(_BLOCK_VALUES, _BLOCK_BYTES // (8 * max(1, len(payloads))))
    blocks = list(layout.slabs(max(codec.chunk, values)))
    total = sum(on_all_cores(gram, blocks), np.zeros((len(payloads), len(payloads))))
    lengths = [math.sqrt(total[index, index]) or 1.0 for index in range(len(payloads))]
    return total / np.outer(lengths, lengths)


def agreement(alike: Cosines, index: int) -> float:
    """The cosine of one update's direction with the sum of the others' directions."""
    others = [other for other in range(len(alike)) if other != index]
    along = math.fsum(alike[index, other] for other in others)
    length = math.sqrt(max(0.0, math.fsum(alike[a, b] for a in others for b in others)))
    return along / length if length > 0 else 0.0

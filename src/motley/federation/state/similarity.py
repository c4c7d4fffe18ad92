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

from motley.federation.codec.arithmetic import fixed_order_sums
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
    units = _Units(payloads, norms, codec, shapes)

    def gram(slab: Slab) -> Cosines:
        units_pe = units.of(slab)
        product: Cosines = units_pe @ units_pe.T
        return product

    total = sum(on_all_cores(gram, units.blocks()), np.zeros((len(payloads), len(payloads))))
    lengths = [math.sqrt(total[index, index]) or 1.0 for index in range(len(payloads))]
    return total / np.outer(lengths, lengths)


class _Units:
    """Payloads as directions in whole multiples of `UNIT`, block by block."""

    def __init__(
        self, payloads: Sequence[Payload], norms: Sequence[float], codec: Codec, shapes: Shapes
    ) -> None:
        self._codec = codec
        self._layout = codec.layout(shapes)
        specs = codec.specs(self._layout)
        scales = [np.float32(1 / (norm * UNIT) if norm > 0 else 0.0) for norm in norms]
        arrays = [arrays_of(payload, specs) for payload in payloads]
        self._sources = list(zip(arrays, scales, strict=True))

    def blocks(self) -> list[Slab]:
        values = min(_BLOCK_VALUES, _BLOCK_BYTES // (8 * max(1, len(self._sources))))
        return list(self._layout.slabs(max(self._codec.chunk, values)))

    def of(self, slab: Slab) -> NDArray[np.float64]:
        """[p, e]"""
        units_pe = np.stack(
            [
                np.rint(self._codec.decode_slab(arrays, slab).reshape(-1) * scale)
                for arrays, scale in self._sources
            ]
        ).astype(np.float64)
        np.clip(units_pe, -_LARGEST_SHARE, _LARGEST_SHARE, out=units_pe)
        return units_pe


def sign_scores(
    payloads: Sequence[Payload], norms: Sequence[float], codec: Codec, shapes: Shapes
) -> list[float]:
    """How far each update's product with the sum of the other directions is from what chance gives.

    Let x be the products of its values with that sum's. If the update's signs were drawn at random,
    as those of noise are, sum(x) / sqrt(sum(x^2)) would have mean 0 and variance 1, and nearly the
    standard normal distribution. 0 where nothing overlaps.
    """
    units = _Units(payloads, norms, codec, shapes)

    def sums(slab: Slab) -> NDArray[np.float64]:
        units_pe = units.of(slab)
        products_pe = units_pe * (units_pe.sum(0) - units_pe)
        both = np.stack([products_pe, products_pe * products_pe])
        return fixed_order_sums(np.ascontiguousarray(both.transpose(2, 0, 1)))

    total = np.zeros((2, len(payloads)))
    for part in on_all_cores(sums, units.blocks()):
        total += part
    return [
        float(along / math.sqrt(squares)) if squares > 0 else 0.0
        for along, squares in zip(*total, strict=True)
    ]


def agreement(alike: Cosines, index: int) -> float:
    """The cosine of one update's direction with the sum of the others' directions."""
    others = [other for other in range(len(alike)) if other != index]
    along = math.fsum(alike[index, other] for other in others)
    length = math.sqrt(max(0.0, math.fsum(alike[a, b] for a in others for b in others)))
    return along / length if length > 0 else 0.0

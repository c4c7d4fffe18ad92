"""Evenly spaced values: 8 or 4 bits each, on a step of its own for every 256.

The step is a bfloat16, rounded up so that the largest value is never cut off. A level times a step
has at most 15 significant bits and is exact in fp32: decoding never rounds.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from motley.federation.codec.arithmetic import (
    LARGEST,
    fixed_order_sum,
    from_short,
    short_ceiling,
    shorts_are_valid,
)
from motley.federation.codec.codec import Codec, require, require_finite
from motley.federation.codec.layout import Floats, Layout, Slab
from motley.federation.codec.payload import Arrays, ArraySpec, nonfinite

STEP_BITS = 16


class UniformCodec(Codec):
    """Signed levels of `bits` bits, the lowest of which is not used."""

    chunk = 256

    def __init__(self, bits: Literal[4, 8], feedback_decay: float) -> None:
        super().__init__(feedback_decay)
        self.bits = bits
        self.largest_level = 2 ** (bits - 1) - 1
        self.bits_per_parameter = bits + STEP_BITS / self.chunk

    def specs(self, layout: Layout) -> dict[str, ArraySpec]:
        width = self.chunk * self.bits // 8
        return {
            "levels": ArraySpec("int8", (layout.num_chunks, width)),
            "steps": ArraySpec("int16", (layout.num_chunks,)),
        }

    def encode_slab(self, values_ce: Floats, slab: Slab, arrays: Arrays) -> None:
        peaks_c = np.maximum(values_ce.max(1), -values_ce.min(1))
        require_finite(bool((peaks_c < LARGEST).all()))
        shorts_c = short_ceiling(peaks_c / np.float32(self.largest_level))
        steps_c = from_short(shorts_c)
        inverse_c = np.divide(np.float32(1), steps_c, out=np.zeros_like(steps_c), where=steps_c > 0)
        levels_ce = values_ce * inverse_c[:, None]
        np.rint(levels_ce, out=levels_ce)
        arrays["levels"][slab.rows] = self._pack(levels_ce.astype(np.int8))
        arrays["steps"][slab.rows] = shorts_c
        levels_ce *= steps_c[:, None]
        values_ce -= levels_ce

    def decode_slab(self, arrays: Arrays, slab: Slab) -> Floats:
        levels_ce, steps_c = self._read(arrays, slab)
        values_ce: Floats = levels_ce.astype(np.float32)
        values_ce *= steps_c[:, None]
        return values_ce

    def slab_squared_norm(self, arrays: Arrays, slab: Slab) -> float:
        levels_ce, steps_c = self._read(arrays, slab)
        squares_ce = levels_ce.astype(np.int16)
        squares_ce *= squares_ce
        sums_c = squares_ce.sum(1, dtype=np.int32).astype(np.float64)
        return fixed_order_sum(sums_c * steps_c * steps_c)

    def _read(self, arrays: Arrays, slab: Slab) -> tuple[NDArray[np.int8], Floats]:
        levels_ce, shorts_c = self._unpack(arrays["levels"][slab.rows]), arrays["steps"][slab.rows]
        if not shorts_are_valid(shorts_c):
            raise nonfinite("a step is negative, not finite or out of range")
        lowest = levels_ce.min()
        require(bool(lowest >= -self.largest_level), f"a level of {lowest}")
        if slab.tails:
            levels_ce = levels_ce.copy()
            slab.clear_padding(levels_ce)
        return levels_ce, from_short(shorts_c)

    def _pack(self, levels_ce: NDArray[np.int8]) -> NDArray[np.int8]:
        """4-bit levels i and i + 128 of a chunk share a byte, the first in its lower half."""
        if self.bits == 8:
            return levels_ce
        half = self.chunk // 2
        return (levels_ce[:, :half] & 15) | (levels_ce[:, half:] << 4)

    def _unpack(self, packed: NDArray[np.int8]) -> NDArray[np.int8]:
        if self.bits == 8:
            return packed
        half = self.chunk // 2
        levels_ce = np.empty((packed.shape[0], self.chunk), dtype=np.int8)
        np.right_shift(packed << 4, 4, out=levels_ce[:, :half])
        np.right_shift(packed, 4, out=levels_ce[:, half:])
        return levels_ce

"""The largest values of each chunk, with two bits each: sign, and one of two magnitudes.

As SparseLoCo does (arXiv 2508.15706): the k largest of every 4,096, error feedback in place of the
outer momentum. Positions take fewer bits here, see `positions`. The two magnitudes of a chunk are
the means of its smaller and larger kept values (two rounds of Lloyd's method), as bfloat16.

Legend: c chunks, e = 4,096 elements of a chunk, k kept ones, b bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from motley.federation.codec.arithmetic import (
    LARGEST,
    fixed_order_sum,
    from_short,
    short_nearest,
    shorts_are_valid,
)
from motley.federation.codec.codec import Codec, require, require_finite
from motley.federation.codec.layout import Floats, Layout, Slab
from motley.federation.codec.payload import Arrays, ArraySpec, malformed, nonfinite
from motley.federation.codec.positions import PositionCode, Positions

CHUNK = 4096
VALUE_BITS = 2
LEVEL_BITS = 2 * 16
_UNITS = 2**20
"""Magnitudes are averaged as whole numbers of the chunk's largest / 2^20: exact in any order."""
_LLOYD_ROUNDS = 2
_TINY = 2.0**-80
"""Chunks whose largest value is not above this are written as zeros."""

Choices = NDArray[np.bool_]


class SparseCodec(Codec):
    """Keeps about `density` of the values."""

    chunk = CHUNK

    def __init__(self, density: float, feedback_decay: float) -> None:
        super().__init__(feedback_decay)
        self.kept = max(1, round(density * CHUNK))
        self.code = PositionCode(count=self.kept, size=CHUNK)
        self.row_bytes = -(-(self.code.num_bits + VALUE_BITS * self.kept) // 8)
        self.bits_per_parameter = (8 * self.row_bytes + LEVEL_BITS) / CHUNK

    def specs(self, layout: Layout) -> dict[str, ArraySpec]:
        return {
            "bits": ArraySpec("uint8", (layout.num_chunks, self.row_bytes)),
            "magnitudes": ArraySpec("int16", (layout.num_chunks, 2)),
        }

    def encode_slab(self, values_ce: Floats, slab: Slab, arrays: Arrays) -> None:
        places = _largest(values_ce, self.kept)
        flat = values_ce.reshape(-1)
        kept_ck = flat[places].reshape(-1, self.kept)
        positions_ck = (places & (CHUNK - 1)).astype(np.int16).reshape(-1, self.kept)
        is_large_ck, shorts_c2 = _two_magnitudes(np.abs(kept_ck), _is_real(positions_ck, slab))
        is_negative_ck = kept_ck < 0
        bits_cb = np.concatenate(
            [self.code.write(positions_ck), is_negative_ck, is_large_ck], axis=1, dtype=np.uint8
        )
        arrays["bits"][slab.rows] = np.packbits(bits_cb, axis=1, bitorder="little")
        arrays["magnitudes"][slab.rows] = shorts_c2
        flat[places] -= _values(is_negative_ck, is_large_ck, from_short(shorts_c2)).reshape(-1)

    def decode_slab(self, arrays: Arrays, slab: Slab) -> Floats:
        positions_ck, is_negative_ck, is_large_ck, magnitudes_c2 = self._read(arrays, slab)
        values_ce = np.zeros((slab.num_chunks, CHUNK), dtype=np.float32)
        places_ck = positions_ck + CHUNK * np.arange(slab.num_chunks)[:, None]
        values_ce.reshape(-1)[places_ck] = _values(is_negative_ck, is_large_ck, magnitudes_c2)
        slab.clear_padding(values_ce)
        return values_ce

    def slab_squared_norm(self, arrays: Arrays, slab: Slab) -> float:
        positions_ck, _, is_large_ck, magnitudes_c2 = self._read(arrays, slab)
        is_real_ck = _is_real(positions_ck, slab)
        num_large_c = np.count_nonzero(is_large_ck & is_real_ck, axis=1)
        num_small_c = np.count_nonzero(is_real_ck, axis=1) - num_large_c
        squares_c2 = np.square(magnitudes_c2.astype(np.float64))
        return fixed_order_sum(squares_c2[:, 0] * num_small_c + squares_c2[:, 1] * num_large_c)

    def _read(self, arrays: Arrays, slab: Slab) -> tuple[Positions, Choices, Choices, Floats]:
        """Positions, signs and magnitude bits [c, k] and the magnitudes [c, 2]."""
        bits_cb = np.unpackbits(arrays["bits"][slab.rows], axis=1, bitorder="little")
        split, kept = self.code.num_bits, self.kept
        require(not bits_cb[:, split + VALUE_BITS * kept :].any(), "bits set after the last value")
        positions_ck = self.code.read(bits_cb[:, :split])
        if positions_ck is None:
            raise malformed("the positions do not ascend, or are not as many as the charter says")
        shorts_c2 = arrays["magnitudes"][slab.rows]
        if not shorts_are_valid(shorts_c2):
            raise nonfinite("a magnitude is negative, not finite or out of range")
        is_negative_ck, is_large_ck = (
            bits_cb[:, start : start + kept].view(np.bool_) for start in (split, split + kept)
        )
        return positions_ck, is_negative_ck, is_large_ck, from_short(shorts_c2)


def _is_real(positions_ck: Positions, slab: Slab) -> Choices:
    """Which positions hold a value; the others are padding."""
    is_real_ck = np.ones(positions_ck.shape, dtype=np.bool_)
    for row, size in slab.tails:
        is_real_ck[row] = positions_ck[row] < size
    return is_real_ck


def _largest(values_ce: Floats, count: int) -> NDArray[np.int64]:
    """Flat indices, ascending, of the `count` largest magnitudes of each row; of equal ones the
    first. `PayloadError` if a value is not finite.

    The bits of a magnitude, read as an integer, order it, and integers are selected fastest.
    """
    bits_ce = values_ce.view(np.int32) & np.int32(0x7FFFFFFF)
    limits_c1 = np.partition(bits_ce, CHUNK - count, axis=1)[:, CHUNK - count :]
    require_finite(bool(limits_c1.max() < np.float32(LARGEST).view(np.int32)))
    limits_c1 = limits_c1[:, :1]
    is_kept_ce = bits_ce >= limits_c1
    places = np.flatnonzero(is_kept_ce)
    if len(places) > count * len(bits_ce):
        has_ties_c = np.count_nonzero(is_kept_ce, axis=1) > count
        ties_ce = bits_ce[has_ties_c] == limits_c1[has_ties_c]
        above_ce = bits_ce[has_ties_c] > limits_c1[has_ties_c]
        room_c1 = count - np.count_nonzero(above_ce, axis=1)[:, None]
        is_kept_ce[has_ties_c] = above_ce | (ties_ce & (np.cumsum(ties_ce, axis=1) <= room_c1))
        places = np.flatnonzero(is_kept_ce)
    return places


def _two_magnitudes(
    magnitudes_ck: Floats, is_real_ck: Choices
) -> tuple[Choices, NDArray[np.int16]]:
    """Which values take the larger of two magnitudes [c, k], and the two as bfloat16 [c, 2]."""
    peaks_c1 = magnitudes_ck.max(1, keepdims=True)
    scale_c1 = np.divide(
        np.float32(_UNITS), peaks_c1, out=np.zeros_like(peaks_c1), where=peaks_c1 > _TINY
    )
    units_ck = (magnitudes_ck * scale_c1).astype(np.int64)
    small_c1 = large_c1 = _mean(units_ck, is_real_ck)
    for _ in range(_LLOYD_ROUNDS):
        is_large_ck = 2 * units_ck > small_c1 + large_c1
        large_c1 = _mean(units_ck, is_large_ck)
        small_c1 = _mean(units_ck, is_real_ck & ~is_large_ck)
    levels_c2 = np.concatenate([small_c1, large_c1], axis=1).astype(np.float32)
    return is_large_ck, short_nearest(levels_c2 * (peaks_c1 / np.float32(_UNITS)))


def _mean(units_ck: NDArray[np.int64], chosen_ck: Choices) -> NDArray[np.int64]:
    """The mean [c, 1] of the chosen, 0 where none is."""
    sums_c1 = (units_ck * chosen_ck).sum(1, keepdims=True)
    counts_c1 = np.count_nonzero(chosen_ck, axis=1)[:, None]
    mean_c1: NDArray[np.int64] = sums_c1 // np.maximum(counts_c1, 1)
    return mean_c1


def _values(is_negative_ck: Choices, is_large_ck: Choices, magnitudes_c2: Floats) -> Floats:
    values_ck = np.where(is_large_ck, magnitudes_c2[:, 1:], magnitudes_c2[:, :1])
    return np.where(is_negative_ck, -values_ck, values_ck)

"""Sets of k positions among n in few bits, all sets of one size in equally many.

Elias (1974) and Fano (1971): positions ascend; of each the lower bits are written down as they are
and the upper parts in unary, as a row of k ones among the marks between the buckets. With k = 64 of
4,096 that is 8 bits a position, where plain ones take 12 and the entropy of the set is 7.4.

Legend: c chunks, k positions of a chunk, b bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
"""Zeros and ones, one a byte."""


@dataclass(frozen=True, kw_only=True)
class PositionCode:
    """The code of `count` positions below `size`, a power of two."""

    count: int
    size: int

    @property
    def lower_bits(self) -> int:
        """Of each position; what makes the whole code shortest."""
        width = self.size.bit_length() - 1
        return min(range(width + 1), key=lambda lower: self.count * lower + (self.size >> lower))

    @property
    def upper_bits(self) -> int:
        """Length of the unary part: one for each position and one for each bucket."""
        return self.count + (self.size >> self.lower_bits)

    @property
    def num_bits(self) -> int:
        return self.count * self.lower_bits + self.upper_bits

    def write(self, positions_ck: NDArray[np.int64]) -> Bits:
        """Bits [c, num_bits] of ascending positions."""
        rows, lower = len(positions_ck), self.lower_bits
        low_ckb = (positions_ck[:, :, None] >> np.arange(lower)) & 1
        upper_cb = np.zeros((rows, self.upper_bits), dtype=np.uint8)
        places_ck = (positions_ck >> lower) + np.arange(self.count)
        np.put_along_axis(upper_cb, places_ck, 1, axis=1)
        low_cb = low_ckb.astype(np.uint8).reshape(rows, self.count * lower)
        return np.concatenate([low_cb, upper_cb], axis=1)

    def read(self, bits_cb: Bits) -> NDArray[np.int64] | None:
        """The positions [c, k]; None unless each row is what `write` gives for ascending ones."""
        rows, split = len(bits_cb), self.count * self.lower_bits
        row_k, place_k = np.nonzero(bits_cb[:, split:])
        if not np.array_equal(row_k, np.repeat(np.arange(rows), self.count)):
            return None
        positions_ck = place_k.reshape(rows, self.count) - np.arange(self.count)
        low_ckb = bits_cb[:, :split].reshape(rows, self.count, self.lower_bits)
        for place in range(self.lower_bits - 1, -1, -1):
            positions_ck = (positions_ck << 1) | low_ckb[:, :, place]
        ascending = bool((np.diff(positions_ck, axis=1) > 0).all())
        return positions_ck if ascending and bool((positions_ck < self.size).all()) else None

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
Positions = NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class PositionCode:
    """The code of `count` positions below `size`, a power of two up to 4,096."""

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

    def write(self, positions_ck: Positions) -> Bits:
        """Bits [c, num_bits] of ascending positions."""
        rows, lower, split = len(positions_ck), self.lower_bits, self.count * self.lower_bits
        bits_cb = np.zeros((rows, self.num_bits), dtype=np.uint8)
        low_ckb = bits_cb[:, :split].reshape(rows, self.count, lower)
        for place in range(lower):
            low_ckb[:, :, place] = (positions_ck >> place) & 1
        places_ck = (positions_ck >> lower) + np.arange(split, split + self.count)
        bits_cb.reshape(-1)[places_ck + self.num_bits * np.arange(rows)[:, None]] = 1
        return bits_cb

    def read(self, bits_cb: Bits) -> Positions | None:
        """The positions [c, k]; None unless each row is what `write` gives for ascending ones."""
        rows, split = len(bits_cb), self.count * self.lower_bits
        upper_cb = bits_cb[:, split:].view(np.bool_)
        if not (np.count_nonzero(upper_cb, axis=1) == self.count).all():
            return None
        ranks = np.flatnonzero(upper_cb).reshape(rows, self.count)
        starts_ck = self.upper_bits * np.arange(rows)[:, None] + np.arange(self.count)
        positions_ck = (ranks - starts_ck).astype(np.int16)
        low_ckb = bits_cb[:, :split].reshape(rows, self.count, self.lower_bits)
        for place in range(self.lower_bits - 1, -1, -1):
            positions_ck = (positions_ck << 1) | low_ckb[:, :, place]
        ascending = bool((positions_ck[:, 1:] > positions_ck[:, :-1]).all())
        return positions_ck if ascending and bool((positions_ck < self.size).all()) else None

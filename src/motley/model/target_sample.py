"""Which words of the vocabulary stand for all in a step's softmax, and how much each counts.

Frequent tokens are always in the sample; of the others each is in it with a probability that is
proportional to its frequency. One over that probability is its weight (Horvitz and Thompson, 1952),
so that the weighted sum over the sample is on average the sum over the vocabulary. The draw is
systematic (Madow, 1949), of a fixed size, and made of integers alone: any machine draws the same.

Shapes: v vocabulary, m sampled tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class TargetSample(NamedTuple):
    """The sampled tokens, ascending, and their weights in the softmax's sum."""

    tokens_m: Integers
    weights_m: NDArray[np.float64]
    """At least 1; 1 for tokens that are always in the sample."""


def draw_targets(counts_v: Integers, size: int, seed: int, step: int) -> TargetSample:
    """`size` tokens (all, if there are no more) for a step; `counts_v` are their frequencies, where
    one that never occurs counts like one that occurs once."""
    counts_v = np.maximum(counts_v, 1)
    always_v = _always(counts_v, size)
    others = np.flatnonzero(~always_v)
    num_drawn = size - int(always_v.sum())
    if not len(others) or num_drawn <= 0:
        return TargetSample(np.flatnonzero(always_v), np.ones(int(always_v.sum())))
    state = _mix(np.uint64(seed % 2**64) ^ _mix(np.uint64(step)))
    others = others[np.argsort(_mix(state ^ others.astype(np.uint64)), kind="stable")]
    total = int(counts_v[others].sum())
    first = int(_mix(state + np.uint64(1))) % total
    ends = np.cumsum(counts_v[others] * num_drawn)
    drawn = others[np.searchsorted(ends, first + total * np.arange(num_drawn), side="right")]
    tokens_m = np.sort(np.concatenate((np.flatnonzero(always_v), drawn)))
    weights_m = np.where(always_v[tokens_m], 1.0, total / (counts_v[tokens_m] * num_drawn))
    return TargetSample(tokens_m, weights_m)


def _always(counts_v: Integers, size: int) -> NDArray[np.bool_]:
    """Tokens that a draw of `size` in proportion to their counts would take more than once: they
    are taken for certain, which may make that true of others."""
    always_v = np.zeros(len(counts_v), dtype=np.bool_)
    if size >= len(counts_v):
        return ~always_v
    while True:
        rest = np.where(always_v, 0, counts_v)
        num_drawn = size - int(always_v.sum())
        more_v = ~always_v & (rest * num_drawn >= rest.sum())
        if not more_v.any():
            return always_v
        always_v |= more_v


def _mix(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """64 bits to 64 bits: one step of SplitMix64 (Steele et al., 2014)."""
    mixed = np.atleast_1d(np.asarray(value, dtype=np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed if np.ndim(value) else mixed[0]

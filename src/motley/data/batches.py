"""Token streams to batches, in an order that is computed instead of stored.

A sample is `sequence_length` inputs and the token that follows each of them. Training position
`step * global_batch + index` names a sample by a permutation that is computed from (seed, epoch)
alone, so any process can make any share of any step, and a run resumes anywhere at once.

    source = SampleSource(data.train, sequence_length=256, seed=0)
    inputs, targets = source.batch(range(step * 32, step * 32 + 32))

Shapes: n samples, L = sequence_length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motley.data.streams import TokenStream

IGNORE_INDEX = -100
"""The target where there is none; the loss leaves it out (the default of PyTorch's losses)."""
COUNTED_TOKENS = 2_000_000
"""From the start of a stream: as many as tell how often tokens occur."""

_ROUNDS = 8
_MASK = (1 << 64) - 1


def sample_index(seed: int, position: int, num_samples: int) -> int:
    """The sample at `position` >= 0 of an endless training, in [0, num_samples).

    Each run of `num_samples` positions (an epoch) visits every sample once, in an order of its
    own. Costs the same at any position. The permutation is a Feistel network over a grid that is
    just larger than the samples, with cycle-walking back into them (Black and Rogaway, "Ciphers
    with arbitrary finite domains", CT-RSA 2002).
    """
    epoch, index = divmod(position, num_samples)
    rows = math.isqrt(num_samples - 1) + 1
    columns = -(-num_samples // rows)
    keys = _round_keys(seed, epoch)
    while True:
        row, column = index % rows, index // rows
        for number, key in enumerate(keys):
            if number % 2:
                column = (column + _mix(key ^ row)) % columns
            else:
                row = (row + _mix(key ^ column)) % rows
        index = column * rows + row
        if index < num_samples:
            return index


@dataclass(frozen=True, eq=False)
class SampleSource:
    """The samples of a stream; sample i covers the tokens [i * L, i * L + L]."""

    stream: TokenStream
    sequence_length: int
    """L: inputs of one sample, in tokens."""
    seed: int | None
    """Fixes the order; None is the order of the stream, once, without repeats."""
    limit: int | None = None
    """Only the stream's first `limit` samples, if set."""
    kept: NDArray[np.integer[Any]] | None = None
    """Only these samples of the stream, by number, if set; they take the place of all in the
    order."""

    def __post_init__(self) -> None:
        if self.sequence_length < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("sequence_length and limit must be at least 1")

    @property
    def num_samples(self) -> int:
        """Samples of one epoch; the stream's last one may be shorter than L."""
        if self.kept is not None:
            return len(self.kept)
        whole = -(-(self.stream.num_tokens - 1) // self.sequence_length)
        return whole if self.limit is None else min(whole, self.limit)

    def batch(self, positions: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs [n, L] and targets [n, L] of `positions`, a range as a rule.

        Where the stream ends inside a sample, inputs are 0 and targets `IGNORE_INDEX`.
        """
        shape = (len(positions), self.sequence_length)
        inputs = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        for row, position in enumerate(positions):
            sample = self.sample(position)
            length = self._length(sample)
            tokens = self.stream.read(sample * self.sequence_length, length + 1)
            inputs[row, :length] = tokens[:-1]
            targets[row, :length] = tokens[1:]
        return inputs, targets

    def num_targets(self, positions: Sequence[int]) -> int:
        """Targets of `positions` that the loss counts, without reading a token."""
        return sum(self._length(self.sample(position)) for position in positions)

    def sample(self, position: int) -> int:
        """The number of the sample at a position."""
        if self.seed is not None:
            index = sample_index(self.seed, position, self.num_samples)
        elif 0 <= position < self.num_samples:
            index = position
        else:
            raise IndexError(f"sample {position} of {self.num_samples}")
        return index if self.kept is None else int(self.kept[index])

    def _length(self, sample: int) -> int:
        start = sample * self.sequence_length
        return min(self.sequence_length, self.stream.num_tokens - 1 - start)


def evaluation_samples(
    stream: TokenStream, sequence_length: int, limit: int | None = None
) -> SampleSource:
    """The stream's first `limit` samples (all if None) in order, so each target is scored once."""
    return SampleSource(stream, sequence_length, seed=None, limit=limit)


def target_bytes(targets: NDArray[np.int64], token_bytes: NDArray[np.float64]) -> float:
    """Raw text bytes that scored targets of any shape stand for; `IGNORE_INDEX` counts none.

    `token_bytes` [vocab_size] is that of the prepared data. Only the stream's very first token is
    no target of any sample.
    """
    return float(token_bytes[targets[targets != IGNORE_INDEX]].sum())


def bits_per_byte(loss_sum_nats: float, num_bytes: float) -> float:
    """A summed cross-entropy in nats, as bits for each byte of the text that was scored.

    Comparable between tokenizers, unlike a loss for each token. `ValueError` if no byte was scored.
    """
    if not num_bytes > 0:
        raise ValueError(f"num_bytes must be above zero, found {num_bytes}")
    return loss_sum_nats / (math.log(2) * num_bytes)


def token_counts(
    stream: TokenStream, vocab_size: int = 0, num_tokens: int = COUNTED_TOKENS
) -> NDArray[np.int64]:
    """How often each token occurs among the stream's first `num_tokens`: [vocab_size], or as long
    as the highest token that occurs asks for."""
    tokens = stream.read(0, min(num_tokens, stream.num_tokens))
    return np.bincount(tokens, minlength=vocab_size).astype(np.int64)


def unigram_entropy(stream: TokenStream, num_tokens: int = COUNTED_TOKENS) -> float:
    """Nats per token of a model that knows only how often each token occurs in the stream.

    Over the stream's first `num_tokens`; what any trained model must be well below.
    """
    counts = token_counts(stream, num_tokens=num_tokens)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    state = _mix(_mix(seed) ^ epoch)
    return tuple(_mix(state ^ number) for number in range(_ROUNDS))


def _mix(value: int) -> int:
    """64 bits to 64 bits, each depending on all: one step of SplitMix64 (Steele et al., 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)

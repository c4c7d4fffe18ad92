"""Quick estimates of pipelines' times for any share of the batch.

The estimate is a line in the number of micro-batches: the slowest stage, or two neighbours that
wait for each other's messages, repeats; what fills and drains the pipeline, and the gradients'
exchange after the last backward, comes once. It is hardly ever above the real time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


ORIGIN = 5
"""Numbers that say where a pipeline is found."""

ROUNDING = 1e-9


class Lines(NamedTuple):
    """Many pipelines; each field has one entry, or row, for each."""

    used: Integers
    """Units of each class."""
    size: Floats
    """Samples of a micro-batch."""
    grain: Floats
    """Members among whom they are shared out: a part of a micro-batch is a whole number for all."""
    least: Integers
    """Samples from which on the estimate counts: fewer fit into a smaller micro-batch."""
    most: Integers
    """Samples from which on a stage would keep more micro-batches than it was built for."""
    start_s: Floats
    """The first stage's optimizer."""
    trip_s: Floats
    """One micro-batch through all stages and back."""
    period_s: Floats
    """What each further micro-batch adds."""
    alone_s: Floats
    """Exchange of gradients after the last pass, of the only replica."""
    shared_s: Floats
    """The same with other replicas, by the level of the slowest link between them."""
    origin: Integers
    """Where the stages are found."""

    @classmethod
    def none(cls, num_classes: int, num_levels: int) -> Lines:
        """No line over units of so many classes, with so many levels of links."""
        counts, figures = np.zeros((0, num_classes), np.int64), np.zeros(0)
        origin = np.zeros((0, ORIGIN), np.int64)
        whole = np.zeros(0, np.int64)
        shared = np.zeros((0, num_levels))
        return cls(counts, figures, figures, whole, whole, *(figures,) * 4, shared, origin)

    @classmethod
    def joined(cls, parts: Sequence[Lines]) -> Lines:
        """All lines of several, of which one at least has an entry."""
        return cls._make(np.concatenate(each) for each in zip(*parts, strict=True))

    def take(self, places: Integers) -> Lines:
        """Some of the lines."""
        return Lines._make(each[places] for each in self)

    def between(self, first: int, end: int) -> Lines:
        """The lines from one place up to another."""
        return Lines._make(each[first:end] for each in self)

    def _tail_s(self, level: int | None) -> Floats:
        return self.alone_s if level is None else self.shared_s[:, level]

    def samples(self, seconds: Floats, level: int | None) -> Floats:
        """Most whole samples that each line computes in some times, alone or beside others over
        links of a level: an array (lines, times)."""
        left = seconds[None, :] - (self.start_s + self._tail_s(level))[:, None]
        trip = self.trip_s[:, None]
        samples = np.maximum(left - trip, 0.0)
        samples /= self.period_s[:, None]
        left /= trip
        samples += np.clip(left, 0.0, 1.0, out=left)
        samples *= (self.size / self.grain)[:, None]
        samples += ROUNDING
        np.floor(samples, out=samples)
        if (self.grain > 1).any():
            samples *= self.grain[:, None]
        samples[samples < self.least[:, None]] = 0.0
        return np.minimum(samples, self.most[:, None], out=samples)

    def seconds(self, num_samples: float, level: int | None) -> Floats:
        """Time of some samples on each line; infinite where it has no such number."""
        count = np.ceil(num_samples / self.grain - ROUNDING) * self.grain / self.size
        passes = self.trip_s * np.minimum(count, 1.0) + self.period_s * np.maximum(count - 1.0, 0.0)
        seconds = self.start_s + passes + self._tail_s(level)
        able = (self.least <= num_samples) & (num_samples <= self.most)
        return np.where(able, seconds, np.inf)

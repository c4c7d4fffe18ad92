"""Which blocks form replicas, and how many samples each replica gets.

With a time t in mind, every set of blocks can compute some number of samples by then. A partition
of the blocks into replicas can reach t if these numbers add up to the global batch; partitions that
cannot reach a time near the best are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.plan.choices import ReplicaChoice, Split
from motley.plan.classes import Counts
from motley.plan.shapes import Shape

GRID = 1.002
"""Ratio of neighbouring times at which the samples of a set of blocks are worked out."""

HOPELESS = 4000
"""Steps of the grid after which the search for a time gives up: 3,000 times the ideal one."""


COARSE = 16
"""Steps of the grid between the times that are tried for all subsets, 3 % apart."""


class Promise(NamedTuple):
    """A split and the time that it may reach at best."""

    time_s: float
    split: Split


class Capacity(NamedTuple):
    """What every set of blocks can compute by some time."""

    samples: tuple[int, ...]
    """By set, in the order of `Partitions.sets`."""
    shapes: tuple[int, ...]
    """The set's shape that does it, by its place in the flat list."""


class Partitions:
    """All ways to form replicas from the sets of blocks that have a pipeline."""

    def __init__(
        self,
        totals: Counts,
        shapes: Mapping[Counts, Sequence[Shape]],
        global_batch: int,
        ideal_s: float,
    ) -> None:
        self.totals = totals
        self.sets = sorted(shapes, reverse=True)
        self.global_batch = global_batch
        self.ideal_s = ideal_s
        self.flat = [shape for used in self.sets for shape in shapes[used]]
        lengths = [len(shapes[used]) for used in self.sets]
        self._first = np.cumsum([0, *lengths[:-1]])
        self._lines = _Lines.of(self.flat)
        self.capacity = lru_cache(maxsize=None)(self._capacity)

    def _capacity(self, step: int, alone: bool) -> Capacity:
        samples = self._lines.samples(self.seconds(step), alone)
        best = np.maximum.reduceat(samples, self._first)
        ends = [*self._first[1:], len(self.flat)]
        places = [
            int(begin + np.argmax(samples[begin:end]))
            for begin, end in zip(self._first, ends, strict=True)
        ]
        whole = np.minimum(np.floor(best + 1e-9), self.global_batch).astype(int)
        return Capacity(tuple(whole.tolist()), tuple(places))

    def seconds(self, step: int) -> float:
        """The time at a step of the grid."""
        return self.ideal_s * GRID**step

    def step_of(self, seconds: float) -> int:
        """The first step of the grid that is not below `seconds`."""
        return max(0, math.ceil(math.log(seconds / self.ideal_s, GRID)))

    @cached_property
    def subsets(self) -> list[Counts]:
        """Every choice of some of the blocks, in the order in which `most` needs them."""
        return [tuple(counts) for counts in product(*(range(total + 1) for total in self.totals))]

    @cached_property
    def _ways(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """For every subset, the sets that it contains and what is left without them."""
        digits = np.array(self.subsets)
        places = np.array([math.prod(t + 1 for t in self.totals[k + 1 :])
                           for k in range(len(self.totals))])  # fmt: skip
        sets = np.array(self.sets).reshape(len(self.sets), len(self.totals))
        found = []
        for row in digits:
            inside = np.flatnonzero((sets <= row).all(axis=1))
            found.append((inside, (row - sets[inside]) @ places))
        return found

    def most(self, step: int) -> NDArray[np.int64]:
        """The most samples that any replicas from each subset can compute by a time."""
        samples = np.array(self.capacity(step, False).samples)
        most = np.zeros(len(self.subsets), dtype=np.int64)
        single = dict(zip(self.sets, self.capacity(step, True).samples, strict=True))
        for index, (inside, left) in enumerate(self._ways):
            if len(inside):
                most[index] = (samples[inside] + most[left]).max()
        alone = [single.get(subset, 0) for subset in self.subsets]
        return np.maximum(most, alone)

    def first_step(self, subset: Counts) -> int | None:
        """The earliest time by which some replicas from a subset may compute the batch."""
        index = self.subsets.index(subset)
        return _first(HOPELESS, lambda step: int(self.most(step)[index]) >= self.global_batch)

    def first_steps(self) -> dict[Counts, int]:
        """The earliest time of every subset that may compute the batch at all."""
        found: dict[Counts, int] = {}
        step = 0
        while step <= HOPELESS and len(found) < len(self.subsets) - 1:
            for subset, most in zip(self.subsets, self.most(step).tolist(), strict=True):
                if most >= self.global_batch:
                    found.setdefault(subset, step)
            step += COARSE
        return found

    def promising(self, subset: Counts, last: int, most_looked_at: int) -> list[Promise]:
        """Splits of a subset that may take no longer than a time, the most promising first."""
        found = []
        for members in self._reaching(subset, last, most_looked_at):
            step = self._first_step(members, last)
            if step is not None:
                found.append(Promise(self.seconds(step), self._share_out(members, step)))
        return sorted(found, key=lambda promise: (promise.time_s, promise.split))

    def _reaching(self, subset: Counts, step: int, most: int) -> Iterator[tuple[int, ...]]:
        """Sets of replicas that together can compute the batch by a time of the grid."""
        batch = self.global_batch
        alone = self.capacity(step, True).samples
        inside = [index for index, used in enumerate(self.sets) if _minus(subset, used) is not None]
        for index in inside:
            if alone[index] >= batch:
                yield (index,)
        samples = self.capacity(step, False).samples
        useful = [index for index in inside if samples[index]]
        bound = dict(zip(self.subsets, self.most(step).tolist(), strict=True))
        looked = 0

        def extend(
            members: tuple[int, ...], begin: int, left: Counts, missing: int
        ) -> Iterator[tuple[int, ...]]:
            nonlocal looked
            looked += 1
            if missing <= 0 and len(members) > 1:
                yield members
            if len(members) == batch or looked > 50 * most:
                return
            for place in range(begin, len(useful)):
                index = useful[place]
                rest = _minus(left, self.sets[index])
                if rest is not None and samples[index] + bound[rest] >= missing:
                    yield from extend((*members, index), place, rest, missing - samples[index])

        for count, members in enumerate(extend((), 0, subset, batch)):
            if count >= most:
                return
            yield members

    def _first_step(self, members: tuple[int, ...], last: int) -> int | None:
        """The earliest time of the grid by which the members can compute the whole batch."""
        alone = len(members) == 1

        def reaches(step: int) -> bool:
            known = self.capacity(step, alone).samples
            samples = [known[index] for index in members]
            return min(samples) > 0 and sum(samples) >= self.global_batch

        return _first(last, reaches)

    def _share_out(self, members: tuple[int, ...], step: int) -> Split:
        """Gives each member what it can do by then, less what is too much for all together."""
        alone, count = len(members) == 1, len(members)
        capacity = self.capacity(step, alone)
        chosen = [self.flat[capacity.shapes[index]] for index in members]
        samples = [capacity.samples[index] for index in members]
        while sum(samples) > self.global_batch:
            slowest = max(
                (place for place, share in enumerate(samples) if share > 1),
                key=lambda place: chosen[place].seconds(samples[place], alone=alone),
            )
            less = max(1, (sum(samples) - self.global_batch) // (2 * count))
            samples[slowest] = max(samples[slowest] - less, 1)
        return tuple(
            ReplicaChoice(shape.stages, min(shape.micro_batch_size, share), share)
            for shape, share in zip(chosen, samples, strict=True)
        )


class _Lines(NamedTuple):
    """The estimates of many shapes, as arrays by shape."""

    size: NDArray[np.float64]
    most: NDArray[np.float64]
    start_s: NDArray[np.float64]
    round_trip_s: NDArray[np.float64]
    period_s: NDArray[np.float64]
    tails_s: NDArray[np.float64]

    @classmethod
    def of(cls, shapes: Sequence[Shape]) -> _Lines:
        """The lines of the shapes, in their order."""
        return cls(
            np.array([float(shape.micro_batch_size) for shape in shapes]),
            np.array([float(shape.most_samples) for shape in shapes]),
            np.array([shape.start_s for shape in shapes]),
            np.array([shape.round_trip_s for shape in shapes]),
            np.array([shape.period_s for shape in shapes]),
            np.array([shape.tails_s for shape in shapes]),
        )

    def samples(self, seconds: float, alone: bool) -> NDArray[np.float64]:
        """Most samples in some time; the inverse of `Shape.seconds`."""
        left = seconds - self.start_s - self.tails_s[:, 0 if alone else 1]
        first = np.clip(left / self.round_trip_s, 0.0, 1.0)
        further = np.maximum(left - self.round_trip_s, 0.0) / self.period_s
        return np.minimum((first + further) * self.size, self.most)


def _first(last: int, holds: Callable[[int], bool]) -> int | None:
    """The first of 0 ... `last` at which a condition holds that holds from there on."""
    high = 1
    while high < last and not holds(high):
        high *= 2
    low, high = high // 2, min(high, last)
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _minus(left: Counts, used: Counts) -> Counts | None:
    rest = tuple(a - b for a, b in zip(left, used, strict=True))
    return rest if min(rest) >= 0 else None

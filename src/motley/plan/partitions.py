"""Which chips form replicas, and how many samples each replica gets.

With a time t in mind, every set of chips can compute some number of samples by then. A partition of
the chips into replicas can reach t if these numbers add up to the global batch; partitions that
cannot reach the best time found so far are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from motley.plan.choices import ReplicaChoice, Split
from motley.plan.classes import Counts
from motley.plan.evaluate import Evaluator
from motley.plan.shapes import MAX_REPLICAS_TOLD_APART, Shape

GRID = 1.002
"""Ratio of neighbouring times at which the samples of a set of chips are worked out."""


class Promise(NamedTuple):
    """A split and the time that it may reach at best."""

    time_s: float
    split: Split


class Partitions:
    """All ways to form replicas from the sets of chips that have a pipeline."""

    def __init__(
        self,
        evaluator: Evaluator,
        totals: Counts,
        shapes: Mapping[Counts, Sequence[Shape]],
        ideal_s: float,
    ) -> None:
        self.evaluator = evaluator
        self.totals = totals
        self.shapes = shapes
        self.sets = sorted(shapes, reverse=True)
        self.ideal_s = ideal_s
        self._capacity: dict[tuple[Counts, int, int], tuple[int, Shape]] = {}

    def capacity(self, used: Counts, step: int, num_replicas: int) -> tuple[int, Shape]:
        """Samples that a set of chips can compute by a time of the grid, and its shape for that."""
        key = (used, step, min(num_replicas, MAX_REPLICAS_TOLD_APART))
        found = self._capacity.get(key)
        if found is None:
            seconds = self.ideal_s * GRID**step
            best, shape = max(
                ((shape.samples(seconds, num_replicas), shape) for shape in self.shapes[used]),
                key=lambda pair: (round(pair[0], 6), pair[1].micro_batch_size),
            )
            found = self._capacity[key] = min(int(best + 1e-9), self.evaluator.global_batch), shape
        return found

    def _grid_step(self, seconds: float) -> int:
        """The first time of the grid that is not below `seconds`."""
        return max(0, math.ceil(math.log(seconds / self.ideal_s, GRID)))

    def promising(self, best_s: float) -> list[Promise]:
        """Splits that may take less than `best_s`, the most promising first."""
        found = []
        last = self._grid_step(best_s)
        for members in self._reaching(last):
            step = self._first_step(members, last)
            if step is not None:
                seconds = self.ideal_s * GRID ** (step - 1)
                found.append(Promise(seconds, self._share_out(members, step)))
        return sorted(found, key=lambda promise: (promise.time_s, promise.split))

    def _reaching(self, step: int) -> Iterator[tuple[Counts, ...]]:
        """Sets of replicas that together can compute the batch by a time of the grid."""
        batch = self.evaluator.global_batch
        for used in self.sets:
            if self.capacity(used, step, 1)[0] >= batch:
                yield (used,)
        useful = [(used, self.capacity(used, step, 2)[0]) for used in self.sets]
        useful = [(used, samples) for used, samples in useful if samples]
        bound = _Bound(useful)

        def extend(
            members: tuple[Counts, ...], begin: int, left: Counts, missing: int
        ) -> Iterator[tuple[Counts, ...]]:
            if missing <= 0 and len(members) > 1:
                yield members
            if len(members) == batch:
                return
            for index in range(begin, len(useful)):
                used, samples = useful[index]
                rest = _minus(left, used)
                if rest is not None and samples + bound.most(rest) >= missing:
                    yield from extend((*members, used), index, rest, missing - samples)

        yield from extend((), 0, self.totals, batch)

    def _first_step(self, members: tuple[Counts, ...], last: int) -> int | None:
        """The earliest time of the grid by which the members can compute the whole batch."""
        count, batch = len(members), self.evaluator.global_batch

        def reaches(step: int) -> bool:
            samples = [self.capacity(used, step, count)[0] for used in members]
            return min(samples) > 0 and sum(samples) >= batch

        if not reaches(last):
            return None
        low, high = 0, last
        while low < high:
            middle = (low + high) // 2
            if reaches(middle):
                high = middle
            else:
                low = middle + 1
        return low

    def _share_out(self, members: tuple[Counts, ...], step: int) -> Split:
        """Gives each member what it can do by then, less what is too much for all together."""
        count, batch = len(members), self.evaluator.global_batch
        chosen = [self.capacity(used, step, count) for used in members]
        samples = [most for most, _ in chosen]
        while sum(samples) > batch:
            slowest = max(
                (index for index, share in enumerate(samples) if share > 1),
                key=lambda index: chosen[index][1].seconds(samples[index], count),
            )
            less = max(1, (sum(samples) - batch) // (2 * count))
            samples[slowest] = max(samples[slowest] - less, 1)
        return tuple(
            ReplicaChoice(shape.stages, min(shape.micro_batch_size, share), share)
            for (_, shape), share in zip(chosen, samples, strict=True)
        )


class _Bound:
    """The most samples that any replicas from some chips can compute."""

    def __init__(self, useful: Sequence[tuple[Counts, int]]) -> None:
        self._useful = useful
        self._most: dict[Counts, int] = {}

    def most(self, left: Counts) -> int:
        found = self._most.get(left)
        if found is None:
            found = 0
            for used, samples in self._useful:
                rest = _minus(left, used)
                if rest is not None:
                    found = max(found, samples + self.most(rest))
            self._most[left] = found
        return found


def _minus(left: Counts, used: Counts) -> Counts | None:
    rest = tuple(a - b for a, b in zip(left, used, strict=True))
    return rest if min(rest) >= 0 else None

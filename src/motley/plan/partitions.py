"""Which chips form replicas, and how many samples each replica gets.

With a time t in mind, every set of chips can compute some number of samples by then. A partition of
the chips into replicas can reach t if these numbers add up to the global batch; partitions that
cannot reach the best time found so far are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from motley.plan.classes import Counts
from motley.plan.evaluate import Evaluator, ReplicaChoice, Split
from motley.plan.pipelines import Shape, shape_samples, shape_seconds
from motley.plan.sync import all_reduce_seconds

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
        self._capacity: dict[tuple[Counts, int], tuple[int, Shape]] = {}
        self._tails = [self._tail_s(count) for count in range(sum(totals) + 1)]

    def _tail_s(self, num_replicas: int) -> float:
        """Least time of the last gradients' exchange, which no backward pass can hide."""
        if num_replicas < 2:
            return 0.0
        indices = range(len(self.totals))
        parameters = sum(
            group.num_parameters for group in self.evaluator.groups if min(group.layers) == 0
        )
        fastest = min(
            all_reduce_seconds(parameters, (0, 1), lambda *_: self.evaluator.link(a, b))
            for a in indices
            for b in indices
        )
        return fastest * 2 * (num_replicas - 1) / num_replicas

    def capacity(self, used: Counts, step: int) -> tuple[int, Shape]:
        """Samples that a set of chips can compute by a time of the grid, and its shape for that."""
        key = (used, step)
        found = self._capacity.get(key)
        if found is None:
            seconds = self.ideal_s * GRID**step
            best, shape = max(
                ((shape_samples(shape, seconds), shape) for shape in self.shapes[used]),
                key=lambda pair: pair[0],
            )
            found = self._capacity[key] = min(int(best + 1e-9), self.evaluator.global_batch), shape
        return found

    def _grid_step(self, seconds: float) -> int:
        step = 0
        while self.ideal_s * GRID**step < seconds:
            step += 1
        return step

    def promising(self, best_s: float) -> list[Promise]:
        """Splits that may take less than `best_s`, the most promising first."""
        found = []
        batch = self.evaluator.global_batch
        last = self._grid_step(best_s)
        for members in self._reaching(best_s):
            step = self._first_step(members, last, batch)
            if step is not None:
                split = self._share_out(members, step, batch)
                seconds = self.ideal_s * GRID ** (step - 1) + self._tails[len(members)]
                found.append(Promise(seconds, split))
        return sorted(found, key=lambda promise: (promise.time_s, promise.split))

    def _reaching(self, best_s: float) -> Iterator[tuple[Counts, ...]]:
        batch = self.evaluator.global_batch
        steps = [self._grid_step(best_s - tail) for tail in self._tails]
        for used in self.sets:
            if self.capacity(used, steps[1])[0] >= batch:
                yield (used,)
        if sum(self.totals) < 2 or best_s <= self._tails[2]:
            return
        step = steps[2]
        useful = [(used, self.capacity(used, step)[0]) for used in self.sets]
        useful = [(used, samples) for used, samples in useful if samples]
        bound = _Bound(useful)

        def extend(
            members: tuple[Counts, ...], begin: int, left: Counts, missing: int
        ) -> Iterator[tuple[Counts, ...]]:
            if missing <= 0 and len(members) > 1:
                yield members
            for index in range(begin, len(useful)):
                used, samples = useful[index]
                rest = _minus(left, used)
                if rest is not None and samples + bound.most(rest) >= missing:
                    yield from extend((*members, used), index, rest, missing - samples)

        yield from extend((), 0, self.totals, batch)

    def _first_step(self, members: tuple[Counts, ...], last: int, batch: int) -> int | None:
        """The earliest time of the grid by which the members can compute the whole batch."""

        def reaches(step: int) -> bool:
            samples = [self.capacity(used, step)[0] for used in members]
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

    def _share_out(self, members: tuple[Counts, ...], step: int, batch: int) -> Split:
        """Gives each member what it can do by then, less what is too much for all together."""
        chosen = [self.capacity(used, step) for used in members]
        samples = [count for count, _ in chosen]
        while sum(samples) > batch:
            slowest = max(
                (index for index, count in enumerate(samples) if count > 1),
                key=lambda index: shape_seconds(chosen[index][1], samples[index]),
            )
            samples[slowest] -= max(1, (sum(samples) - batch) // (2 * len(samples)))
            samples[slowest] = max(samples[slowest], 1)
        return tuple(
            ReplicaChoice(shape.stages, min(shape.micro_batch_size, count), count)
            for (_, shape), count in zip(chosen, samples, strict=True)
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

"""The best splits of several kinds of chips side by side, as one split with one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from motley.chips.chip import Chip
from motley.plan.blocks import Names
from motley.plan.choices import ReplicaChoice, Split
from motley.plan.evaluate import Evaluator
from motley.plan.objective import Objective, usd_per_hour
from motley.plan.refine import Refiner

ROUNDS = 6
"""In which shares are made fairer."""

MOST_LOOKS = 24

MOST_UNIONS = 8
"""Choices of kinds that are worked out, if chips cost money."""

GOOD = 0.97
"""Of what all kinds do alone: if they reach it together, none is left out for trial."""


class Part(NamedTuple):
    """What one kind does best alone with some of the samples."""

    split: Split
    """Over the groups."""
    groups: tuple[Names, ...]
    samples_per_s: float
    chips: tuple[Chip, ...]
    """Those that it uses."""


class Union(NamedTuple):
    """Some kinds together."""

    split: Split
    groups: tuple[Names, ...]
    step_s: float
    usd_per_hour: float


class Unions:
    """Puts the parts of kinds together."""

    def __init__(
        self,
        parts: Sequence[Part],
        objective: Objective,
        global_batch: int,
        evaluator: Callable[[Sequence[Names]], Evaluator],
    ) -> None:
        self.parts = tuple(parts)
        self.objective = objective
        self.global_batch = global_batch
        self.evaluator = evaluator

    def best(self) -> Iterator[Union]:
        """The union of all parts, and those of fewer that may be better."""
        if self.objective.needs_prices:
            for parts in self._cheapest():
                yield from self._together(parts)
            return
        if not self.parts:
            return
        alone = sum(part.samples_per_s for part in self.parts)
        for whole in self._together(self.parts):
            yield whole
            if self.global_batch / whole.step_s > GOOD * alone:
                return
        for place in range(len(self.parts)):
            yield from self._together((*self.parts[:place], *self.parts[place + 1 :]))

    def _cheapest(self) -> list[tuple[Part, ...]]:
        """The choices of parts that promise the best scores."""
        priced: list[tuple[float, int, int, tuple[Part, ...]]] = []
        for count in range(1, len(self.parts) + 1):
            for parts in combinations(self.parts, count):
                step_s = self.global_batch / sum(part.samples_per_s for part in parts)
                score = self.objective.score(step_s, sum(map(self._price, parts)))
                priced.append((score, count, len(priced), parts))
        return [parts for *_, parts in sorted(priced, key=lambda each: each[:3])[:MOST_UNIONS]]

    def _price(self, part: Part) -> float:
        if not self.objective.needs_prices:
            return 0.0
        return usd_per_hour(part.chips, f"the goal '{self.objective.goal}'")

    def _together(self, parts: Sequence[Part]) -> Iterator[Union]:
        """The parts' replicas with fair shares of the batch; nothing if a stage does not fit."""
        groups: list[Names] = []
        replicas: list[ReplicaChoice] = []
        for part in parts:
            for replica in part.split:
                stages = tuple(
                    stage._replace(block=stage.block + len(groups)) for stage in replica.stages
                )
                replicas.append(replica._replace(stages=stages))
            groups += part.groups
        if not groups:
            return
        evaluator = self.evaluator(groups)
        split = shared_out(evaluator, replicas)
        refiner = Refiner(evaluator, lambda _: iter(()), MOST_LOOKS)
        split = refiner.improve(split, shares_only=True)
        step_s = evaluator.step_seconds(split, exact=True)
        if step_s is not None:
            price = sum(map(self._price, parts))
            yield Union(split, tuple(groups), step_s, price)


def shared_out(evaluator: Evaluator, replicas: Sequence[ReplicaChoice]) -> Split:
    """The replicas with shares of the batch with which they end together."""
    rates = [float(replica.num_samples) for replica in replicas]
    split: Split = ()
    for _ in range(ROUNDS):
        now = _with_shares(replicas, shares_of(evaluator.global_batch, rates))
        if now == split:
            break
        split = now
        times = [evaluator.replica(replica) for replica in split if replica.num_samples]
        if None in times:
            break
        finish = iter(time.finish_s for time in times if time is not None)
        for place, replica in enumerate(split):
            if replica.num_samples:
                rates[place] = replica.num_samples / next(finish)
    return tuple(replica for replica in split if replica.num_samples)


def shares_of(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in whole parts as near to the weights as may be; equal ones in order."""
    scale = total / sum(weights)
    parts = [int(weight * scale) for weight in weights]
    rest = sorted(range(len(weights)), key=lambda k: (parts[k] - weights[k] * scale, k))
    for place in rest[: total - sum(parts)]:
        parts[place] += 1
    return parts


def _with_shares(replicas: Sequence[ReplicaChoice], shares: Sequence[int]) -> Split:
    return tuple(
        replica._replace(
            num_samples=share, micro_batch_size=max(1, min(replica.micro_batch_size, share))
        )
        for replica, share in zip(replicas, shares, strict=True)
    )

"""The best splits of several kinds of chips side by side, as one split with one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from motley.chips.chip import Chip
from motley.plan.objective import Objective, usd_per_hour
from motley.plan.search.blocks import Names
from motley.plan.search.choices import ReplicaChoice, Split
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.refine import Refiner
from motley.plan.search.stage_arrays import ArraysByCuts

ROUNDS = 6
"""In which shares are made fairer."""

MOST_LOOKS = 24

MOST_UNIONS = 8
"""Choices of kinds that are worked out, if chips cost money."""

GOOD = 0.97
"""Of what all kinds do alone: if they reach it together, none is left out for trial."""


HOPEFUL = 1.1
"""Kinds that together would have to be faster than alone by more are not tried."""


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


Options = tuple[Part, ...]
"""Ways in which one kind does well, the best alone first."""


class Unions:
    """Puts the parts of kinds together."""

    def __init__(
        self,
        kinds: Sequence[Options],
        objective: Objective,
        global_batch: int,
        evaluator: Callable[[Sequence[Names]], Evaluator],
    ) -> None:
        self.kinds = tuple(kinds)
        self.objective = objective
        self.global_batch = global_batch
        self.evaluator = evaluator

    @property
    def ideal_s(self) -> float:
        """A step in which every kind is as fast as alone."""
        rate = sum(options[0].samples_per_s for options in self.kinds)
        return self.global_batch / rate if rate else float("inf")

    def rough_seconds(self) -> float:
        """A step of what each kind does best alone, side by side, of all or all but one."""
        parts = [options[0] for options in self.kinds]
        choices = [parts, *(parts[:k] + parts[k + 1 :] for k in range(len(parts)))]
        joined = (self._joined(each) for each in choices if each)
        return min((each.step_s for each in joined if each), default=float("inf"))

    def best(self) -> Iterator[Union]:
        """The union of all kinds, and those of fewer that may be better."""
        if self.objective.needs_prices:
            for kinds in self._cheapest():
                yield from self._together(kinds)
            return
        if not self.kinds:
            return
        rates = [options[0].samples_per_s for options in self.kinds]
        best_s = float("inf")
        for whole in self._together(self.kinds):
            yield whole
            best_s = whole.step_s
            if self.global_batch / best_s > GOOD * sum(rates):
                return
        for place, rate in enumerate(rates):
            if self.global_batch > HOPEFUL * best_s * (sum(rates) - rate):
                continue
            for fewer in self._together((*self.kinds[:place], *self.kinds[place + 1 :])):
                yield fewer
                best_s = min(best_s, fewer.step_s)

    def _cheapest(self) -> list[tuple[Options, ...]]:
        """The choices of kinds that promise the best scores."""
        priced: list[tuple[float, int, int, tuple[Options, ...]]] = []
        for count in range(1, len(self.kinds) + 1):
            for kinds in combinations(self.kinds, count):
                parts = [options[0] for options in kinds]
                step_s = self.global_batch / sum(part.samples_per_s for part in parts)
                score = self.objective.score(step_s, sum(map(self._price, parts)))
                priced.append((score, count, len(priced), kinds))
        return [kinds for *_, kinds in sorted(priced, key=lambda each: each[:3])[:MOST_UNIONS]]

    def _price(self, part: Part) -> float:
        if not self.objective.needs_prices:
            return 0.0
        return usd_per_hour(part.chips, f"the goal '{self.objective.goal}'")

    def _together(self, kinds: Sequence[Options]) -> Iterator[Union]:
        """Replicas of all kinds with fair shares of the batch; nothing if a stage does not fit.

        What a kind does best alone need not be best beside others, whose slower links all replicas
        wait for: pipelines of more stages have less to exchange. So each kind's options are tried.
        """
        parts = [options[0] for options in kinds]
        best = self._joined(parts) if parts else None
        if best is None:
            return
        for place, options in enumerate(kinds):
            for option in options[1:]:
                parts_now = [*parts[:place], option, *parts[place + 1 :]]
                now = self._joined(parts_now)
                if now and self._score(now, parts_now) < self._score(best, parts):
                    best, parts = now, parts_now
        refiner = Refiner(ArraysByCuts(best.evaluator), lambda _: iter(()), MOST_LOOKS)
        split = refiner.improve(best.split, shares_only=True)
        step_s = best.evaluator.step_seconds(split, exact=True)
        if step_s is not None:
            yield Union(split, best.groups, step_s, sum(map(self._price, parts)))

    def _score(self, joined: _Joined, parts: Sequence[Part]) -> tuple[float, float]:
        """Splits that are too late for a deadline are compared by their time."""
        score = self.objective.score(joined.step_s, sum(map(self._price, parts)))
        return score, joined.step_s

    def _joined(self, parts: Sequence[Part]) -> _Joined | None:
        """The parts' replicas side by side, with fair shares; None if a stage does not fit."""
        groups: list[Names] = []
        replicas: list[ReplicaChoice] = []
        for part in parts:
            for replica in part.split:
                stages = tuple(
                    stage._replace(block=stage.block + len(groups)) for stage in replica.stages
                )
                replicas.append(replica._replace(stages=stages))
            groups += part.groups
        evaluator = self.evaluator(groups)
        split = shared_out(evaluator, replicas)
        step_s = evaluator.step_seconds(split)
        return None if step_s is None else _Joined(evaluator, split, tuple(groups), step_s)


class _Joined(NamedTuple):
    """Parts side by side."""

    evaluator: Evaluator
    split: Split
    groups: tuple[Names, ...]
    step_s: float


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

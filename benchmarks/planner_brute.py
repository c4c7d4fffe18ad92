"""The shortest step of all plans for a few chips, by enumeration, independent of the search.

Everything is enumerated: partitions of the chips into replicas (chips may be left out), orders and
boundaries of stages, shares of the batch, micro-batch sizes; where chips may share a stage also
every group of chips of one kind and node, every layout of every stage, and zero-bubble schedules
(interleaved ones are not: the search may find a plan that is faster than all of these). A plan's
time is that of the simulation which plans are predicted with. Parts are cut off only by bounds that
hold: a replica takes no less than its busiest stage computes, and a step no less than its slowest
replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations, permutations, product
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.layout import Layout
from motley.plan.search.blocks import Names
from motley.plan.search.choices import ReplicaChoice, StageChoice
from motley.plan.search.evaluate import Evaluator, ReplicaTimes
from motley.plan.search.laid import kept_by
from motley.plan.simulate import cluster_evaluator
from motley.plan.space import Space, layouts
from motley.plan.timing.schedule import Schedule
from motley.recipe import Recipe


class Option(NamedTuple):
    """One way to run a share on some groups."""

    finish_s: float
    replica: ReplicaChoice
    times: ReplicaTimes


class BruteForce:
    """Enumerates plans that are faster than one that is known."""

    def __init__(
        self, recipe: Recipe, cluster: Cluster, space: Space, known_s: float = float("inf")
    ) -> None:
        self.groups = _groups(cluster, space)
        self.evaluator: Evaluator = cluster_evaluator(recipe, cluster, self.groups, space=space)
        self.best_s = known_s
        """The shortest step so far."""
        self.members = [frozenset(names) for names in self.groups]
        self.options = cache(self._options)

    def run(self) -> float:
        """The shortest step, or the known one if nothing is faster."""
        batch = self.evaluator.global_batch
        chips = sorted({name for names in self.groups for name in names})
        for parts in _partitions(chips):
            if 0 < len(parts) <= batch:
                for shares in _compositions(batch, len(parts)):
                    self._look(list(zip(map(frozenset, parts), shares, strict=True)))
        return self.best_s

    def _look(self, parts: Sequence[tuple[frozenset[str], int]]) -> None:
        """Every combination of the replicas' options."""
        listed = []
        for chips, share in parts:
            options = [each for each in self.options(chips, share) if each.finish_s < self.best_s]
            if not options:
                return
            listed.append(options)
        for chosen in product(*listed):
            if max(each.finish_s for each in chosen) >= self.best_s:
                continue
            split = tuple(each.replica for each in chosen)
            seconds = self.evaluator.barrier(split, [each.times for each in chosen])
            self.best_s = min(self.best_s, seconds)

    def _options(self, chips: frozenset[str], share: int) -> list[Option]:
        """All ways in which exactly these chips run a share that may be faster, best first."""
        found = []
        for blocks in self._covers(chips):
            for stages in self._pipelines(blocks):
                scheduled = [
                    ReplicaChoice(stages, size, share, schedule)
                    for size in range(1, share + 1)
                    for schedule in self._schedules(len(stages))
                ]
                laid = [self._laid(replica) for replica in scheduled]
                found += _earliest([option for each in laid for option in each])
        return sorted(found, key=lambda each: each.finish_s)

    def _covers(self, chips: frozenset[str]) -> Iterator[list[int]]:
        """Every way to cover the chips with groups."""
        if not chips:
            yield []
            return
        first = min(chips)
        for index, names in enumerate(self.members):
            if first in names and names <= chips:
                for rest in self._covers(chips - names):
                    yield [index, *rest]

    def _pipelines(self, blocks: Sequence[int]) -> Iterator[tuple[StageChoice, ...]]:
        num_layers = self.evaluator.num_layers
        for order in permutations(blocks):
            for cuts in combinations(range(1, num_layers), len(order) - 1):
                bounds = (0, *cuts, num_layers)
                yield tuple(
                    StageChoice(block, bounds[place], bounds[place + 1])
                    for place, block in enumerate(order)
                )

    def _schedules(self, num_stages: int) -> list[Schedule]:
        known: tuple[Schedule, ...] = ("1f1b", "zero-bubble")
        return [each for each in known[:num_stages] if each in self.evaluator.space.schedules]

    def _laid(self, replica: ReplicaChoice) -> Iterator[Option]:
        """The replica in all layouts that fit and may be faster."""
        each = [
            self._able(stage, kept, replica)
            for stage, kept in zip(replica.stages, kept_by(replica), strict=True)
        ]
        for chosen in product(*each):
            times = self.evaluator.replica_times(replica, chosen)
            if times.finish_s < self.best_s:
                yield Option(times.finish_s, replica, times)

    def _able(self, stage: StageChoice, kept: int, replica: ReplicaChoice) -> list[Layout]:
        evaluator, size = self.evaluator, replica.micro_batch_size
        block, full = evaluator.blocks[stage.block], replica.num_samples // size
        return [
            layout
            for layout in layouts(block, evaluator.config, evaluator.space)
            if full * sum(evaluator.pass_seconds(stage, size, layout)) < self.best_s
            and evaluator.memory(stage, kept, size, layout).total_bytes <= block.chip.memory_bytes
        ]


def _earliest(options: list[Option]) -> list[Option]:
    """Without those that have no gradient earlier than another with equal exchanges."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda each: (each.finish_s, each.times.ready_s)):
        if not any(_no_later(known, option) for known in kept):
            kept.append(option)
    return kept


def _no_later(first: Option, second: Option) -> bool:
    """Whether the first may stand for the second: groups exchange by their layouts."""
    return [each[:4] for each in first.times.layouts] == [
        each[:4] for each in second.times.layouts
    ] and all(a <= b for a, b in zip(first.times.ready_s, second.times.ready_s, strict=True))


def _groups(cluster: Cluster, space: Space) -> tuple[Names, ...]:
    """Single chips, and where they may share a stage all sets of one kind and node."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for chip in cluster.chips:
        key = (chip.node, chip.precision, chip.training_flops_per_s, chip.memory_bytes,
               chip.memory_bandwidth_bytes_per_s, chip.efficiency)  # fmt: skip
        alike.setdefault(key, []).append(chip.name)
    return tuple(
        names
        for beside in alike.values()
        for count in range(1, len(beside) + 1 if space.groups else 2)
        for names in combinations(beside, count)
    )


def _partitions(chips: Sequence[str]) -> Iterator[list[list[str]]]:
    """All ways to put some of the chips into unordered parts."""
    if not chips:
        yield []
        return
    first, rest = chips[0], chips[1:]
    for parts in _partitions(rest):
        yield parts
        yield [[first], *parts]
        for index, part in enumerate(parts):
            yield [*parts[:index], [first, *part], *parts[index + 1 :]]


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    for cuts in combinations(range(1, total), parts - 1):
        yield tuple(b - a for a, b in zip((0, *cuts), (*cuts, total), strict=True))

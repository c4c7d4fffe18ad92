"""The best splits over the blocks of one grouping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from motley.plan.choices import Split, StageChoice
from motley.plan.classes import BlockClasses, Counts
from motley.plan.evaluate import Evaluator
from motley.plan.objective import Objective, usd_per_hour
from motley.plan.partitions import Partitions
from motley.plan.pipelines import Goals, Pipeline, PipelineSearch
from motley.plan.refine import LARGER_MICRO_BATCH, Refiner, micro_batch_sizes
from motley.plan.shapes import Shape, ShapeMaker
from motley.plan.stage_arrays import StageArrays

EQUAL = 1e-6
"""Relative difference of scores below which the simpler split is taken."""

TYPICAL_EXCHANGE = 4 / 3
"""Weight of the gradients' exchange among three replicas, 2(n-1)/n."""

MOST_CUTS = 36
"""Boundaries between layers that a pipeline is first built from; more are tried at the end."""

NEAR = 1.03
"""Partitions are looked at first whose estimate is no longer than this times the shortest."""

PESSIMISM = 1.1
"""The estimate of a short pipeline with slow links may be too long by so much."""

MOST_SUBSETS = 6
"""Choices of blocks that are looked into when chips cost money."""


class Found(NamedTuple):
    """A split with its simulated step; the lower the score, the better."""

    score: float
    step_s: float
    split: Split


@dataclass(frozen=True)
class Effort:
    """How far each level of the search looks, by how many kinds of splits there are."""

    beam: int
    """Pipelines kept for each set of blocks, first block and first layer."""
    num_sizes: int
    """Micro-batch sizes for which pipelines are built."""
    num_counts: int
    """Numbers of micro-batches for which pipelines are built, per size."""
    most_shapes: int
    """Kept for each set of blocks."""
    most_partitions: int
    most_refined: int
    most_looks: int


def effort_for(classes: BlockClasses, num_cuts: int) -> Effort:
    """Small searches are exhaustive; large ones keep the best of each part."""
    states = num_cuts * len(classes.totals)
    for total in classes.totals:
        states *= total + 1
    if states <= 1200:
        return Effort(4, 8, 5, 32, 600, 24, 1500)
    if states <= 4000:
        return Effort(1, 5, 3, 8, 60, 4, 200)
    return Effort(1, 4, 2, 4, 40, 3, 120)


class SplitSearch:
    """One search; `run` gives the best split and the best ones of another structure."""

    def __init__(self, evaluator: Evaluator, classes: BlockClasses, objective: Objective) -> None:
        self.evaluator = evaluator
        self.classes = classes
        self.objective = objective
        self.maker = ShapeMaker(evaluator)
        self.cuts = _cuts(evaluator.num_layers)
        self.effort = effort_for(classes, len(self.cuts))
        self.flops = sum(evaluator.sample_flops()) * evaluator.global_batch
        self.speeds = [block.training_flops_per_s for block in classes.blocks]
        self.speed = self._speed_of(classes.totals)
        self.ideal_s = self.flops / self.speed

    def run(self) -> list[Found]:
        """The best split first; empty if none fits."""
        shapes = self._shapes()
        if not shapes:
            return []
        partitions = Partitions(
            self.classes.totals, shapes, self.evaluator.global_batch, self.ideal_s
        )
        ranked = sorted(self._visit(partitions))
        return self._choose(ranked, shapes)

    def _speed_of(self, used: Counts) -> float:
        return sum(count * speed for count, speed in zip(used, self.speeds, strict=True))

    def _shapes(self) -> dict[Counts, list[Shape]]:
        """Pipelines by the blocks they use, the fastest first."""
        arrays = StageArrays(self.evaluator, self.cuts)
        built: dict[Counts, dict[tuple[tuple[StageChoice, ...], int], Pipeline]] = {}
        for goals in self._goals():
            search = PipelineSearch(
                self.evaluator, self.classes, arrays, goals, beam=self.effort.beam
            )
            for used, pipeline in search.run():
                key = (pipeline.stages, goals.micro_batch_size)
                built.setdefault(used, {}).setdefault(key, pipeline)
        for used, pipeline, size in self._single_stages():
            built.setdefault(used, {}).setdefault((pipeline.stages, size), pipeline)
        return {used: kept for used, each in built.items() if (kept := self._kept(used, each))}

    def _single_stages(self) -> Iterator[tuple[Counts, Pipeline, int]]:
        """Each block that holds the whole model alone, with every micro-batch size that fits.

        Nothing waits for a first micro-batch there, and a long last backward hides the exchange.
        """
        for block in range(len(self.classes.totals)):
            stage = StageChoice(block, 0, self.evaluator.num_layers)
            used = tuple(int(index == block) for index in range(len(self.classes.totals)))
            for size in micro_batch_sizes(self.evaluator.global_batch):
                layout = self.evaluator.layout(stage, 1, size)
                if layout is not None:
                    seconds = sum(self.evaluator.pass_seconds(stage, size, layout))
                    yield used, Pipeline((stage,), 1, seconds, seconds), size

    def _goals(self) -> Iterator[Goals]:
        batch = self.evaluator.global_batch
        several = sum(self.classes.totals) > 1
        for size in _spread(batch, self.effort.num_sizes):
            counts = _probes(-(-batch // size), self.effort.num_counts)
            yield Goals(size, counts, (0.0, TYPICAL_EXCHANGE) if several else (0.0,))

    def _kept(
        self, used: Counts, pipelines: dict[tuple[tuple[StageChoice, ...], int], Pipeline]
    ) -> list[Shape]:
        """The fastest shapes of a set of blocks, alone or among others, at a fair share."""
        share = max(1.0, self.evaluator.global_batch * self._speed_of(used) / self.speed)
        most = self.effort.most_shapes

        def rough(entry: tuple[tuple[tuple[StageChoice, ...], int], Pipeline]) -> float:
            (_, size), pipeline = entry
            return pipeline.time_s * max(share / size, 1.0) / pipeline.num_micro_batches

        likely = sorted(pipelines.items(), key=rough)[: 2 * most]
        shapes = [
            shape
            for (_, size), pipeline in likely
            if (shape := self.maker.shape(pipeline, size)) is not None
        ]
        kept: dict[Shape, None] = {}
        for alone in (True, False):
            order = sorted(shapes, key=lambda each: (each.seconds(share, alone=alone), each))
            kept.update(dict.fromkeys(order[: max(1, most // 2)]))
        return list(kept)

    def _visit(self, partitions: Partitions) -> Iterator[Found]:
        """Simulates promising partitions, up to those that cannot be faster than the best."""
        most = self.effort.most_partitions
        for subset, near in self._subsets(partitions):
            fastest_s, done = float("inf"), set[Split]()
            for last in (near, None):
                if last is None:
                    if fastest_s == float("inf"):
                        break
                    last = partitions.step_of(PESSIMISM * fastest_s)
                for promise in partitions.promising(subset, last, 4 * most)[:most]:
                    if promise.time_s > PESSIMISM * fastest_s or promise.split in done:
                        continue
                    done.add(promise.split)
                    found = self._simulated(promise.split)
                    if found is not None:
                        fastest_s = min(fastest_s, found.step_s)
                        yield found

    def _subsets(self, partitions: Partitions) -> list[tuple[Counts, int]]:
        """The blocks to choose from, with the step of the grid up to which to look."""
        near = partitions.step_of(partitions.ideal_s * NEAR)
        totals = self.classes.totals
        if not self.objective.needs_prices:
            first = partitions.first_step(totals)
            return [] if first is None else [(totals, first + near)]
        priced = sorted(
            (self.objective.score(partitions.seconds(step), self._price(subset)), subset, step)
            for subset, step in partitions.first_steps().items()
        )
        return [(subset, step + near) for _, subset, step in priced[:MOST_SUBSETS]]

    def _price(self, used: Counts) -> float:
        """USD per hour of a set of blocks."""
        if not self.objective.needs_prices:
            return 0.0
        chips = (
            block.chip
            for block, count in zip(self.classes.blocks, used, strict=True)
            for _ in range(count * block.num_chips)
        )
        return usd_per_hour(chips, f"the goal '{self.objective.goal}'")

    def _simulated(self, split: Split, *, exact: bool = False) -> Found | None:
        seconds = self.evaluator.step_seconds(split, exact=exact)
        if seconds is None:
            return None
        used = [0] * len(self.classes.totals)
        for replica in split:
            for stage in replica.stages:
                used[stage.block] += 1
        return Found(self.objective.score(seconds, self._price(tuple(used))), seconds, split)

    def _choose(self, ranked: list[Found], shapes: dict[Counts, list[Shape]]) -> list[Found]:
        """Refines the best ones; the simplest of the equally good, then the others."""
        effort = self.effort
        refiner = Refiner(self.evaluator, shapes, self.classes.totals, effort.most_looks)
        refined = {found.split: found for found in ranked[effort.most_refined :]}
        for found in ranked[: effort.most_refined]:
            better = self._simulated(refiner.improve(found.split), exact=True)
            if better is not None:
                refined[better.split] = better
        if not refined:
            return []
        order = sorted(refined.values(), key=lambda each: (each.score, _complexity(each.split)))
        limit = order[0].score * (1 + EQUAL)
        winner = min(
            (each for each in order if each.score <= limit),
            key=lambda each: _complexity(each.split),
        )
        larger = refiner.enlarge(winner.split, winner.step_s * (1 + LARGER_MICRO_BATCH))
        others = {_structure(winner.split): self._simulated(larger, exact=True) or winner}
        for each in order:
            others.setdefault(_structure(each.split), each)
        return list(others.values())


def _cuts(num_layers: int) -> tuple[int, ...]:
    """Where stages may begin and end: between all layers, or evenly between many."""
    if num_layers + 1 <= MOST_CUTS:
        return tuple(range(num_layers + 1))
    inner = num_layers - 2
    even = {1 + round(index * inner / (MOST_CUTS - 3)) for index in range(MOST_CUTS - 2)}
    return tuple(sorted(even | {0, num_layers}))


def _spread(most: int, count: int) -> tuple[int, ...]:
    """Sizes from 1 up in even ratios of at most four; all if they are few."""
    if most <= count:
        return tuple(range(1, most + 1))
    ratio = min(4.0, most ** (1 / count))
    sizes, size = {1}, 1.0
    while round(size * ratio) < most:
        size *= ratio
        sizes.add(round(size))
    return tuple(sorted(sizes))


def _probes(most: int, count: int) -> tuple[int, ...]:
    """Numbers of micro-batches from `most` down to 1, all or evenly spread in their ratio."""
    if most <= count:
        return tuple(range(1, most + 1))
    ratio = min(4.0, most ** (1 / max(1, count - 1)))
    return tuple(sorted({max(1, round(most / ratio**index)) for index in range(count)}))


def _complexity(split: Split) -> tuple[object, ...]:
    """Fewer stages first, then more even shares, then the order of names."""
    num_stages = sum(len(replica.stages) for replica in split)
    samples = [replica.num_samples for replica in split]
    layers = [stage.last_layer - stage.first_layer for r in split for stage in r.stages]
    return num_stages, max(samples) - min(samples), max(layers) - min(layers), split


def _structure(split: Split) -> object:
    """Which blocks form replicas together."""
    return tuple(sorted(tuple(sorted(stage.block for stage in r.stages)) for r in split))

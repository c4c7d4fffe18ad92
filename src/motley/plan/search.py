"""Finds the plan with the shortest predicted step that fits every chip's memory.

Three levels, each remembering what it has computed: the best pipelines of every set of chips
(`pipelines`), the partitions of the chips into replicas with their shares of the batch
(`partitions`), and small changes with the whole step simulated exactly (`refine`). A rough first
pass gives a time that the second pass need not look beyond.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from motley.cluster import Cluster
from motley.plan.build import build_plan
from motley.plan.choices import Split, StageChoice
from motley.plan.classes import ChipClasses, Counts, chip_classes
from motley.plan.evaluate import Evaluator
from motley.plan.partitions import Partitions
from motley.plan.pipelines import Goal, PipelineSearch
from motley.plan.plan import Plan
from motley.plan.reasons import explain_choice, explain_rejected, no_plan
from motley.plan.refine import LARGER_MICRO_BATCH, Refiner, micro_batch_sizes
from motley.plan.shapes import Shape, ShapeMaker
from motley.recipe import Recipe

EQUAL = 1e-6
"""Relative difference of step times below which the simpler plan is taken."""

KEPT_ALTERNATIVES = 3

HOPELESS = 1000.0
"""No split is looked for that takes so many times longer than all chips at full speed."""

TYPICAL_EXCHANGE = 4 / 3
"""Weight of the gradients' exchange among three replicas, 2(n-1)/n."""


@dataclass(frozen=True)
class Effort:
    """How far each level of the search looks, by how many kinds of splits there are."""

    beam: int
    """Pipelines kept for each set of chips and first layer."""
    sizes: tuple[int, ...]
    """Micro-batch sizes for which pipelines are built."""
    max_probes: int
    """Numbers of micro-batches for which pipelines are built, per size."""
    most_shapes: int
    most_partitions: int
    most_refined: int
    most_looks: int


def effort_for(evaluator: Evaluator, classes: ChipClasses) -> Effort:
    """Small searches are exhaustive; large ones keep the best of each part."""
    sets = math.prod(total + 1 for total in classes.totals)
    states = sets * evaluator.num_layers * (1 if classes.uniform else len(classes.totals))
    batch = evaluator.global_batch
    if states <= 1000:
        return Effort(6, _spread(batch, 8), 6, 40, 4000, 32, 2000)
    if states <= 8000:
        return Effort(4, _spread(batch, 4), 4, 24, 2500, 32, 1500)
    return Effort(2, _spread(batch, 3), 3, 16, 2000, 24, 1500)


def _spread(most: int, count: int) -> tuple[int, ...]:
    """Up to `count` sizes from 1 up, in even ratios of at most four."""
    if most <= count:
        return tuple(range(1, most + 1))
    ratio = min(4.0, most ** (1 / count))
    return tuple(sorted({round(ratio**index) for index in range(count)}))


def search(recipe: Recipe, cluster: Cluster) -> Plan:
    """The plan with the shortest predicted step that fits; the same one every time.

    Raises:
        NoPlanError: the model fits on no split of the chips; names what is lacking where.
        RecipeError: the recipe's vocabulary is not known yet.
    """
    classes = chip_classes(cluster, cluster.chips)
    evaluator = Evaluator(recipe, classes.representatives, classes.link)
    found = _Search(evaluator, classes).run()
    if not found:
        raise no_plan(evaluator, classes, cluster.name)
    plans = [build_plan(_on_chips(split, classes, cluster), recipe, cluster) for split in found]
    return explain_choice(explain_rejected(plans[0], plans[1:], recipe, cluster), recipe, cluster)


def _on_chips(split: Split, classes: ChipClasses, cluster: Cluster) -> Split:
    """The split with every chip of a class in place of the class, in the cluster's order."""
    index = {chip.name: position for position, chip in enumerate(cluster.chips)}
    left = [iter(members) for members in classes.members]
    ordered = sorted(split, key=lambda replica: (-replica.num_samples, replica.stages))
    return tuple(
        replica._replace(
            stages=tuple(
                stage._replace(chip=index[next(left[stage.chip]).name]) for stage in replica.stages
            )
        )
        for replica in ordered
    )


class _Search:
    """One search; `run` gives the best split and the best ones of another structure."""

    def __init__(self, evaluator: Evaluator, classes: ChipClasses) -> None:
        self.evaluator = evaluator
        self.classes = classes
        self.maker = ShapeMaker(evaluator)
        self.effort = effort_for(evaluator, classes)
        flops = sum(evaluator.sample_flops())
        self.flops = flops * evaluator.global_batch
        speeds = zip(classes.representatives, classes.totals, strict=True)
        self.speed = sum(chip.training_flops_per_s * total for chip, total in speeds)
        self.ideal_s = self.flops / self.speed

    def run(self) -> list[Split]:
        effort = self.effort
        rough = self._shapes(Effort(1, effort.sizes[:1], 1, 4, 60, 4, 100), math.inf)
        best = self._visit(rough, math.inf, 60)
        limit = best[0][0] * 1.0001 if best else math.inf
        shapes = self._shapes(effort, limit)
        for used, listed in rough.items():
            shapes.setdefault(used, []).extend(listed)
        visited = self._visit(shapes, limit, effort.most_partitions)
        return self._choose(sorted(best + visited), shapes)

    def _shapes(self, effort: Effort, limit_s: float) -> dict[Counts, list[Shape]]:
        """Pipelines by the chips they use, the fastest first."""
        found: dict[Counts, set[Shape]] = {}
        slack = self.speed - self.flops / limit_s
        for size, count, exchange in self._goals(effort):
            goal = Goal(size, count, exchange, effort.beam, slack, limit_s)
            search = PipelineSearch(self.evaluator, self.classes, self.maker, goal)
            for used, shape in search.run():
                found.setdefault(used, set()).add(shape)
        for used, shape in self._single_stages():
            found.setdefault(used, set()).add(shape)
        return {
            used: self._fastest(used, shapes, effort.most_shapes) for used, shapes in found.items()
        }

    def _single_stages(self) -> Iterator[tuple[Counts, Shape]]:
        """Each chip that holds the whole model alone, with every micro-batch size that fits.

        Nothing waits for a first micro-batch there, and a long last backward hides the exchange.
        """
        num_layers, num_classes = self.evaluator.num_layers, len(self.classes.totals)
        for chip in range(num_classes):
            stage = StageChoice(chip, 0, num_layers)
            used = tuple(int(index == chip) for index in range(num_classes))
            for size in micro_batch_sizes(self.evaluator.global_batch):
                if self.evaluator.recompute(stage, 1, size) is not None:
                    yield used, self.maker.shape((stage,), size, 1)

    def _goals(self, effort: Effort) -> Iterator[tuple[int, int, float]]:
        for size in effort.sizes:
            most = -(-self.evaluator.global_batch // size)
            for count in _probes(most, effort.max_probes):
                yield size, count, 0.0
                if sum(self.classes.totals) > 1 and effort.max_probes > 1:
                    yield size, count, TYPICAL_EXCHANGE

    def _fastest(self, used: Counts, shapes: set[Shape], most: int) -> list[Shape]:
        """The fastest shapes of a set of chips, alone or among others, at a fair share."""
        speeds = zip(used, self.classes.representatives, strict=True)
        speed = sum(count * chip.training_flops_per_s for count, chip in speeds)
        share = max(1, round(self.evaluator.global_batch * speed / self.speed))
        kept: dict[Shape, None] = {}
        for num_replicas in (1, 3):
            order = sorted(shapes, key=lambda each: (each.seconds(share, num_replicas), each))
            kept.update(dict.fromkeys(order[: most // 2]))
        return list(kept)

    def _visit(
        self, shapes: dict[Counts, list[Shape]], limit_s: float, most: int
    ) -> list[tuple[float, Split]]:
        """Simulates promising partitions; times and splits."""
        partitions = Partitions(self.evaluator, self.classes.totals, shapes, self.ideal_s)
        if limit_s == math.inf:
            limit_s = self._slowest_s(shapes)
        found: list[tuple[float, Split]] = []
        for looked, promise in enumerate(partitions.promising(limit_s)):
            if promise.time_s > limit_s or looked >= most:
                break
            seconds = self.evaluator.step_seconds(promise.split)
            if seconds is not None:
                found.append((seconds, promise.split))
                limit_s = min(limit_s, seconds)
        return found

    def _slowest_s(self, shapes: dict[Counts, list[Shape]]) -> float:
        """A time that the best single replica keeps; where there is none, a very long one."""
        batch = self.evaluator.global_batch
        times = [
            shape.seconds(batch, 1)
            for listed in shapes.values()
            for shape in listed
            if shape.most_samples >= batch
        ]
        return 1.01 * min(times, default=HOPELESS * self.ideal_s)

    def _choose(
        self, ranked: list[tuple[float, Split]], shapes: dict[Counts, list[Shape]]
    ) -> list[Split]:
        effort = self.effort
        refiner = Refiner(self.evaluator, shapes, self.classes.totals, effort.most_looks)
        refined: dict[Split, float] = {}
        for _, split in ranked[: effort.most_refined]:
            better = refiner.improve(split)
            seconds = self.evaluator.step_seconds(better, exact=True)
            if seconds is not None:
                refined[better] = seconds
        for seconds, split in ranked[effort.most_refined :]:
            refined.setdefault(split, seconds)
        if not refined:
            return []
        order = sorted(refined, key=lambda split: (refined[split], _complexity(split)))
        fastest = refined[order[0]]
        equal = [split for split in order if refined[split] <= fastest * (1 + EQUAL)]
        winner = min(equal, key=_complexity)
        chosen = refiner.enlarge(winner, fastest * (1 + LARGER_MICRO_BATCH))
        others: dict[object, Split] = {_structure(winner): chosen}
        for split in order:
            others.setdefault(_structure(split), split)
        return list(others.values())[: 1 + KEPT_ALTERNATIVES]


def _probes(most: int, count: int) -> list[int]:
    """Numbers of micro-batches from `most` down to 1, all or evenly spread in their ratio."""
    if most <= count:
        return list(range(1, most + 1))
    ratio = most ** (1 / max(1, count - 1)) if count > 1 else 1.0
    ratio = min(ratio, 4.0)
    return sorted({max(1, round(most / ratio**index)) for index in range(count)})


def _complexity(split: Split) -> tuple[object, ...]:
    """Fewer stages first, then more even shares, then the order of names."""
    num_stages = sum(len(replica.stages) for replica in split)
    samples = [replica.num_samples for replica in split]
    layers = [stage.last_layer - stage.first_layer for r in split for stage in r.stages]
    return num_stages, max(samples) - min(samples), max(layers) - min(layers), split


def _structure(split: Split) -> object:
    """Which chips form replicas together."""
    return tuple(sorted(tuple(sorted(stage.chip for stage in r.stages)) for r in split))

"""From a split to a plan: real chips, predicted memory, time and busy shares, and reference plans.

The reference plans are what one does without a planner: the same share for every chip. They show
what the search has gained, and benchmarks measure them as baselines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.layout import Layout
from motley.plan.money import with_price
from motley.plan.plan import Plan, Replica, Stage
from motley.plan.search.blocks import Names, single_chips
from motley.plan.search.choices import ReplicaChoice, Split, StageChoice
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.laid import kept_by
from motley.plan.search.refine import micro_batch_sizes
from motley.plan.simulate import cluster_evaluator, split_of
from motley.plan.space import TRAINABLE, Space
from motley.plan.stack import MOTLEY, Stack
from motley.recipe import Recipe


class Built(NamedTuple):
    """A plan with what its prediction says besides."""

    plan: Plan
    exposed_s: float
    """From the end of the last pass to the end of the step."""


def build_plan(
    split: Split,
    recipe: Recipe,
    cluster: Cluster,
    groups: Sequence[Names] | None = None,
    *,
    space: Space = TRAINABLE,
    stack: Stack = MOTLEY,
) -> Plan:
    """The plan of a split over groups of the cluster's chips, with predictions, without reasons.

    Unset `groups` are the chips one by one. Stages get the fastest layouts that fit. Nothing is
    refused: a stage that needs more than its chips have says so in `memory_bytes`.
    """
    known = tuple(groups) if groups is not None else single_chips(cluster)
    evaluator = cluster_evaluator(recipe, cluster, known, space=space, stack=stack)
    return built(evaluator, split, recipe, cluster, known).plan


def built(
    evaluator: Evaluator, split: Split, recipe: Recipe, cluster: Cluster, groups: Sequence[Names]
) -> Built:
    """The same with an evaluator of the groups."""
    layouts = [_layouts(evaluator, replica) for replica in split]
    prediction = evaluator.predict(split, layouts)
    busy = iter(prediction.busy_share)
    replicas = tuple(
        _replica(evaluator, replica, laid, groups, busy)
        for replica, laid in zip(split, layouts, strict=True)
    )
    used = {name for replica in split for stage in replica.stages for name in groups[stage.block]}
    plan = Plan(
        recipe_digest=recipe.digest,
        cluster_digest=cluster.digest,
        replicas=replicas,
        idle_chips=tuple(chip.name for chip in cluster.chips if chip.name not in used),
        step_s=prediction.step_s,
        tokens_per_s=recipe.tokens_per_step / prediction.step_s,
    )
    return Built(with_price(plan, recipe, cluster), prediction.exposed_s)


def with_predictions(
    plan: Plan, recipe: Recipe, cluster: Cluster, *, stack: Stack = MOTLEY
) -> Plan:
    """The plan with predicted time, tokens/s, busy shares and price."""
    evaluator, split = split_of(plan, recipe, cluster, stack=stack)
    layouts = [[stage.layout for stage in replica.stages] for replica in plan.replicas]
    prediction = evaluator.predict(split, layouts)
    busy = iter(prediction.busy_share)
    replicas = tuple(
        dataclasses.replace(
            replica,
            stages=tuple(
                dataclasses.replace(stage, busy_share=round(next(busy), 6))
                for stage in replica.stages
            ),
        )
        for replica in plan.replicas
    )
    predicted = dataclasses.replace(
        plan,
        replicas=replicas,
        step_s=prediction.step_s,
        tokens_per_s=recipe.tokens_per_step / prediction.step_s,
    )
    return with_price(predicted, recipe, cluster)


def _layouts(evaluator: Evaluator, replica: ReplicaChoice) -> tuple[Layout, ...]:
    """The fastest that fit, or where they do not those that need least memory."""
    return evaluator.layouts(replica) or tuple(
        evaluator.smallest_layout(stage, kept, replica)
        for stage, kept in zip(replica.stages, kept_by(replica), strict=True)
    )


def _replica(
    evaluator: Evaluator,
    replica: ReplicaChoice,
    layouts: Sequence[Layout],
    groups: Sequence[Names],
    busy: Iterator[float],
) -> Replica:
    stages = []
    for stage, layout, need in zip(
        replica.stages, layouts, evaluator.group_needs(replica, layouts), strict=True
    ):
        chip = evaluator.blocks[stage.block].chip
        stages.append(
            Stage(
                chips=groups[stage.block],
                first_layer=stage.first_layer,
                last_layer=stage.last_layer,
                precision=chip.precision,
                **layout._asdict(),
                memory_bytes=need,
                available_bytes=chip.memory_bytes,
                busy_share=round(next(busy), 6),
            )
        )
    return Replica(
        stages=tuple(stages),
        num_samples=replica.num_samples,
        micro_batch_size=replica.micro_batch_size,
        schedule=replica.schedule,
    )


def even_data_parallel(recipe: Recipe, cluster: Cluster) -> Plan:
    """One replica per chip and as many samples for each; fitting or not.

    The micro-batch is the largest that fits all chips. With fewer samples than chips, the first
    chips get one each.
    """
    return build_plan(even_batch(cluster_evaluator(recipe, cluster)), recipe, cluster)


def even_pipeline(recipe: Recipe, cluster: Cluster) -> Plan:
    """All chips in one pipeline, in the cluster's order, with as many blocks each; fitting or not.

    The micro-batch is the one with the shortest predicted step.
    """
    return build_plan(even_stages(cluster_evaluator(recipe, cluster)), recipe, cluster)


def even_batch(evaluator: Evaluator) -> Split:
    """The split of `even_data_parallel` over an evaluator's blocks."""
    num_replicas = min(len(evaluator.blocks), evaluator.global_batch)
    shares = even_shares(evaluator.global_batch, num_replicas)

    def split(size: int) -> Split:
        return tuple(
            ReplicaChoice((StageChoice(index, 0, evaluator.num_layers),), min(size, share), share)
            for index, share in enumerate(shares)
        )

    for size in reversed(micro_batch_sizes(max(shares))):
        if all(evaluator.layouts(replica) is not None for replica in split(size)):
            return split(size)
    return split(1)


def even_stages(evaluator: Evaluator) -> Split:
    """The split of `even_pipeline` over an evaluator's blocks."""
    stages = _even_stages(evaluator.num_layers, len(evaluator.blocks))
    batch = evaluator.global_batch
    best: tuple[float, Split] | None = None
    for size in reversed(micro_batch_sizes(batch)):
        split = (ReplicaChoice(stages, size, batch),)
        seconds = evaluator.step_seconds(split)
        if seconds is not None and (best is None or seconds < best[0]):
            best = seconds, split
    return best[1] if best else (ReplicaChoice(stages, 1, batch),)


def _even_stages(num_layers: int, num_chips: int) -> tuple[StageChoice, ...]:
    """The embedding goes with the first stage's blocks, the head with the last's."""
    num_stages = min(num_chips, num_layers)
    blocks = num_layers - 2
    if num_stages <= blocks:
        lengths = even_shares(blocks, num_stages)
        lengths[0] += 1
        lengths[-1] += 1
    else:
        lengths = even_shares(num_layers, num_stages)
    stages, first = [], 0
    for chip, length in enumerate(lengths):
        stages.append(StageChoice(chip, first, first + length))
        first += length
    return tuple(stages)


def even_shares(total: int, count: int) -> list[int]:
    """`total` in `count` parts that differ by one at most, the larger ones first."""
    return [total // count + (index < total % count) for index in range(count)]

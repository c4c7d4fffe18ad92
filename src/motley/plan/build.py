"""From a split to a plan: real chips, predicted memory, time and busy shares, and reference plans.

The reference plans are what one does without a planner: the same share for every chip. They show
what the search has gained, and benchmarks measure them as baselines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from motley.cluster import Cluster
from motley.plan.blocks import Names, single_chips
from motley.plan.choices import ReplicaChoice, Split, StageChoice
from motley.plan.evaluate import Evaluator
from motley.plan.plan import Plan, Replica, Stage
from motley.plan.refine import micro_batch_sizes
from motley.plan.simulate import cluster_evaluator, simulate
from motley.plan.space import TRAINABLE, Space
from motley.plan.stack import MOTLEY, Stack
from motley.plan.tables import kept_by
from motley.recipe import Recipe


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
    used = {name for replica in split for stage in replica.stages for name in known[stage.block]}
    plan = Plan(
        recipe_digest=recipe.digest,
        cluster_digest=cluster.digest,
        replicas=tuple(_replica(evaluator, replica, known) for replica in split),
        idle_chips=tuple(chip.name for chip in cluster.chips if chip.name not in used),
    )
    return with_predictions(plan, recipe, cluster, stack=stack)


def with_predictions(
    plan: Plan, recipe: Recipe, cluster: Cluster, *, stack: Stack = MOTLEY
) -> Plan:
    """The plan with simulated time, tokens/s and busy shares."""
    simulation = simulate(plan, recipe, cluster, stack=stack)
    busy = iter(simulation.busy_share)
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
    return dataclasses.replace(
        plan,
        replicas=replicas,
        step_s=simulation.step_s,
        tokens_per_s=simulation.tokens_per_s,
    )


def _replica(evaluator: Evaluator, replica: ReplicaChoice, groups: Sequence[Names]) -> Replica:
    layouts = evaluator.layouts(replica)
    stages = []
    for position, (stage, kept) in enumerate(zip(replica.stages, kept_by(replica), strict=True)):
        chip = evaluator.blocks[stage.block].chip
        layout = layouts[position] if layouts else evaluator.smallest_layout(stage, kept, replica)
        need = evaluator.memory(stage, kept, replica.micro_batch_size, layout)
        stages.append(
            Stage(
                chips=groups[stage.block],
                first_layer=stage.first_layer,
                last_layer=stage.last_layer,
                precision=chip.precision,
                **layout._asdict(),
                memory_bytes=need.total_bytes,
                available_bytes=chip.memory_bytes,
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
    evaluator = cluster_evaluator(recipe, cluster)
    batch, layers = recipe.batch.global_batch, recipe.model.num_layers
    num_replicas = min(len(cluster.chips), batch)
    shares = even_shares(batch, num_replicas)

    def split(size: int) -> Split:
        return tuple(
            ReplicaChoice((StageChoice(index, 0, layers),), min(size, share), share)
            for index, share in enumerate(shares)
        )

    for size in reversed(micro_batch_sizes(max(shares))):
        if evaluator.step_seconds(split(size), exact=True) is not None:
            return build_plan(split(size), recipe, cluster)
    return build_plan(split(1), recipe, cluster)


def even_pipeline(recipe: Recipe, cluster: Cluster) -> Plan:
    """All chips in one pipeline, in the cluster's order, with as many blocks each; fitting or not.

    The micro-batch is the one with the shortest predicted step.
    """
    evaluator = cluster_evaluator(recipe, cluster)
    stages = _even_stages(recipe.model.num_layers, len(cluster.chips))
    batch = recipe.batch.global_batch
    best: tuple[float, Split] | None = None
    for size in reversed(micro_batch_sizes(batch)):
        split = (ReplicaChoice(stages, size, batch),)
        seconds = evaluator.step_seconds(split, exact=True)
        if seconds is not None and (best is None or seconds < best[0]):
            best = seconds, split
    chosen = best[1] if best else (ReplicaChoice(stages, 1, batch),)
    return build_plan(chosen, recipe, cluster)


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

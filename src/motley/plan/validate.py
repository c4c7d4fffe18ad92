"""Checks a plan that a person may have written or edited, before any process is started."""

from __future__ import annotations

from collections import Counter

from motley.cluster import Cluster
from motley.errors import NoPlanError, PlanMismatchError, nearest
from motley.plan.memory import stage_memory
from motley.plan.plan import Plan, Replica
from motley.plan.schedule import in_flight
from motley.recipe import Recipe
from motley.units import size


def validate(plan: Plan, recipe: Recipe, cluster: Cluster) -> None:
    """Nothing if the plan can run as it is.

    Raises:
        PlanMismatchError: it does not fit the recipe or the cluster; names the place.
        NoPlanError: a stage needs more memory than its chip has.
    """
    if not plan.replicas:
        raise PlanMismatchError("the plan has no replica.", remedy="Run 'motley plan'.")
    _check_chips(plan, cluster)
    for index, replica in enumerate(plan.replicas):
        _check_layers(index, replica, recipe.model.num_layers)
        _check_samples(index, replica)
    total = sum(replica.num_samples for replica in plan.replicas)
    if total != recipe.batch.global_batch:
        raise PlanMismatchError(
            f"the replicas have {total} samples together, the recipe's global batch "
            f"has {recipe.batch.global_batch}.",
            remedy="Make the replicas' num_samples add up to batch.global_batch.",
        )
    for replica in plan.replicas:
        _check_memory(replica, recipe, cluster)


def _check_chips(plan: Plan, cluster: Cluster) -> None:
    chips = {chip.name: chip for chip in cluster.chips}
    stages = [placement.stage for placement in plan.placements()]
    for stage in stages:
        if stage.chip not in chips:
            raise PlanMismatchError(
                f"the plan uses chip '{stage.chip}', which cluster '{cluster.name}' does not have.",
                remedy=nearest(stage.chip, chips) or f"It has {', '.join(chips)}.",
            )
        if stage.precision not in chips[stage.chip].flops_per_s:
            raise PlanMismatchError(
                f"chip '{stage.chip}' has no rate for {stage.precision}.",
                remedy=f"Use {chips[stage.chip].precision}, or give flops_per_s.{stage.precision}.",
            )
        if stage.precision != chips[stage.chip].precision:
            raise PlanMismatchError(
                f"the plan runs chip '{stage.chip}' in {stage.precision}, the cluster "
                f"in {chips[stage.chip].precision}.",
                remedy="Change the chip's precision in the cluster, which all figures rest on.",
            )
    for name, count in Counter(stage.chip for stage in stages).items():
        if count > 1:
            raise PlanMismatchError(
                f"chip '{name}' has {count} stages.", remedy="Give every chip one stage at most."
            )


def _check_layers(index: int, replica: Replica, num_layers: int) -> None:
    expected = 0
    for position, stage in enumerate(replica.stages):
        if stage.first_layer != expected or stage.last_layer <= stage.first_layer:
            raise PlanMismatchError(
                f"replica {index}, stage {position} (chip '{stage.chip}') has the layers "
                f"{stage.first_layer} up to {stage.last_layer}; it must begin with {expected} and "
                "have one at least.",
                remedy="Each replica needs every layer once, in order.",
            )
        expected = stage.last_layer
    if expected != num_layers:
        raise PlanMismatchError(
            f"replica {index} ends before layer {expected}; the model has {num_layers} layers "
            "(embedding, blocks, head).",
            remedy="Each replica needs every layer once, in order.",
        )


def _check_samples(index: int, replica: Replica) -> None:
    if replica.num_samples < 1 or not 1 <= replica.micro_batch_size <= replica.num_samples:
        raise PlanMismatchError(
            f"replica {index} has {replica.num_samples} samples in micro-batches "
            f"of {replica.micro_batch_size}.",
            remedy="Give it one sample at least, and micro-batches no larger than its share.",
        )


def _check_memory(replica: Replica, recipe: Recipe, cluster: Cluster) -> None:
    for position, stage in enumerate(replica.stages):
        need = stage_memory(
            recipe.model,
            recipe.batch.sequence_length,
            stage.precision,
            (stage.first_layer, stage.last_layer),
            num_in_flight=in_flight(position, len(replica.stages), replica.num_micro_batches),
            micro_batch_size=replica.micro_batch_size,
            recompute=stage.recompute,
        ).total_bytes
        available = cluster.chip(stage.chip).memory_bytes
        if need > available:
            raise NoPlanError(
                f"chip '{stage.chip}' needs {size(need)} for its stage and has {size(available)}: "
                f"{size(need - available)} are lacking.",
                remedy="Give it fewer layers, a smaller micro-batch or recompute, or run "
                "'motley plan' to have a plan made.",
            )

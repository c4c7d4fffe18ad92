"""Checks a plan that a person may have written or edited, before any process is started."""

from __future__ import annotations

from collections import Counter

from motley.chips.chip import Chip
from motley.cluster import Cluster
from motley.errors import NoPlanError, PlanMismatchError, nearest
from motley.model.config import ModelConfig
from motley.plan.memory.peak import StageMemory, device_memory
from motley.plan.memory.stage import stage_memory
from motley.plan.plan import Plan, Replica, Stage
from motley.plan.search.blocks import block_of, differing, library_link_bytes_per_s
from motley.plan.space import splits_experts, splits_heads
from motley.plan.stack import MOTLEY, Stack
from motley.plan.timing.schedule import in_flight_of
from motley.recipe import Recipe
from motley.units import size


def require_executable(plan: Plan) -> None:
    """`PlanMismatchError` if the plan is of a kind that can be predicted but not yet executed."""
    if plan.planned_only:
        raise PlanMismatchError(
            f"the plan cannot be trained yet: {plan.planned_only}.",
            remedy="Plan with 'motley plan --trainable', or leave the plan out to have one made.",
        )


def validate(plan: Plan, recipe: Recipe, cluster: Cluster) -> None:
    """Nothing if the plan is whole: every layer and sample once, on chips that hold it.

    Raises:
        PlanMismatchError: it does not fit the recipe or the cluster; names the place.
        NoPlanError: a stage needs more memory than its chip has.
    """
    validate_structure(plan, recipe, cluster)
    for replica in plan.replicas:
        _check_memory(replica, recipe, cluster)


def validate_structure(plan: Plan, recipe: Recipe, cluster: Cluster) -> None:
    """The same without memory: `PlanMismatchError` names the place of what is wrong."""
    if not plan.replicas:
        raise PlanMismatchError("the plan has no replica.", remedy="Run 'motley plan'.")
    _check_chips(plan, cluster)
    for placement in plan.placements():
        _check_degrees(placement.stage, recipe.model)
        _check_alike(placement.stage, cluster)
    _check_used_once(plan)
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


def _check_chips(plan: Plan, cluster: Cluster) -> None:
    chips = {chip.name: chip for chip in cluster.chips}
    for placement in plan.placements():
        stage = placement.stage
        if min(stage.tensor, stage.data) < 1 or stage.layout.num_chips != len(stage.chips):
            raise PlanMismatchError(
                f"a stage with layers {stage.first_layer} up to {stage.last_layer} names "
                f"{len(stage.chips)} chips for {stage.tensor} x {stage.data} (tensor x data).",
                remedy="Name as many chips as tensor x data, each 1 or more.",
            )
        for name in stage.chips:
            if name not in chips:
                raise PlanMismatchError(
                    f"the plan uses chip '{name}', which cluster '{cluster.name}' does not have.",
                    remedy=nearest(name, chips) or f"It has {', '.join(list(chips)[:20])}.",
                )
            _check_precision(stage, chips[name])


def _check_precision(stage: Stage, chip: Chip) -> None:
    if stage.precision not in chip.flops_per_s:
        raise PlanMismatchError(
            f"chip '{chip.name}' has no rate for {stage.precision}.",
            remedy=f"Use {chip.precision}, or give flops_per_s.{stage.precision}.",
        )
    if stage.precision != chip.precision:
        raise PlanMismatchError(
            f"the plan runs chip '{chip.name}' in {stage.precision}, the cluster "
            f"in {chip.precision}.",
            remedy="Change the chip's precision in the cluster, which all figures rest on.",
        )


def _check_degrees(stage: Stage, config: ModelConfig) -> None:
    """Heads and experts are shared evenly, as in the layouts that a search chooses from."""
    if not splits_heads(config, stage.tensor):
        raise PlanMismatchError(
            f"{stage.label} cannot share the model's heads (tensor = {stage.tensor}): it has "
            f"{config.heads}, and {config.num_key_value_heads} for keys and values.",
            remedy="Use a tensor degree that divides both, or tensor = 1.",
        )
    even = stage.expert > 0 and len(stage.chips) % stage.expert == 0
    if not even or not splits_experts(config, stage.expert):
        experts = config.mixture.experts if config.mixture else "no"
        raise PlanMismatchError(
            f"{stage.label} cannot share the model's experts (expert = {stage.expert}): it has "
            f"{experts} experts, the stage {len(stage.chips)} chips.",
            remedy="Use an expert degree that divides both, or expert = 1.",
        )


def _check_alike(stage: Stage, cluster: Cluster) -> None:
    """A group has the time and memory of one of its chips, so that all must be like it."""
    first = cluster.chip(stage.chip)
    for other in map(cluster.chip, stage.chips):
        unlike = differing(first, other)
        if unlike:
            raise PlanMismatchError(
                f"chips '{first.name}' ({first.kind}) and '{other.name}' ({other.kind}) share the "
                f"layers {stage.first_layer} up to {stage.last_layer} and are unlike in "
                f"{', '.join(unlike)}.",
                remedy="Give unlike chips stages or replicas of their own. Chips of one kind that "
                "were measured one by one can get the same figures in the cluster.",
            )


def _check_used_once(plan: Plan) -> None:
    """A chip has one stage, or several virtual ones of one interleaved replica."""
    held: Counter[str] = Counter()
    for replica in plan.replicas:
        groups = [stage.chips for stage in replica.stages]
        if replica.schedule == "interleaved":
            groups = list(dict.fromkeys(groups))
        held.update(name for group in groups for name in group)
    for name, count in held.items():
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
    for stage, need in zip(replica.stages, stage_needs(replica, recipe, cluster), strict=True):
        available = cluster.chip(stage.chip).memory_bytes
        if need > available:
            raise NoPlanError(
                f"chip '{stage.chip}' needs {size(need)} for its stage and has {size(available)}: "
                f"{size(need - available)} are lacking.",
                remedy="Give it fewer layers, a smaller micro-batch or recompute, or run "
                "'motley plan' to have a plan made.",
            )


def stage_needs(
    replica: Replica, recipe: Recipe, cluster: Cluster, *, stack: Stack = MOTLEY
) -> list[int]:
    """Predicted peak bytes of every stage's chips, all virtual stages of a chip together."""
    groups = list(dict.fromkeys(stage.chips for stage in replica.stages))
    held = tuple(groups.index(stage.chips) for stage in replica.stages)
    kept = in_flight_of(held, replica.num_micro_batches, replica.schedule)
    parts: dict[int, list[StageMemory]] = {}
    for group, stage, count in zip(held, replica.stages, kept, strict=True):
        need = stage_memory(
            recipe.model,
            recipe.batch.sequence_length,
            stage.precision,
            (stage.first_layer, stage.last_layer),
            num_in_flight=count,
            micro_batch_size=replica.micro_batch_size,
            layout=stage.layout,
            stack=stack,
            link_bytes_per_s=library_link_bytes_per_s(block_of(cluster, stage.chips)),
            recipe=recipe,
        )
        parts.setdefault(group, []).append(need)
    return [device_memory(parts[group]).total_bytes for group in held]

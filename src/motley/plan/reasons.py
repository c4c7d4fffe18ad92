"""Why a plan is as it is, in sentences: what binds it, what was rejected, what is lacking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from motley.chips.chip import Chip
from motley.cluster import LOOPBACK, Cluster
from motley.plan.build import even_data_parallel, even_pipeline
from motley.plan.cost import backward_flops, forward_flops
from motley.plan.memory import stage_memory
from motley.plan.plan import Plan, Rejected, Stage
from motley.plan.simulate import Simulation, simulate
from motley.plan.validate import stage_needs
from motley.recipe import Recipe
from motley.units import duration, percent, size

NOTABLE = 0.05
"""Shares of the step below this are not worth a sentence."""

MOST_FOR_EVEN = 16
"""Chips up to which the even splits, which take them one by one, are compared with."""

EQUAL_SHARES = 0.005
"""Shares that differ by less read the same."""


def describe(plan: Plan) -> str:
    """The split in a line: "a: 12 | b > c: 4 samples"."""
    parts = (
        f"{' > '.join(stage.label for stage in replica.stages)}: {replica.num_samples}"
        for replica in plan.replicas
    )
    return " | ".join(parts) + " samples"


def work_shares(plan: Plan, recipe: Recipe) -> dict[str, float]:
    """Each chip's share of the step's FLOPs (without what recompute repeats)."""
    flops: dict[str, float] = {}
    length = recipe.batch.sequence_length
    for placement in plan.placements():
        stage = placement.stage
        work = placement.replica.num_samples * sum(
            forward_flops(recipe.model, layer, length, stage.precision)
            + backward_flops(recipe.model, layer, length, stage.precision, False)
            for layer in stage.layers
        )
        for chip in stage.chips:
            flops[chip] = flops.get(chip, 0.0) + work / len(stage.chips)
    total = sum(flops.values()) or 1.0
    return {chip: each / total for chip, each in flops.items()}


def speed_shares(chips: Sequence[Chip]) -> dict[str, float]:
    """Each chip's share of the chips' training FLOP/s."""
    total = sum(chip.training_flops_per_s for chip in chips)
    return {chip.name: chip.training_flops_per_s / total for chip in chips}


def lacks(plan: Plan) -> list[tuple[Stage, int]]:
    """Stages that do not fit, and the bytes that they lack; the worst first."""
    missing = [
        (placement.stage, placement.stage.memory_bytes - placement.stage.available_bytes)
        for placement in plan.placements()
    ]
    return sorted((pair for pair in missing if pair[1] > 0), key=lambda pair: -pair[1])


def explain_rejected(plan: Plan, others: Sequence[Plan], recipe: Recipe, cluster: Cluster) -> Plan:
    """The plan with the best others, and for few chips the two even splits, as rejected ones."""
    references = []
    if len(cluster.chips) <= MOST_FOR_EVEN:
        references = [
            ("even batch over all chips", even_data_parallel(recipe, cluster)),
            ("even pipeline split", even_pipeline(recipe, cluster)),
        ]
    rejected = [_reject(describe(other), other, plan, recipe, cluster) for other in others]
    rejected += [
        _reject(f"{name}: {describe(other)}", other, plan, recipe, cluster)
        for name, other in references
    ]
    return dataclasses.replace(plan, rejected=tuple(rejected))


def _reject(split: str, other: Plan, chosen: Plan, recipe: Recipe, cluster: Cluster) -> Rejected:
    missing = lacks(other)
    if missing:
        stage, lack = missing[0]
        return Rejected(split=split, reason=f"does not fit: chip {stage.chip} lacks {size(lack)}")
    slower = other.step_s / chosen.step_s - 1
    if slower < 1e-3:
        return Rejected(split=split, reason="not faster than the chosen one", step_s=other.step_s)
    cause = _cause(other, simulate(other, recipe, cluster))
    return Rejected(
        split=split, reason=f"slower by {percent(slower)}: {cause}", step_s=other.step_s
    )


def _cause(plan: Plan, simulation: Simulation) -> str:
    """What the step's time is lost to."""
    names = [placement.stage.label for placement in plan.placements()]
    exposed = simulation.exposed_sync_s / simulation.step_s
    waiting, rank = max((share, -rank) for rank, share in enumerate(simulation.wait_share))
    if exposed > max(NOTABLE, waiting):
        return f"the gradients' exchange takes {percent(exposed)} of the step after the last pass"
    if plan.idle_chips and waiting < NOTABLE:
        return f"it leaves out {_listed(plan.idle_chips)}"
    if waiting < NOTABLE and any(p.stage.recompute != "none" for p in plan.placements()):
        return "it has to recompute activations"
    return f"chip {names[-rank]} waits {percent(waiting)} of the step"


def explain_choice(plan: Plan, recipe: Recipe, cluster: Cluster) -> Plan:
    """The plan with its reasons."""
    simulation = simulate(plan, recipe, cluster)
    reasons = [
        _why_shares(plan, recipe, cluster),
        *_why_pipelines(plan, recipe, cluster),
        _what_binds(plan, simulation),
        *_why_recompute(plan, recipe),
        *_why_idle(plan, cluster),
        *_assumed_links(plan, cluster),
    ]
    return dataclasses.replace(plan, reasons=tuple(reasons))


def _listed(names: Sequence[str]) -> str:
    """The names, or how many there are."""
    return ", ".join(names) if len(names) <= MOST_FOR_EVEN else f"{len(names)} chips"


def _why_shares(plan: Plan, recipe: Recipe, cluster: Cluster) -> str:
    work, speed = work_shares(plan, recipe), speed_shares(cluster.chips)
    if len(work) == 1:
        return f"Chip {next(iter(work))} does all the work."
    chip = max(work, key=lambda name: (abs(work[name] - speed[name]), name))
    if abs(work[chip] - speed[chip]) < EQUAL_SHARES:
        return "Every chip's share of the work is its share of the speed."
    return (
        f"Work follows speed: the largest difference is chip {chip}, with {percent(work[chip])} "
        f"of the work and {percent(speed[chip])} of the speed."
    )


def _why_pipelines(plan: Plan, recipe: Recipe, cluster: Cluster) -> list[str]:
    reasons = []
    for replica in plan.replicas:
        if len(replica.stages) < 2:
            continue
        names = [stage.label for stage in replica.stages]
        alone = [stage.label for stage in replica.stages if _fits_alone(stage, cluster, recipe)]
        if not alone:
            why = "the whole model fits none of them alone"
        elif len(alone) < len(names):
            why = f"the whole model fits only {' and '.join(alone)} alone"
        else:
            why = "the step is shorter than with a replica on each"
        reasons.append(f"Chips {', '.join(names)} form a pipeline: {why}.")
    return reasons


def _fits_alone(stage: Stage, cluster: Cluster, recipe: Recipe) -> bool:
    need = stage_memory(
        recipe.model,
        recipe.batch.sequence_length,
        stage.precision,
        (0, recipe.model.num_layers),
        num_in_flight=1,
        micro_batch_size=1,
        layout=stage.layout._replace(recompute="full"),
    )
    return need.total_bytes <= cluster.chip(stage.chip).memory_bytes


def _what_binds(plan: Plan, simulation: Simulation) -> str:
    names = [placement.stage.label for placement in plan.placements()]
    exposed = simulation.exposed_sync_s
    busiest = max(range(len(names)), key=lambda rank: (simulation.busy_share[rank], -rank))
    busy = simulation.busy_share[busiest]
    text = f"Chip {names[busiest]} binds the step: it computes {percent(busy)} of the time."
    if exposed > NOTABLE * simulation.step_s:
        text += f" Exchanging gradients adds {duration(exposed)} after the last pass."
    elif busy < 1 - 4 * NOTABLE:
        text += " The rest is waiting for other stages and links."
    return text


def _why_recompute(plan: Plan, recipe: Recipe) -> list[str]:
    reasons = []
    for replica in plan.replicas:
        without = dataclasses.replace(
            replica,
            stages=tuple(dataclasses.replace(stage, recompute="none") for stage in replica.stages),
        )
        for stage, need in zip(replica.stages, stage_needs(without, recipe), strict=True):
            if stage.recompute != "none" and need > stage.available_bytes:
                what = "activations" if stage.recompute == "full" else "the attention's inside"
                reasons.append(
                    f"Chip {stage.label} recomputes {what}: without, it would need {size(need)} "
                    f"and has {size(stage.available_bytes)}."
                )
    return reasons


def _why_idle(plan: Plan, cluster: Cluster) -> list[str]:
    if not plan.idle_chips:
        return []
    speed = speed_shares(cluster.chips)
    share = percent(sum(speed[name] for name in plan.idle_chips))
    verb = "is" if len(plan.idle_chips) == 1 else "are"
    names = _listed(plan.idle_chips)
    return [f"{names} ({share} of the speed) {verb} idle: no split found with more is faster."]


def _assumed_links(plan: Plan, cluster: Cluster) -> list[str]:
    names = [name for p in plan.placements() for name in {p.stage.chips[0], p.stage.chips[-1]}]
    assumed = any(
        cluster.link(first, second).source == LOOPBACK.source
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    )
    if not assumed:
        return []
    rate = LOOPBACK.bandwidth_bytes_per_s / 1e9
    return [f"Links that the cluster does not give are assumed to move {rate:.3g} GB/s."]

"""Why a plan is as it is, in sentences: what binds it, what was rejected, what is lacking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from motley.chips.chip import Chip
from motley.cluster import LOOPBACK, Cluster
from motley.errors import NoPlanError
from motley.plan.build import even_data_parallel, even_pipeline
from motley.plan.choices import StageChoice
from motley.plan.classes import ChipClasses
from motley.plan.cost import backward_flops, forward_flops
from motley.plan.evaluate import Evaluator
from motley.plan.memory import stage_memory
from motley.plan.plan import Plan, Rejected, Stage
from motley.plan.schedule import in_flight
from motley.plan.simulate import Simulation, simulate
from motley.recipe import Recipe
from motley.units import duration, percent, size

NOTABLE = 0.05
"""Shares of the step below this are not worth a sentence."""

EQUAL_SHARES = 0.005
"""Shares that differ by less read the same."""


def describe(plan: Plan) -> str:
    """The split in a line: "a: 12 | b > c: 4 samples"."""
    parts = (
        f"{' > '.join(stage.chip for stage in replica.stages)}: {replica.num_samples}"
        for replica in plan.replicas
    )
    return " | ".join(parts) + " samples"


def work_shares(plan: Plan, recipe: Recipe) -> dict[str, float]:
    """Each chip's share of the step's FLOPs (without what recompute repeats)."""
    flops: dict[str, float] = {}
    length = recipe.batch.sequence_length
    for placement in plan.placements():
        stage = placement.stage
        flops[stage.chip] = placement.replica.num_samples * sum(
            forward_flops(recipe.model, layer, length, stage.precision)
            + backward_flops(recipe.model, layer, length, stage.precision, False)
            for layer in stage.layers
        )
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
    """The plan with the best others, and the two even splits, as rejected ones."""
    references = (
        ("even batch over all chips", even_data_parallel(recipe, cluster)),
        ("even pipeline split", even_pipeline(recipe, cluster)),
    )
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
    names = [placement.stage.chip for placement in plan.placements()]
    exposed = simulation.exposed_sync_s / simulation.step_s
    waiting, rank = max((share, -rank) for rank, share in enumerate(simulation.wait_share))
    if exposed > max(NOTABLE, waiting):
        return f"the gradients' exchange takes {percent(exposed)} of the step after the last pass"
    if plan.idle_chips and waiting < NOTABLE:
        return f"it leaves out {', '.join(plan.idle_chips)}"
    if waiting < NOTABLE and any(p.stage.recompute for p in plan.placements()):
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
        names = [stage.chip for stage in replica.stages]
        alone = [name for name in names if _fits_alone(cluster.chip(name), recipe)]
        if not alone:
            why = "the whole model fits none of them alone"
        elif len(alone) < len(names):
            why = f"the whole model fits only {' and '.join(alone)} alone"
        else:
            why = "the step is shorter than with a replica on each"
        reasons.append(f"Chips {', '.join(names)} form a pipeline: {why}.")
    return reasons


def _fits_alone(chip: Chip, recipe: Recipe) -> bool:
    need = stage_memory(
        recipe.model,
        recipe.batch.sequence_length,
        chip.precision,
        (0, recipe.model.num_layers),
        num_in_flight=1,
        micro_batch_size=1,
        recompute=True,
    )
    return need.total_bytes <= chip.memory_bytes


def _what_binds(plan: Plan, simulation: Simulation) -> str:
    names = [placement.stage.chip for placement in plan.placements()]
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
    for placement in plan.placements():
        stage, replica = placement.stage, placement.replica
        if not stage.recompute:
            continue
        need = stage_memory(
            recipe.model,
            recipe.batch.sequence_length,
            stage.precision,
            (stage.first_layer, stage.last_layer),
            num_in_flight=in_flight(
                placement.position, len(replica.stages), replica.num_micro_batches
            ),
            micro_batch_size=replica.micro_batch_size,
            recompute=False,
        ).total_bytes
        reasons.append(
            f"Chip {stage.chip} recomputes activations: without, it would need {size(need)} and "
            f"has {size(stage.available_bytes)}."
        )
    return reasons


def _why_idle(plan: Plan, cluster: Cluster) -> list[str]:
    if not plan.idle_chips:
        return []
    speed = speed_shares(cluster.chips)
    share = percent(sum(speed[name] for name in plan.idle_chips))
    verb = "is" if len(plan.idle_chips) == 1 else "are"
    names = ", ".join(plan.idle_chips)
    return [f"{names} ({share} of the speed) {verb} idle: no split found with more is faster."]


def _assumed_links(plan: Plan, cluster: Cluster) -> list[str]:
    names = [placement.stage.chip for placement in plan.placements()]
    assumed = any(
        cluster.link(first, second).source == LOOPBACK.source
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    )
    if not assumed:
        return []
    rate = LOOPBACK.bandwidth_bytes_per_s / 1e9
    return [f"Links that the cluster does not give are assumed to move {rate:.3g} GB/s."]


def no_plan(evaluator: Evaluator, classes: ChipClasses, cluster_name: str) -> NoPlanError:
    """The error for a model that fits on no split, with what the best attempt lacks."""
    lack, stages = _least_lack(evaluator, classes)
    members = [iter(chips) for chips in classes.members]
    lines = []
    for position, stage in enumerate(stages):
        chip = next(members[stage.chip])
        kept = in_flight(position, len(stages), evaluator.global_batch)
        need = evaluator.memory_bytes(stage, kept, 1, True)
        if need > chip.memory_bytes:
            lines.append(
                f"chip '{chip.name}' needs {size(need)} for layers {stage.first_layer} to "
                f"{stage.last_layer - 1} and has {size(chip.memory_bytes)}: "
                f"{size(need - chip.memory_bytes)} are lacking"
            )
    return NoPlanError(
        f"the model fits on no split over cluster '{cluster_name}'. With the split that lacks "
        f"least, micro-batches of one sample and recompute, " + "; ".join(lines) + ".",
        remedy=f"Give the chips {size(lack)} more each, add a chip, shorten "
        "batch.sequence_length, or train a smaller model.",
    )


def _least_lack(evaluator: Evaluator, classes: ChipClasses) -> tuple[int, tuple[StageChoice, ...]]:
    """The one-replica split whose worst stage lacks the fewest bytes, and these bytes."""
    none = tuple(0 for _ in classes.totals)
    level: dict[tuple[tuple[int, ...], int], tuple[int, tuple[StageChoice, ...]]] = {
        (none, evaluator.num_layers): (-(2**62), ())
    }
    best: tuple[int, tuple[StageChoice, ...]] | None = None
    for num_stages in range(1, min(sum(classes.totals), evaluator.num_layers) + 1):
        found: dict[tuple[tuple[int, ...], int], tuple[int, tuple[StageChoice, ...]]] = {}
        kept = min(num_stages, evaluator.global_batch)
        for (used, end), (worst, stages) in level.items():
            for chip, total in enumerate(classes.totals):
                if used[chip] == total:
                    continue
                now = (*used[:chip], used[chip] + 1, *used[chip + 1 :])
                for first in range(end):
                    stage = StageChoice(chip, first, end)
                    need = evaluator.memory_bytes(stage, kept, 1, True)
                    lack = max(worst, need - evaluator.chips[chip].memory_bytes)
                    known = found.get((now, first))
                    if known is None or lack < known[0]:
                        found[now, first] = lack, (stage, *stages)
        whole = [entry for (_, first), entry in found.items() if first == 0]
        best = min([*whole, *([best] if best else [])], default=None)
        level = {key: entry for key, entry in found.items() if key[1] > 0}
    assert best is not None
    return best

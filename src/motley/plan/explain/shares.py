"""Who does how much: shares of work and speed by chip, and names in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from motley.chips.chip import Chip
from motley.plan.plan import Plan, Stage
from motley.plan.timing.cost import backward_flops, forward_flops
from motley.recipe import Recipe

MOST_NAMED = 4
"""Chips that a sentence names."""


def work_shares(plan: Plan, recipe: Recipe) -> dict[str, float]:
    """Each chip's share of the step's FLOPs (without what recompute repeats)."""
    flops: dict[str, float] = {}
    length = recipe.batch.sequence_length
    before = [0.0]
    precision = plan.replicas[0].stages[0].precision
    for layer in range(recipe.model.num_layers):
        forward = forward_flops(recipe.model, layer, length, precision)
        backward = backward_flops(recipe.model, layer, length, precision, False)
        before.append(before[-1] + forward + backward)
    for replica in plan.replicas:
        for stage in replica.stages:
            work = replica.num_samples * (before[stage.last_layer] - before[stage.first_layer])
            for chip in stage.chips:
                flops[chip] = flops.get(chip, 0.0) + work / len(stage.chips)
    total = sum(flops.values()) or 1.0
    return {chip: each / total for chip, each in flops.items()}


def speed_shares(chips: Sequence[Chip]) -> dict[str, float]:
    """Each chip's share of the chips' training FLOP/s."""
    total = sum(chip.training_flops_per_s for chip in chips)
    return {chip.name: chip.training_flops_per_s / total for chip in chips}


def called(stage: Stage) -> str:
    """The stage's chips as they are named within a sentence."""
    return f"chip {stage.chip}" if len(stage.chips) == 1 else stage.label


def listed(names: Sequence[str]) -> str:
    """The names, or how many there are."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{len(names)} chips"


def counted(chips: Iterable[Chip]) -> str:
    """How many there are of each kind: "8 x nvidia-h100-sxm-80g and 2 x nvidia-l4"."""
    counts: dict[str, int] = {}
    for chip in chips:
        counts[chip.kind] = counts.get(chip.kind, 0) + 1
    parts = [f"{count} x {kind}" for kind, count in counts.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]

"""What is lacking where a model fits on no split of a cluster."""

from __future__ import annotations

from motley.cluster import Cluster
from motley.errors import NoPlanError
from motley.plan.search.blocks import Names, single_chips
from motley.plan.search.choices import StageChoice
from motley.plan.search.classes import BlockClasses, Counts, block_classes
from motley.plan.search.effort import cuts_between
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.groupings import cuts_of, finest, grouping, kinds_of
from motley.plan.space import Space, layouts
from motley.plan.stack import Stack
from motley.recipe import Recipe
from motley.units import size

MOST_CUTS = 16
"""Boundaries between layers at which the attempts are cut."""

Attempt = tuple[int, tuple[StageChoice, ...]]
"""The bytes that the worst stage lacks, and the stages."""


def no_plan(recipe: Recipe, cluster: Cluster, space: Space, stack: Stack) -> NoPlanError:
    """The error for a model that fits on no split, with what the best attempt lacks."""
    classes = block_classes(cluster, _roomiest(cluster, space))
    evaluator = Evaluator(recipe, classes.blocks, classes, space=space, stack=stack)
    lack, stages = _least_lack(evaluator, classes)
    members = [iter(groups) for groups in classes.members]
    lines = []
    for position, stage in enumerate(stages):
        names = next(members[stage.block])
        chip = evaluator.blocks[stage.block].chip
        kept = min(len(stages) - position, evaluator.global_batch)
        need = _least_need(evaluator, stage, kept)
        if need > chip.memory_bytes:
            each = f"each of {len(names)} chips from " if len(names) > 1 else "chip "
            lines.append(
                f"{each}'{names[0]}' needs {size(need)} for layers {stage.first_layer} to "
                f"{stage.last_layer - 1} and has {size(chip.memory_bytes)}: "
                f"{size(need - chip.memory_bytes)} are lacking"
            )
    return NoPlanError(
        f"the model fits on no split over cluster '{cluster.name}'. With the split that lacks "
        f"least, micro-batches of one sample and recompute, " + "; ".join(lines) + ".",
        remedy=f"Give the chips {size(lack)} more each, add a chip, shorten "
        "batch.sequence_length, or train a smaller model.",
    )


def _roomiest(cluster: Cluster, space: Space) -> list[Names]:
    """The units with the most memory, as many as an attempt can have stages, in order."""
    kinds = kinds_of(cluster)
    cuts = finest(kinds) or [cuts_of(kind, space)[-1] for kind in kinds]
    units = grouping(kinds, cuts) if space.groups else single_chips(cluster)
    memory = [sum(cluster.chip(name).memory_bytes for name in names) for names in units]
    order = sorted(range(len(units)), key=lambda place: (-memory[place], place))
    return [units[place] for place in sorted(order[: MOST_CUTS - 1])]


def _least_need(evaluator: Evaluator, stage: StageChoice, kept: int) -> int:
    """Bytes per chip in the stage's most frugal layout, with micro-batches of one sample."""
    known = layouts(evaluator.blocks[stage.block], evaluator.config, evaluator.space)
    return min(evaluator.memory(stage, kept, 1, layout).total_bytes for layout in known)


def _least_lack(evaluator: Evaluator, classes: BlockClasses) -> Attempt:
    """The one-replica split whose worst stage lacks the fewest bytes, between the layers
    or, where they are many, evenly."""
    cuts = cuts_between(evaluator.num_layers, MOST_CUTS)
    needs: dict[tuple[int, int, int, int], int] = {}
    none = tuple(0 for _ in classes.totals)
    level: dict[tuple[Counts, int], Attempt] = {(none, evaluator.num_layers): (-(2**62), ())}
    best: Attempt | None = None
    for num_stages in range(1, min(sum(classes.totals), evaluator.num_layers) + 1):
        found: dict[tuple[Counts, int], Attempt] = {}
        kept = min(num_stages, evaluator.global_batch)
        for (used, end), (worst, stages) in level.items():
            for block, total in enumerate(classes.totals):
                if used[block] == total:
                    continue
                now = (*used[:block], used[block] + 1, *used[block + 1 :])
                for first in cuts[: cuts.index(end)]:
                    stage = StageChoice(block, first, end)
                    key = (*stage, kept)
                    if key not in needs:
                        needs[key] = _least_need(evaluator, stage, kept)
                    need = needs[key]
                    lack = max(worst, need - evaluator.blocks[block].chip.memory_bytes)
                    known = found.get((now, first))
                    if known is None or lack < known[0]:
                        found[now, first] = lack, (stage, *stages)
        whole = [entry for (_, first), entry in found.items() if first == 0]
        best = min([*whole, *([best] if best else [])], default=None)
        level = {key: entry for key, entry in found.items() if key[1] > 0}
    assert best is not None
    return best

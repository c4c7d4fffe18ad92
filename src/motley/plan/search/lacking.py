"""What is lacking where a model fits on no split of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from motley.cluster import Cluster
from motley.errors import NoPlanError
from motley.plan.search.blocks import Names, single_chips
from motley.plan.search.choices import StageChoice
from motley.plan.search.classes import BlockClasses, Counts, block_classes
from motley.plan.search.cut_table import CutTable
from motley.plan.search.effort import cuts_between
from motley.plan.search.evaluate import Evaluator
from motley.plan.search.groupings import cuts_of, finest, grouping, kinds_of
from motley.plan.space import Space, layouts
from motley.plan.stack import Stack
from motley.recipe import Recipe
from motley.units import size

MOST_CUTS = 16
"""Boundaries between layers at which the attempts are cut."""

Attempt = tuple[float, tuple[StageChoice, ...]]
"""The bytes that the worst stage lacks, and the stages."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


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
        remedy=f"Give the chips {size(round(lack))} more each, add a chip, shorten "
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


class _Ends(NamedTuple):
    """Of the ends of pipelines over some units, by the cut where they begin (i)."""

    lack: Floats
    """Bytes that the worst stage lacks; infinite where there is no end."""
    block: Indices
    """Of the first stage."""
    cut: Indices
    """Where it ends."""


_Level = dict[Counts, _Ends]
"""By the units used."""


def _least_lack(evaluator: Evaluator, classes: BlockClasses) -> Attempt:
    """The one-replica split whose worst stage lacks the fewest bytes, between the layers
    or, where they are many, evenly."""
    cuts = cuts_between(evaluator.num_layers, MOST_CUTS)
    most_stages = min(sum(classes.totals), len(cuts) - 1)
    lacks = _lacks(evaluator, cuts, min(most_stages, evaluator.global_batch))
    nothing = _no_ends(len(cuts))
    nothing.lack[-1] = -np.inf
    levels = [{tuple(0 for _ in classes.totals): nothing}]
    for _ in range(most_stages):
        kept = min(len(levels), len(lacks))
        levels.append(_longer(levels[-1], classes.totals, lacks[kept - 1]))
    lack, place, units = min(
        (float(ends.lack[0]), place, units)
        for place, level in enumerate(levels[1:], 1)
        for units, ends in level.items()
    )
    return lack, tuple(_stages(levels[: place + 1], units, cuts))


def _lacks(evaluator: Evaluator, cuts: tuple[int, ...], most_kept: int) -> Floats:
    """Bytes that each stage lacks in its most frugal layout, by the micro-batches of one sample
    that it keeps, its block and its cuts (k, t, i, j)."""
    table = CutTable.of(evaluator, cuts)
    kept = np.arange(1.0, most_kept + 1)
    found = []
    for block, (chip, _) in enumerate(evaluator.blocks):
        known = layouts(evaluator.blocks[block], evaluator.config, evaluator.space)
        needs = [table.needs.of(evaluator, block, 1, layout).total(kept) for layout in known]
        lack = np.min(needs, axis=0)[:, table.needs.kinds] - chip.memory_bytes
        found.append(np.where(table.is_stage, lack, np.inf))
    return np.stack(found, axis=1)


def _no_ends(num_cuts: int) -> _Ends:
    zeros = np.zeros((2, num_cuts), np.intp)
    return _Ends(np.full(num_cuts, np.inf), *zeros)


def _longer(level: _Level, totals: Counts, lacks: Floats) -> _Level:
    """The ends with one more stage before them."""
    found: _Level = {}
    for used, behind in level.items():
        for block, total in enumerate(totals):
            if used[block] == total:
                continue
            now = (*used[:block], used[block] + 1, *used[block + 1 :])
            worst = np.maximum(lacks[block], behind.lack)
            cut = worst.argmin(axis=1)
            lack = worst[np.arange(len(cut)), cut]
            ends = found.setdefault(now, _no_ends(len(cut)))
            better = lack < ends.lack
            ends.lack[better], ends.block[better], ends.cut[better] = (
                lack[better],
                block,
                cut[better],
            )
    return found


def _stages(levels: Sequence[_Level], units: Counts, cuts: Sequence[int]) -> Iterator[StageChoice]:
    """The stages of the pipeline over these units."""
    begin = 0
    for level in reversed(levels[1:]):
        block, end = int(level[units].block[begin]), int(level[units].cut[begin])
        yield StageChoice(block, cuts[begin], cuts[end])
        begin = end
        units = (*units[:block], units[block] - 1, *units[block + 1 :])

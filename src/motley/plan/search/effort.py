"""How far the search looks, by how many kinds of splits there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

EXHAUSTIVE = 6000
"""States up to which pipelines are built from every boundary, for every size and count."""

FEW_LAYERS = 16
"""Up to which that is done."""

FEW_CHIPS = 8
"""Up to which that is done, in the whole cluster."""

SOME = 700
"""Sets of units times types of blocks, up to which more is looked at than the very best."""

MOST_CUTS = 36
"""Boundaries between layers from which pipelines are built."""


class Effort(NamedTuple):
    """How far each level of the search looks."""

    all_sizes: bool
    """Micro-batches of all sizes, or in ratios of four; likewise for their numbers."""
    most_cuts: int
    """Boundaries between layers from which pipelines are built; more are tried at the end."""
    beam: int
    """Ends of pipelines kept for each set of units and first layer."""
    most_goals: int
    """For each size, unless all are tried."""
    kept_lines: int
    """Other pipelines over the same units that are tried in place of one."""
    most_partitions: int
    """Simulated."""
    most_refined: int
    most_looks: int
    """Changes tried for each split."""
    pessimism: float
    """By how much an estimate may be too long: short pipelines fill while they wait."""


def effort_for(
    num_layers: int, totals: Sequence[int], num_layouts: Sequence[int], num_chips: int
) -> Effort:
    """Small searches are exhaustive; large ones keep the best of each part.

    `totals` are the units of each class, `num_layouts` the layouts of each type of block,
    `num_chips` those of the cluster.
    """
    num_sets, num_types = math.prod(total + 1 for total in totals), len(num_layouts)
    states = (num_layers + 1) * num_sets * sum(num_layouts)
    is_small = num_layers <= FEW_LAYERS and num_chips <= FEW_CHIPS
    if is_small and states <= EXHAUSTIVE:
        return Effort(True, num_layers + 1, 6, 99, 32, 300, 80, 1500, 1.4)
    if num_sets * num_types <= SOME:
        return Effort(False, MOST_CUTS, 1, 2, 4, 12, 3, 60, 1.15)
    return Effort(False, MOST_CUTS, 1, 1, 2, 8, 2, 40, 1.15)


def cuts_between(num_layers: int, most: int) -> tuple[int, ...]:
    """Where stages may begin and end: between all layers, or evenly between many."""
    if num_layers + 1 <= most:
        return tuple(range(num_layers + 1))
    inner = num_layers - 2
    even = {1 + round(index * inner / (most - 3)) for index in range(most - 2)}
    return tuple(sorted(even | {0, num_layers}))


def spread(least: int, most: int, effort: Effort) -> tuple[int, ...]:
    """Sizes from the least on, in ratios of four; all up to 8 if the effort is for all sizes."""
    if effort.all_sizes and most <= 8:
        return tuple(range(least, most + 1))
    ratio = 2 if effort.all_sizes else 4
    sizes, size = [], min(least, most)
    while size < most:
        sizes.append(size)
        size *= ratio
    return tuple(sizes) or (most,)


def probes(most: int, effort: Effort) -> tuple[int, ...]:
    """Numbers of micro-batches up to `most` for which pipelines are built."""
    if effort.all_sizes and most <= 5:
        return tuple(range(1, most + 1))
    fewer = 5 if effort.all_sizes else 2
    return tuple(sorted({max(1, round(most / 4**index)) for index in range(fewer)}))

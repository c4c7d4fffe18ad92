"""How far the search looks, by how many kinds of splits there are."""

from __future__ import annotations

import math
from typing import NamedTuple

EXHAUSTIVE = 2500
"""States up to which pipelines are built from every boundary, for every size and count."""

SOME = 300
"""Sets of units up to which more than the very best end of a pipeline is kept."""


class Effort(NamedTuple):
    """How far each level of the search looks."""

    all_sizes: bool
    """Micro-batches of all sizes, or in ratios of four; likewise for their numbers."""
    most_cuts: int
    """Boundaries between layers from which pipelines are built; more are tried at the end."""
    beam: int
    """Ends of pipelines kept for each set of units and first layer."""
    kept_lines: int
    """Other pipelines over the same units that are tried in place of one."""
    most_partitions: int
    """Simulated."""
    most_refined: int
    most_looks: int
    """Changes tried for each split."""


def effort_for(num_layers: int, totals: tuple[int, ...], num_types: int) -> Effort:
    """Small searches are exhaustive; large ones keep the best of each part."""
    num_sets = math.prod(total + 1 for total in totals)
    if (num_layers + 1) * num_sets * num_types <= EXHAUSTIVE:
        return Effort(True, num_layers + 1, 6, 32, 300, 80, 1500)
    if num_sets * num_types <= SOME:
        return Effort(False, 18, 2, 4, 16, 3, 60)
    return Effort(False, 18, 1, 2, 12, 2, 40)


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

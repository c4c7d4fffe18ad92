"""Ways to put a cluster's chips into units, fine for few chips and coarse for many.

Chips of one kind in nodes of one size are cut into equal units: slices of whole nodes, and each
slice into parts, one of each of its nodes. A stage lies on one unit or, where its chips can share
it, on several.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.search.blocks import Names, rates
from motley.plan.space import Space

FEW_SETS = 300
"""Sets of single chips up to which they are searched one by one."""

FEW_CHIPS = 16

MOST_SETS = 900
"""Of units of one grouping; what takes long in the search are the sets."""

MOST_SLICES = 8
MOST_UNITS = 32
"""Of one kind."""


class Kind(NamedTuple):
    """Chips that differ only in their place, by node."""

    nodes: tuple[Names, ...]

    @property
    def num_chips(self) -> int:
        return sum(map(len, self.nodes))


class Cut(NamedTuple):
    """How a kind is cut into units."""

    slices: int
    """Of whole nodes."""
    parts: int
    """Of each node in a slice."""

    @property
    def num_units(self) -> int:
        return self.slices * self.parts

    @property
    def num_sets(self) -> int:
        """Of units, alike in a slice: parts of the same nodes are nearer to each other."""
        return self.slices + 1 if self.parts == 1 else int((self.parts + 1) ** self.slices)


def kinds_of(cluster: Cluster) -> tuple[Kind, ...]:
    """The cluster's chips by kind and by how many of the kind share a node, in order."""
    nodes: dict[tuple[Hashable, str, str], list[str]] = {}
    for chip in cluster.chips:
        nodes.setdefault((rates(chip), chip.site, chip.node), []).append(chip.name)
    kinds: dict[tuple[Hashable, str, int], list[Names]] = {}
    for (rate, site, _), names in nodes.items():
        kinds.setdefault((rate, site, len(names)), []).append(tuple(names))
    return tuple(Kind(tuple(groups)) for groups in kinds.values())


def cuts_of(kind: Kind, space: Space) -> list[Cut]:
    """The ways to cut a kind, the coarsest first.

    Where chips can share a stage, units are merged as needed, and the finest cuts are enough.
    """
    num_nodes, per_node = len(kind.nodes), len(kind.nodes[0])
    parts = [part for part in range(1, per_node + 1) if per_node % part == 0]
    slices = [each for each in range(2, MOST_SLICES + 1) if num_nodes % each == 0]
    if num_nodes > 1 and not slices:
        slices = [min(num_nodes, MOST_SLICES)]
    found = [Cut(1, part) for part in parts]
    if space.groups:
        found = [*(Cut(each, 1) for each in slices[-1:]), *found[-1:]]
    else:
        found += [Cut(each, part) for each in slices for part in parts[-1:]]
    useful = [each for each in found if each.num_units <= MOST_UNITS]
    return [each for each in useful if each.num_sets <= MOST_SETS] or [Cut(1, 1)]


def cut(kind: Kind, how: Cut) -> tuple[Names, ...]:
    """The kind's chips as equal units; nodes that are left over form one more."""
    units: list[Names] = []
    each = len(kind.nodes) // how.slices
    for first in range(0, len(kind.nodes), each):
        nodes = kind.nodes[first : first + each]
        whole = how.parts if len(nodes) == each else 1
        for part in range(whole):
            names = [
                node[part * len(node) // whole : (part + 1) * len(node) // whole] for node in nodes
            ]
            units.append(tuple(name for slice_ in names for name in slice_))
    return tuple(units)


def grouping(kinds: Sequence[Kind], cuts: Sequence[Cut]) -> tuple[Names, ...]:
    """All chips as units, each kind cut in its way."""
    return tuple(names for kind, how in zip(kinds, cuts, strict=True) for names in cut(kind, how))


def finest(kinds: Sequence[Kind]) -> list[Cut] | None:
    """Single chips, if they are few enough to be searched one by one."""
    cuts = [Cut(len(kind.nodes), len(kind.nodes[0])) for kind in kinds]
    few = sum(kind.num_chips for kind in kinds) <= FEW_CHIPS
    return cuts if few and math.prod(each.num_sets for each in cuts) <= FEW_SETS else None


def bearable(cuts: Sequence[Cut]) -> bool:
    """Not too many sets of units for one search."""
    return math.prod(each.num_sets for each in cuts) <= MOST_SETS

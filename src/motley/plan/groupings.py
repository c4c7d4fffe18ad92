"""Ways to put a cluster's chips into blocks, fine for few chips and coarse for many.

Chips of one kind in nodes of one size are cut into equal blocks: whole nodes, or even parts of one.
A grouping says into how many blocks each kind is cut; the search starts with some and goes to
neighbours of the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from motley.cluster import Cluster
from motley.plan.blocks import Names
from motley.plan.classes import rates
from motley.plan.space import Space

FEW_CHIPS = 8
"""Up to as many chips are also searched one by one."""

MOST_BLOCKS = 8
"""Of one grouping; what takes long in the search are the sets of blocks."""

MOST_SETS = 260


class Kind(NamedTuple):
    """Chips that differ only in their place, by node."""

    nodes: tuple[Names, ...]

    @property
    def num_chips(self) -> int:
        return sum(map(len, self.nodes))


def kinds_of(cluster: Cluster) -> tuple[Kind, ...]:
    """The cluster's chips by kind and by how many of the kind share a node, in order."""
    nodes: dict[tuple[object, str, str], list[str]] = {}
    for chip in cluster.chips:
        nodes.setdefault((rates(chip), chip.site, chip.node), []).append(chip.name)
    kinds: dict[tuple[object, str, int], list[Names]] = {}
    for (rate, site, _), names in nodes.items():
        kinds.setdefault((rate, site, len(names)), []).append(tuple(names))
    return tuple(Kind(tuple(groups)) for groups in kinds.values())


def cuts_of(kind: Kind) -> tuple[int, ...]:
    """Into how many equal blocks a kind can be cut, from one block to single chips.

    Fewer blocks than nodes leave no more than a few nodes over, which form a block of their own.
    """
    num_nodes, per_node = len(kind.nodes), len(kind.nodes[0])
    coarse = {max(1, num_nodes // size) for size in range(1, num_nodes + 1)}
    parts = [part for part in range(1, per_node + 1) if per_node % part == 0]
    return tuple(sorted(coarse | {num_nodes * part for part in parts}))


def cut(kind: Kind, count: int) -> tuple[Names, ...]:
    """The kind's chips as `count` equal blocks; nodes that are left over form one more."""
    num_nodes = len(kind.nodes)
    if count <= num_nodes:
        each = num_nodes // count
        bounds = [*range(0, each * count + 1, each)]
        if bounds[-1] < num_nodes:
            bounds.append(num_nodes)
        return tuple(
            tuple(name for node in kind.nodes[first:last] for name in node)
            for first, last in pairwise(bounds)
        )
    parts = count // num_nodes
    return tuple(
        node[place * len(node) // parts : (place + 1) * len(node) // parts]
        for node in kind.nodes
        for place in range(parts)
    )


def grouping(kinds: Sequence[Kind], counts: Sequence[int]) -> tuple[Names, ...]:
    """All chips as blocks, each kind cut into so many."""
    return tuple(
        names for kind, count in zip(kinds, counts, strict=True) for names in cut(kind, count)
    )


def few(kinds: Sequence[Kind]) -> bool:
    """So few chips that they are searched one by one."""
    return sum(kind.num_chips for kind in kinds) <= FEW_CHIPS


def first_counts(kinds: Sequence[Kind], space: Space) -> list[tuple[int, ...]]:
    """Where the search for a grouping starts: single chips if they are few, else every kind in as
    many blocks as a search bears, and in one."""
    found = []
    if few(kinds):
        found.append(tuple(kind.num_chips for kind in kinds))
        if not space.groups:
            return found
    else:
        found.append(_finest(kinds))
    found.append(tuple(1 for _ in kinds))
    return list(dict.fromkeys(found))


def neighbours(kinds: Sequence[Kind], counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Groupings in which one kind, or every kind, is cut one step finer or coarser."""
    options = [cuts_of(kind) for kind in kinds]
    places = [options[k].index(count) for k, count in enumerate(counts)]
    for change in (1, -1):
        moved = [
            options[k][min(max(place + change, 0), len(options[k]) - 1)]
            for k, place in enumerate(places)
        ]
        if _bearable(moved):
            yield tuple(moved)
        for k in range(len(kinds)):
            single = (*counts[:k], moved[k], *counts[k + 1 :])
            if single != counts and _bearable(single):
                yield single


def _finest(kinds: Sequence[Kind]) -> tuple[int, ...]:
    """The finest bearable cut, refined one kind after the other, the largest blocks first."""
    options = [cuts_of(kind) for kind in kinds]
    places = [0] * len(kinds)
    stuck: set[int] = set()
    while len(stuck) < len(kinds):
        index = max(
            (k for k in range(len(kinds)) if k not in stuck),
            key=lambda k: kinds[k].num_chips / options[k][places[k]],
        )
        tried = list(places)
        tried[index] += 1
        if tried[index] < len(options[index]) and _bearable(
            [options[k][place] for k, place in enumerate(tried)]
        ):
            places = tried
        else:
            stuck.add(index)
    return tuple(options[k][place] for k, place in enumerate(places))


def _bearable(counts: Sequence[int]) -> bool:
    return sum(counts) <= MOST_BLOCKS and math.prod(count + 1 for count in counts) <= MOST_SETS

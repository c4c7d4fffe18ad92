"""Units that may be exchanged without changing any plan's time, so that the search tries one.

A unit is a group of chips that the search does not divide. Two units are alike if their chips and
their insides are, and if every third unit is linked alike to both. A set of units is then how many
of each class it has, and a stage lies on a block of one or more units of one class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from motley.chips.chip import Link
from motley.cluster import LOOPBACK, Cluster
from motley.plan.blocks import (
    GroupLinks,
    Names,
    block_of,
    inside,
    joined_link,
    link_key,
    slowest_of,
)
from motley.plan.choices import Block, Split

Counts = tuple[int, ...]
"""How many units of each class."""


class BlockType(NamedTuple):
    """A block that a stage may lie on."""

    unit: int
    """The class of its units."""
    num_units: int


@dataclass(frozen=True)
class BlockClasses:
    """A cluster's units by class, and the blocks that can be formed of them."""

    cluster: Cluster
    members: tuple[tuple[Names, ...], ...]
    """The units of each class."""
    types: tuple[BlockType, ...]
    """The evaluator's blocks, in order."""
    _links: dict[tuple[int, int], Link] = field(default_factory=dict)

    @cached_property
    def totals(self) -> Counts:
        return tuple(len(groups) for groups in self.members)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """One of each type."""
        return tuple(block_of(self.cluster, self.names(index)) for index in range(len(self.types)))

    @cached_property
    def needs(self) -> tuple[Counts, ...]:
        """The units of each type of block."""
        return tuple(
            tuple(each.num_units * (place == each.unit) for place in range(len(self.members)))
            for each in self.types
        )

    def names(self, index: int) -> Names:
        """Chips of the first block of a type."""
        unit, count = self.types[index]
        return joined(self.members[unit][:count])

    def link(self, first: int, second: int) -> Link:
        """The link between a block of one type and another block of the same or another type."""
        found = self._links.get((first, second))
        if found is None:
            unit, count = self.types[second]
            last = joined(self.members[unit][-count:])
            found = self._links[first, second] = joined_link(self.cluster, self.names(first), last)
        return found

    def slowest(self, blocks: Sequence[int]) -> Link:
        """As bad as the worst path between any two of the blocks; one named again is another."""
        named = sorted(set(blocks))
        pairs = [(a, b) for place, a in enumerate(named) for b in named[place + 1 :]]
        pairs += [(block, block) for block in named if blocks.count(block) > 1]
        return slowest_of([self.link(*pair) for pair in pairs] or [LOOPBACK])

    def used(self, split: Split) -> Counts:
        """The units on which a split lies."""
        used = [0] * len(self.members)
        for replica in split:
            for block in replica.blocks:
                used[self.types[block].unit] += self.types[block].num_units
        return tuple(used)


def joined(units: Iterable[Names]) -> Names:
    """The chips of some units as one group."""
    return tuple(name for names in units for name in names)


def block_classes(
    cluster: Cluster, units: Sequence[Names], *, merges: bool = False
) -> BlockClasses:
    """The classes among the units, in the order in which they are first met.

    Unless a stage may lie on several units (`merges`), every block is one unit.
    """
    blocks = [block_of(cluster, names) for names in units]
    kinds = [inside(block) for block in blocks]
    links = GroupLinks(cluster, units)
    places = range(len(units))
    keys = [[link_key(links.link(first, second)) for second in places] for first in places]
    members: list[list[int]] = []
    for index in places:
        for known in members:
            if kinds[known[0]] == kinds[index] and _linked_alike(known[0], index, keys):
                known.append(index)
                break
        else:
            members.append([index])
    types = tuple(
        BlockType(place, count)
        for place, known in enumerate(members)
        for count in (_merged(len(known)) if merges else (1,))
    )
    return BlockClasses(cluster, tuple(tuple(units[i] for i in known) for known in members), types)


def _merged(total: int) -> tuple[int, ...]:
    """Of how many units blocks are formed: powers of two, and all."""
    return tuple(sorted({1 << power for power in range(total.bit_length())} | {total}))


def _linked_alike(first: int, second: int, keys: Sequence[Sequence[object]]) -> bool:
    return all(
        keys[first][third] == keys[second][third]
        for third in range(len(keys))
        if third not in (first, second)
    )

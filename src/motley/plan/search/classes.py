"""Units that may be exchanged without changing any plan's time, so that the search tries one.

A unit is a group of chips that the search does not divide. Two units are alike if their chips and
their insides are, and if every third unit is linked alike to both. A set of units is then how many
of each class it has, and a stage lies on a block of one or more units: of one class, or of several
whose chips are alike and only their links are not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product

from motley.chips.chip import Link
from motley.cluster import LOOPBACK, Cluster
from motley.plan.search.blocks import (
    GroupLinks,
    KnownLinks,
    Names,
    block_of,
    inside,
    joined_link,
    link_key,
)
from motley.plan.search.choices import Block, Split
from motley.plan.timing.collectives import slowest_of

Counts = tuple[int, ...]
"""How many units of each class."""


FEW_ALIKE = 6
"""Units of one kind up to which blocks of all that their classes can give are formed."""

MOST_MIXED = 16
"""Blocks of some whole classes that are formed of one kind; with more, neighbours alone."""


@dataclass(frozen=True)
class BlockClasses:
    """A cluster's units by class, and the blocks that can be formed of them."""

    cluster: Cluster
    members: tuple[tuple[Names, ...], ...]
    """The units of each class."""
    needs: tuple[Counts, ...]
    """The units of each type of block, of which the evaluator knows one, in order."""
    _links: dict[tuple[int, int], Link] = field(default_factory=dict)

    @cached_property
    def totals(self) -> Counts:
        return tuple(len(groups) for groups in self.members)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """One of each type."""
        return tuple(block_of(self.cluster, self.names(index)) for index in range(len(self.needs)))

    def names(self, index: int) -> Names:
        """Chips of the first block of a type."""
        counts = self.needs[index]
        return joined(
            names
            for members, count in zip(self.members, counts, strict=True)
            for names in members[:count]
        )

    def _last(self, index: int) -> Names:
        """Chips of the last block of a type."""
        counts = self.needs[index]
        return joined(
            names
            for members, count in zip(self.members, counts, strict=True)
            for names in members[len(members) - count :]
        )

    def link(self, first: int, second: int) -> Link:
        """The link between a block of one type and another block of the same or another type."""
        found = self._links.get((first, second))
        if found is None:
            here, there = self.names(first), self._last(second)
            found = self._links[first, second] = joined_link(self.cluster, here, there)
        return found

    def slowest(self, blocks: Sequence[int]) -> Link:
        """As bad as the worst path between any two of the blocks; one named again is another."""
        named = sorted(set(blocks))
        pairs = [(a, b) for place, a in enumerate(named) for b in named[place + 1 :]]
        pairs += [(block, block) for block in named if blocks.count(block) > 1]
        return slowest_of([self.link(*pair) for pair in pairs] or [LOOPBACK])

    def apart(self, first: int, second: int) -> bool:
        """Whether a unit of one class and another of the same or another class lie on nodes of
        their own."""
        if first == second and len(self.members[first]) == 1:
            return False
        nodes = [
            {self.cluster.chip(name).node for name in self.members[place][at]}
            for place, at in ((first, 0), (second, -1))
        ]
        return nodes[0].isdisjoint(nodes[1])

    def used(self, split: Split) -> Counts:
        """The units on which a split lies."""
        blocks = [block for replica in split for block in replica.blocks]
        none = (0,) * len(self.members)
        return tuple(map(sum, zip(none, *(self.needs[block] for block in blocks), strict=True)))


def joined(units: Iterable[Names]) -> Names:
    """The chips of some units as one group."""
    return tuple(name for names in units for name in names)


def block_classes(
    cluster: Cluster,
    units: Sequence[Names],
    *,
    merges: bool = False,
    known_links: KnownLinks | None = None,
) -> BlockClasses:
    """The classes among the units, in the order in which they are first met.

    Unless a stage may lie on several units (`merges`), every block is one unit.
    """
    blocks = [block_of(cluster, names) for names in units]
    kinds = [inside(block) for block in blocks]
    links = GroupLinks(cluster, units, known_links)
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
    classes = tuple(tuple(units[i] for i in known) for known in members)
    totals = [len(known) for known in members]
    counts = [
        {place: count}
        for place, total in enumerate(totals)
        for count in (_merged(total) if merges else (1,))
    ]
    if merges:
        alike = _alike(cluster, classes, [kinds[known[0]] for known in members])
        counts += [
            each
            for places in alike
            for each in _mixed({place: totals[place] for place in places})
            if _even(cluster, classes, each)
        ]
    needs = tuple(_needs(each, len(totals)) for each in counts)
    return BlockClasses(cluster, classes, needs)


def _alike(
    cluster: Cluster, classes: Sequence[Sequence[Names]], kinds: Sequence[Hashable]
) -> Collection[list[int]]:
    """Classes of one site between which only the links are unlike."""
    alike: dict[Hashable, list[int]] = {}
    for place, (units, kind) in enumerate(zip(classes, kinds, strict=True)):
        alike.setdefault((kind, cluster.chip(units[0][0]).site), []).append(place)
    return alike.values()


def _needs(counts: Mapping[int, int], num_classes: int) -> Counts:
    return tuple(counts.get(place, 0) for place in range(num_classes))


def _merged(total: int) -> tuple[int, ...]:
    """Of how many units blocks are formed: powers of two, and all."""
    return tuple(sorted({1 << power for power in range(total.bit_length())} | {total}))


def _mixed(totals: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Units of several classes that form a block together: of few units all that there are, else
    whole classes, as many as a power of two or all."""
    if sum(totals.values()) <= FEW_ALIKE:
        for counts in product(*(range(total + 1) for total in totals.values())):
            if sum(map(bool, counts)) > 1:
                yield dict(zip(totals, counts, strict=True))
        return
    places = list(totals)
    for count in _merged(len(places))[1:]:
        if math.comb(len(places), count) <= MOST_MIXED:
            chosen = [*combinations(places, count)]
        else:
            firsts = range(0, len(places) - count + 1, count)
            chosen = [tuple(places[first : first + count]) for first in firsts]
        yield from ({place: totals[place] for place in each} for each in chosen)


def _even(cluster: Cluster, classes: Sequence[Sequence[Names]], counts: Mapping[int, int]) -> bool:
    """Whether a block of these units has as many chips on each of its nodes."""
    sizes = Counter(
        cluster.chip(name).node
        for place, count in counts.items()
        for names in classes[place][:count]
        for name in names
    )
    return len(set(sizes.values())) == 1


def _linked_alike(first: int, second: int, keys: Sequence[Sequence[object]]) -> bool:
    return all(
        keys[first][third] == keys[second][third]
        for third in range(len(keys))
        if third not in (first, second)
    )

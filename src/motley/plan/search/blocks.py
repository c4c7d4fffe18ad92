"""Groups of chips as the blocks that an evaluator prices, and the links between them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from itertools import combinations, permutations
from operator import attrgetter
from typing import NamedTuple

from motley.chips.chip import Chip, Link
from motley.cluster import LOOPBACK, Cluster
from motley.plan.search.choices import Block
from motley.plan.timing.collectives import slowest_of

Names = tuple[str, ...]
"""The chips of one group."""

FEW_CHIPS = 4
"""Of a group, up to which every pairing with another group's is looked at."""

MOST_ORDERS = 8
"""Of a larger group, and the chips up to which more than one is looked at."""

FIGURES = (
    "precision",
    "training_flops_per_s",
    "time_scale",
    "efficiency",
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
)
"""All that a chip's time and memory depend on; chips of one group have the same."""


def single_chips(cluster: Cluster) -> tuple[Names, ...]:
    """Every chip as a group of its own, in the cluster's order."""
    return tuple((chip.name,) for chip in cluster.chips)


def block_of(cluster: Cluster, names: Names) -> Block:
    """The block of a group of alike chips."""
    return Block(cluster.chip(names[0]), cluster.spread(names))


def library_link_bytes_per_s(block: Block) -> float | None:
    """Of the link over which the chips of a group talk by a library of their own, with buffers on
    them (NCCL and its like); None for a single chip, and for CPUs and emulated chips."""
    chip, spread = block
    if spread.num_chips == 1 or chip.emulated or chip.device == "cpu":
        return None
    link = spread.local if spread.per_node > 1 else spread.network or spread.local
    return link.bandwidth_bytes_per_s


_priced_figures = attrgetter(*FIGURES, "usd_per_hour")


def rates(chip: Chip) -> tuple[Hashable, ...]:
    """All that the chip's time and memory depend on, and its price."""
    found: tuple[Hashable, ...] = _priced_figures(chip)
    return found


def differing(first: Chip, second: Chip) -> list[str]:
    """The figures in which two chips are unlike, so that no group has both."""
    return [name for name in FIGURES if getattr(first, name) != getattr(second, name)]


def link_key(link: Link) -> tuple[Hashable, ...]:
    """All that the time of a message over the link depends on."""
    return link.bandwidth_bytes_per_s, link.latency_s, link.source, link.kind


def inside(block: Block) -> tuple[Hashable, ...]:
    """What makes two blocks equal, whatever they are linked to."""
    local, network = block.spread.local, block.spread.network
    return (
        rates(block.chip),
        block.spread.num_chips,
        block.spread.per_node,
        link_key(local),
        network and link_key(network),
    )


class _Place(NamedTuple):
    """Where a group lies."""

    nodes: tuple[str, ...]
    kind: tuple[Hashable, ...]
    """Groups of one kind on nodes of their own are linked alike to every third."""


KnownLinks = dict[tuple[Names, Names], Link]
"""Links between groups of one cluster, whose chips are in some order."""


class GroupLinks:
    """The links between groups, by their places in a list; alike ones are worked out once."""

    def __init__(
        self, cluster: Cluster, groups: Sequence[Names], known: KnownLinks | None = None
    ) -> None:
        """`known` is shared by all that are of one cluster."""
        self._cluster = cluster
        self._groups = groups
        self._known: dict[tuple[Hashable, ...], Link] = {}
        self._shared = {} if known is None else known
        self._slowest: dict[tuple[int, ...], Link] = {}

    @cached_property
    def _places(self) -> list[_Place]:
        return [_place(self._cluster, names) for names in self._groups]

    def link(self, first: int, second: int) -> Link:
        """Between two groups when all their chips send at once."""
        here, there = self._places[first], self._places[second]
        shared = set(here.nodes).intersection(there.nodes)
        key: tuple[Hashable, ...] = (here.kind, there.kind, here.nodes == there.nodes)
        if (shared and here.nodes != there.nodes) or first == second:
            key = (first, second)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._joined(self._groups[first], self._groups[second])
        return found

    def _joined(self, first: Names, second: Names) -> Link:
        found = self._shared.get((first, second))
        if found is None:
            found = self._shared[first, second] = joined_link(self._cluster, first, second)
        return found

    def slowest(self, groups: Sequence[int]) -> Link:
        """As bad as the worst path between any two of the groups."""
        key = tuple(sorted(set(groups)))
        found = self._slowest.get(key)
        if found is None:
            links = [self.link(first, second) for first, second in self._typical_pairs(key)]
            found = self._slowest[key] = slowest_of(links or [LOOPBACK])
        return found

    def _typical_pairs(self, groups: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Pairs among which every kind of path between the groups is found."""
        apart: dict[Hashable, list[int]] = {}
        together: dict[tuple[str, ...], list[int]] = {}
        for group in groups:
            place = self._places[group]
            alike = apart.setdefault(place.kind, [])
            if len(alike) < 2 and all(self._places[other].nodes != place.nodes for other in alike):
                alike.append(group)
            together.setdefault(place.nodes, []).append(group)
        yield from combinations([group for alike in apart.values() for group in alike], 2)
        seen: set[tuple[Hashable, ...]] = set()
        for beside in together.values():
            pattern = tuple(self._places[group].kind for group in beside)
            if pattern not in seen:
                seen.add(pattern)
                yield from combinations(beside, 2)


def _place(cluster: Cluster, names: Names) -> _Place:
    sizes = Counter(cluster.chip(name).node for name in names)
    places = dict.fromkeys(cluster.place(name) for name in names)
    return _Place(tuple(sizes), (tuple(places), tuple(sizes.values())))


def joined_link(cluster: Cluster, first: Names, second: Names) -> Link:
    """All paths between two groups as one link: chips are paired and send in parallel.

    Pairs that leave the same node share what its network gives. Where links are unlike, chips are
    paired in the way that suits them best: which chip has which rank is free.
    """
    if first == second:
        return LOOPBACK
    if len(first) == len(second) == 1:
        return cluster.link(first[0], second[0])
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    ways = [_side_by_side(cluster, order, shorter) for order in _orders(cluster, longer, shorter)]
    return max(ways, key=_Paired.quality).joined()


class _Paired(NamedTuple):
    """Links between the chips of two groups, and what each gives when all send at once."""

    links: tuple[Link, ...]
    bytes_per_s: tuple[float, ...]

    def joined(self) -> Link:
        """As narrow as the narrowest for all, as late as the latest."""
        slowest_bytes_per_s = min(self.bytes_per_s)
        return dataclasses.replace(
            self.links[self.bytes_per_s.index(slowest_bytes_per_s)],
            bandwidth_bytes_per_s=len(self.links) * slowest_bytes_per_s,
            latency_s=max(link.latency_s for link in self.links),
        )

    def quality(self) -> tuple[float, float]:
        """Larger is better."""
        return min(self.bytes_per_s), -max(link.latency_s for link in self.links)


def _side_by_side(cluster: Cluster, longer: Names, shorter: Names) -> _Paired:
    """Every chip of the shorter group with one of the longer one, in order."""
    count = len(shorter)
    pairs = [(longer[index * len(longer) // count], shorter[index]) for index in range(count)]
    nodes = {name: cluster.chip(name).node for pair in pairs for name in pair}
    crossing = [(nodes[a], nodes[b]) for a, b in pairs if nodes[a] != nodes[b]]
    leaving = Counter(node for node, _ in crossing)
    entering = Counter(node for _, node in crossing)
    links, shares = [], []
    for here, there in pairs:
        link = cluster.link(here, there)
        one, other = nodes[here], nodes[there]
        sharing = 1 if one == other else max(leaving[one], entering[other])
        links.append(link)
        shares.append(link.bandwidth_bytes_per_s / sharing)
    return _Paired(tuple(links), tuple(shares))


def _orders(cluster: Cluster, longer: Names, shorter: Names) -> Iterator[Names]:
    """Orders of the longer group's chips: as they are, and if the links of some are unlike others'
    all orders of a few chips; of more, those that begin elsewhere."""
    yield longer
    if len(longer) > MOST_ORDERS:
        return
    if len({link_key(cluster.link(here, there)) for here in longer for there in shorter}) == 1:
        return
    if len(longer) <= FEW_CHIPS:
        yield from permutations(longer)
    else:
        yield from (longer[first:] + longer[:first] for first in range(1, len(longer)))

"""Groups of chips as the blocks that an evaluator prices, and the links between them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

from motley.chips.chip import Link
from motley.cluster import LOOPBACK, Cluster
from motley.plan.choices import Block

Names = tuple[str, ...]
"""The chips of one group."""


def single_chips(cluster: Cluster) -> tuple[Names, ...]:
    """Every chip as a group of its own, in the cluster's order."""
    return tuple((chip.name,) for chip in cluster.chips)


def block_of(cluster: Cluster, names: Names) -> Block:
    """The block of a group of alike chips."""
    return Block(cluster.chip(names[0]), cluster.spread(names))


def group_links(cluster: Cluster, groups: Sequence[Names]) -> Callable[[int, int], Link]:
    """The link between two groups, by their places, when all their chips send at once."""

    @cache
    def link(first: int, second: int) -> Link:
        return joined_link(cluster, groups[first], groups[second])

    return link


def joined_link(cluster: Cluster, first: Names, second: Names) -> Link:
    """All paths between two groups as one link: chips are paired and send in parallel.

    Pairs that leave the same node share what its network gives.
    """
    if first == second:
        return LOOPBACK
    if len(first) == len(second) == 1:
        return cluster.link(first[0], second[0])
    count = min(len(first), len(second))
    pairs = [
        (first[index * len(first) // count], second[index * len(second) // count])
        for index in range(count)
    ]
    crossing = [pair for pair in pairs if cluster.chip(pair[0]).node != cluster.chip(pair[1]).node]
    leaving = Counter(cluster.chip(name).node for name, _ in crossing)
    entering = Counter(cluster.chip(name).node for _, name in crossing)
    links = {pair: cluster.link(*pair) for pair in pairs}

    def share(pair: tuple[str, str]) -> float:
        nodes = cluster.chip(pair[0]).node, cluster.chip(pair[1]).node
        sharing = 1 if nodes[0] == nodes[1] else max(leaving[nodes[0]], entering[nodes[1]])
        return links[pair].bandwidth_bytes_per_s / sharing

    slowest = min(pairs, key=share)
    return dataclasses.replace(
        links[slowest],
        bandwidth_bytes_per_s=count * share(slowest),
        latency_s=max(link.latency_s for link in links.values()),
    )

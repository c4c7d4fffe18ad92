"""Blocks that may be exchanged without changing any plan's time, so that the search tries one.

Two blocks are alike if their chips and their insides are, and if every third block is linked alike
to both. A set of blocks is then how many of each class it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from motley.chips.chip import Chip, Link
from motley.cluster import LOOPBACK, Cluster
from motley.plan.blocks import Names, block_of, group_links
from motley.plan.choices import Block

Counts = tuple[int, ...]
"""How many blocks of each class."""


@dataclass(frozen=True)
class BlockClasses:
    """Groups of a cluster's chips by class, and the links between classes."""

    members: tuple[tuple[Names, ...], ...]
    blocks: tuple[Block, ...]
    """One of each class."""
    links: tuple[tuple[Link, ...], ...]

    @cached_property
    def totals(self) -> Counts:
        return tuple(len(groups) for groups in self.members)

    def link(self, first: int, second: int) -> Link:
        """The link between a block of one class and another block of the same or another class."""
        return self.links[first][second]

    @cached_property
    def uniform(self) -> bool:
        """All links that a plan can use take the same time, and all chips the same format."""
        speeds = {
            _link_key(self.links[first][second])
            for first in range(len(self.members))
            for second in range(len(self.members))
            if first != second or len(self.members[first]) > 1
        }
        return len(speeds) <= 1 and len({block.chip.precision for block in self.blocks}) == 1


def block_classes(cluster: Cluster, groups: Sequence[Names]) -> BlockClasses:
    """The classes among the groups, in the order in which they are first met."""
    blocks = [block_of(cluster, names) for names in groups]
    link = group_links(cluster, groups)
    keys = [
        [_link_key(link(first, second)) for second in range(len(groups))]
        for first in range(len(groups))
    ]
    members: list[list[int]] = []
    for index, block in enumerate(blocks):
        for known in members:
            if _inside(blocks[known[0]]) == _inside(block) and _linked_alike(known[0], index, keys):
                known.append(index)
                break
        else:
            members.append([index])
    return BlockClasses(
        tuple(tuple(groups[index] for index in known) for known in members),
        tuple(blocks[known[0]] for known in members),
        tuple(
            tuple(
                LOOPBACK if first[0] == second[-1] else link(first[0], second[-1])
                for second in members
            )
            for first in members
        ),
    )


def _linked_alike(first: int, second: int, keys: Sequence[Sequence[tuple[float, float]]]) -> bool:
    return all(
        keys[first][third] == keys[second][third]
        for third in range(len(keys))
        if third not in (first, second)
    )


def _link_key(link: Link) -> tuple[float, float]:
    return link.bandwidth_bytes_per_s, link.latency_s


def _inside(block: Block) -> tuple[object, ...]:
    """What makes two blocks of the same links equal."""
    local, network = block.spread.local, block.spread.network
    return (
        rates(block.chip),
        block.spread.num_chips,
        block.spread.per_node,
        _link_key(local),
        network and _link_key(network),
    )


def rates(chip: Chip) -> tuple[object, ...]:
    """All that the chip's time and memory depend on, and its price."""
    return (
        chip.precision,
        chip.training_flops_per_s,
        chip.efficiency,
        chip.memory_bytes,
        chip.memory_bandwidth_bytes_per_s,
        chip.usd_per_hour,
    )

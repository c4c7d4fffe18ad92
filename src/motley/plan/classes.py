"""Chips that may be exchanged without changing any plan's time, so that the search tries one.

Two chips are alike if rates, memory and precision are, and if every third chip is linked alike to
both. A set of chips is then how many of each class it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from motley.chips.chip import Chip, Link
from motley.cluster import LOOPBACK, Cluster

Counts = tuple[int, ...]
"""How many chips of each class."""


@dataclass(frozen=True)
class ChipClasses:
    """The chips of a cluster by class, and the links between classes."""

    members: tuple[tuple[Chip, ...], ...]
    links: tuple[tuple[Link, ...], ...]

    @cached_property
    def totals(self) -> Counts:
        return tuple(len(chips) for chips in self.members)

    @cached_property
    def representatives(self) -> tuple[Chip, ...]:
        return tuple(chips[0] for chips in self.members)

    def link(self, first: int, second: int) -> Link:
        """The link between a chip of one class and another chip of the same or another class."""
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
        return len(speeds) <= 1 and len({chip.precision for chip in self.representatives}) == 1


def chip_classes(cluster: Cluster, chips: Sequence[Chip]) -> ChipClasses:
    """The classes among `chips`, in the order in which they are first met."""
    keys = {
        (first.name, second.name): _link_key(cluster.link(first.name, second.name))
        for first in chips
        for second in chips
        if first is not second
    }
    members: list[list[Chip]] = []
    for chip in chips:
        for known in members:
            if _alike(known[0], chip, chips, keys):
                known.append(chip)
                break
        else:
            members.append([chip])
    links = tuple(
        tuple(_class_link(cluster, first, second) for second in members) for first in members
    )
    return ChipClasses(tuple(tuple(known) for known in members), links)


def _class_link(cluster: Cluster, first: Sequence[Chip], second: Sequence[Chip]) -> Link:
    other = second[-1]
    return LOOPBACK if first[0] is other else cluster.link(first[0].name, other.name)


def _link_key(link: Link) -> tuple[float, float]:
    return link.bandwidth_bytes_per_s, link.latency_s


def _alike(
    first: Chip,
    second: Chip,
    chips: Sequence[Chip],
    keys: dict[tuple[str, str], tuple[float, float]],
) -> bool:
    return _rates(first) == _rates(second) and all(
        keys[first.name, third.name] == keys[second.name, third.name]
        for third in chips
        if third is not first and third is not second
    )


def _rates(chip: Chip) -> tuple[object, ...]:
    return (
        chip.precision,
        chip.training_flops_per_s,
        chip.memory_bytes,
        chip.memory_bandwidth_bytes_per_s,
    )

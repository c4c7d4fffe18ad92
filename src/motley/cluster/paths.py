"""The path between any two chips, from what a cluster declares about chips, nodes and sites.

A link that names both ends counts alone, the most particular one first. Otherwise the path runs
through each node's own network and the link of the two sites, and is as wide as the narrowest.
Nodes with alike networks are one class, so that thousands of nodes cost no more than their kinds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from motley.chips.chip import Chip, Link

LOOPBACK = Link(bandwidth_bytes_per_s=2e9, latency_s=100e-6, source="predicted")
"""Stands for a link that was neither measured nor declared; plans that use it say so."""

_EMULATED_LOOPBACK = dataclasses.replace(LOOPBACK, emulated=True)

_Pair = tuple[str, str]


class Spread(NamedTuple):
    """How the chips of a set are connected: inside nodes, and between them."""

    num_chips: int
    per_node: int
    """Chips of the set on the node that has most of them."""
    local: Link
    """Between two chips of one node, the slowest; the bandwidth of each chip. Where no node has two
    of them, it is what two chips of the first node would have."""
    network: Link | None
    """Between two of the nodes, the slowest; a node's bandwidth is shared by those of its chips
    that use it at once. None within one node."""


def pair_of(first: str, second: str) -> _Pair:
    """The key of a pair of names in any order."""
    return (first, second) if first <= second else (second, first)


def slowest(links: Iterable[Link]) -> Link:
    """One link that is as bad as the worst of several alternatives: bandwidth and latency."""
    links = list(links)
    narrowest = min(links, key=_width)
    latency_s = max(link.latency_s for link in links)
    if latency_s == narrowest.latency_s:
        return narrowest
    return dataclasses.replace(narrowest, latency_s=latency_s)


def in_series(parts: Sequence[Link]) -> Link:
    """One path over all of `parts`: the narrowest bandwidth, the largest latency, all prices.

    Latencies are those of whole paths and not added up.
    """
    paid = [part for part in parts if part.usd_per_gb is not None]
    return dataclasses.replace(
        slowest(parts),
        between=("*", "*"),
        emulated=all(part.emulated for part in parts),
        usd_per_gb=sum(part.usd_per_gb or 0.0 for part in paid) or None,
        unmetered=not paid and any(part.unmetered for part in parts),
        price_source=" + ".join(part.price_source for part in paid if part.price_source) or None,
    )


def _width(link: Link) -> tuple[object, ...]:
    """Orders links by bandwidth, and equal ones in a way that does not depend on their order."""
    return (
        link.bandwidth_bytes_per_s, -link.latency_s, link.kind, link.source, link.origin or "",
        link.usd_per_gb or 0.0, link.unmetered, link.emulated, link.between,
    )  # fmt: skip


class Paths:
    """An index over a cluster's links; all look-ups take constant time."""

    def __init__(self, chips: Mapping[str, Chip], links: Iterable[Link]) -> None:
        self._links = {pair_of(*link.between): link for link in links}
        self._site = {chip.node: chip.site for chip in chips.values()}
        ends = {name for pair in self._links for name in pair}
        self._named_chips = ends & chips.keys()
        self._named_nodes = {
            name
            for pair in self._links
            if "*" not in pair and pair[0] != pair[1]
            for name in pair
            if name in self._site
        }
        self._classes: dict[tuple[object, ...], int] = {}
        self._class_of: dict[str, int] = {}
        self._composed: dict[tuple[int, int], Link] = {}
        self._places: dict[str, Hashable] = {}

    def link(self, first: Chip, second: Chip) -> Link:
        """The path between two chips; `LOOPBACK` if nothing is said about it."""
        if first.name in self._named_chips or second.name in self._named_chips:
            found = self._of_chips(first, second)
            if found is not None:
                return found
        found = self.between_nodes(first.node, second.node)
        return _assumed(first.emulated and second.emulated) if found is None else found

    def place(self, chip: Chip) -> Hashable:
        """Equal for chips on nodes of their own that are linked alike to every other node's."""
        if chip.name in self._named_chips:
            return chip.name
        if chip.node in self._named_nodes:
            return chip.node
        if chip.node not in self._places:
            own = self.between_nodes(chip.node, chip.node)
            figures = own and _width(dataclasses.replace(own, between=("*", "*")))
            self._places[chip.node] = (self._class(chip.node), figures)
        return self._places[chip.node]

    def _of_chips(self, first: Chip, second: Chip) -> Link | None:
        return self._first_of(
            [(first.name, second.name)],
            [(first.name, second.node), (first.node, second.name)],
            [(first.name, self._area(second.node)), (self._area(first.node), second.name)],
            [(first.name, "*"), ("*", second.name)],
        )

    def between_nodes(self, first: str, second: str) -> Link | None:
        """The path between any two chips of two nodes, or of one; None if nothing is said."""
        if first == second:
            area = self._area(first)
            return self._first_of([(first, first)], [(first, "*")], [(area, area)], [("*", "*")])
        if first in self._named_nodes or second in self._named_nodes:
            areas = [(first, self._area(second)), (self._area(first), second)]
            found = self._first_of([(first, second)], areas)
            if found is not None:
                return found
        return self._compose(first, second)

    def _compose(self, first: str, second: str) -> Link | None:
        """Through both nodes' networks and the link of their sites."""
        low, high = sorted((self._class(first), self._class(second)))
        if (low, high) not in self._composed:
            parts = [self._get(first, "*"), self._get(second, "*"), self._of_areas(first, second)]
            given = [part for part in parts if part is not None]
            whole = in_series(given) if given else self._get("*", "*")
            if whole is None:
                return None
            self._composed[low, high] = whole
        return self._composed[low, high]

    def _of_areas(self, first: str, second: str) -> Link | None:
        here, there = self._area(first), self._area(second)
        found = self._get(here, there)
        if found is not None or self._site[first] == self._site[second]:
            return found
        uplinks = [self._get(here, "*"), self._get(there, "*")]
        given = [uplink for uplink in uplinks if uplink is not None]
        return in_series(given) if given else None

    def _class(self, node: str) -> int:
        """Nodes of one class have alike networks at one site."""
        if node not in self._class_of:
            network = self._get(node, "*")
            figures = network and _width(dataclasses.replace(network, between=("*", "*")))
            key = (self._site[node], figures)
            self._class_of[node] = self._classes.setdefault(key, len(self._classes))
        return self._class_of[node]

    def _area(self, node: str) -> str:
        """The name by which links mean the node's site; a node of that name goes before it."""
        site = self._site[node]
        return "" if site in self._site else site

    def _first_of(self, *levels: Sequence[_Pair]) -> Link | None:
        for level in levels:
            found = [link for pair in level if (link := self._get(*pair)) is not None]
            if found:
                return slowest(found)
        return None

    def _get(self, first: str, second: str) -> Link | None:
        return self._links.get(pair_of(first, second))

    def spread(self, chips: Sequence[Chip]) -> Spread:
        """How these chips are connected."""
        sizes = Counter(chip.node for chip in chips)
        if any(chip.name in self._named_chips for chip in chips):
            local, network = self._links_of_chips(chips)
        else:
            assumed = _assumed(all(chip.emulated for chip in chips))
            local, network = self._links_of_nodes(sizes, assumed)
        return Spread(
            len(chips),
            max(sizes.values()),
            slowest(local or [self.link(chips[0], chips[0])]),
            slowest(network) if network else None,
        )

    def _links_of_chips(self, chips: Sequence[Chip]) -> tuple[list[Link], list[Link]]:
        local: list[Link] = []
        network: list[Link] = []
        for first, second in itertools.combinations(chips, 2):
            level = local if first.node == second.node else network
            level.append(self.link(first, second))
        return local, network

    def _links_of_nodes(
        self, sizes: Mapping[str, int], assumed: Link
    ) -> tuple[list[Link], list[Link]]:
        """The same from paths between nodes alone; `assumed` where nothing is said."""
        local = [self.between_nodes(node, node) for node, size in sizes.items() if size > 1]
        network = [
            self.between_nodes(first, second)
            for first, second in itertools.combinations(self._typical(sizes), 2)
        ]
        return [link or assumed for link in local], [link or assumed for link in network]

    def _typical(self, nodes: Iterable[str]) -> list[str]:
        """Nodes of which every path is a path of all: two of each class, and those of own links."""
        counts: Counter[int] = Counter()
        kept = []
        for node in nodes:
            if node not in self._named_nodes:
                counts[self._class(node)] += 1
                if counts[self._class(node)] > 2:
                    continue
            kept.append(node)
        return kept


def _assumed(emulated: bool) -> Link:
    return _EMULATED_LOOPBACK if emulated else LOOPBACK

"""A cluster: chips and links by name, its nodes and sites, and what it costs.

Look-ups take constant time, so that clusters of thousands of chips can be planned.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from motley.chips.chip import Chip, Link
from motley.cluster.paths import Paths, Spread
from motley.cluster.prices import Price, chip_prices, link_prices
from motley.errors import ClusterError, nearest
from motley.schema import as_table

_MOST_NAMES = 12
"""That a message lists."""


class Node(NamedTuple):
    """One machine of a cluster."""

    name: str
    site: str
    chips: Mapping[str, tuple[str, ...]]
    """Names of its chips by kind."""

    @property
    def num_chips(self) -> int:
        return sum(len(names) for names in self.chips.values())


@dataclass(frozen=True, kw_only=True)
class Cluster:
    name: str = "cluster"
    chips: tuple[Chip, ...]
    links: tuple[Link, ...] = field(default=())

    def chip(self, name: str) -> Chip:
        """The chip of that name; `ClusterError` suggests the nearest."""
        try:
            return self._by_name[name]
        except KeyError:
            pass
        shown = ", ".join([*self._by_name][:_MOST_NAMES])
        more = len(self._by_name) - _MOST_NAMES
        listed = f"It has {shown} and {more} more." if more > 0 else f"It has {shown}."
        raise ClusterError(
            f"cluster '{self.name}' has no chip '{name}'.",
            remedy=nearest(name, self._by_name) or listed,
        )

    @cached_property
    def _by_name(self) -> Mapping[str, Chip]:
        return {chip.name: chip for chip in self.chips}

    @cached_property
    def _paths(self) -> Paths:
        return Paths(self._by_name, self.links)

    def link(self, first: str, second: str) -> Link:
        """The path between two chips; between nodes, the bandwidth of the whole node."""
        return self._paths.link(self.chip(first), self.chip(second))

    def place(self, name: str) -> Hashable:
        """Equal for chips on nodes of their own that are linked alike to every other node's."""
        return self._paths.place(self.chip(name))

    def usd_per_gb(self, first: str, second: str) -> float | None:
        """Price of 10^9 bytes sent from one chip to the other; None if it is not known.

        Within a site nothing is paid by the byte unless the link says so.
        """
        link = self.link(first, second)
        if link.usd_per_gb is not None:
            return link.usd_per_gb
        free = link.unmetered or self.chip(first).site == self.chip(second).site
        return 0.0 if free else None

    def spread(self, names: Sequence[str]) -> Spread:
        """How the chips of these names are connected."""
        return self._paths.spread([self.chip(name) for name in names])

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """Every node by its name, in the order of the chips."""
        sites: dict[str, str] = {}
        names: dict[str, dict[str, list[str]]] = {}
        for chip in self.chips:
            sites[chip.node] = chip.site
            names.setdefault(chip.node, {}).setdefault(chip.kind, []).append(chip.name)
        found = {
            node: Node(node, sites[node], {kind: tuple(each) for kind, each in kinds.items()})
            for node, kinds in names.items()
        }
        return types.MappingProxyType(found)

    @cached_property
    def sites(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the nodes by site."""
        found: dict[str, list[str]] = {}
        for node in self.nodes.values():
            found.setdefault(node.site, []).append(node.name)
        return types.MappingProxyType({site: tuple(names) for site, names in found.items()})

    @cached_property
    def prices(self) -> tuple[Price, ...]:
        """What each kind of chip and each priced link costs, and where the price is from."""
        return (*chip_prices(self.chips), *link_prices(self.links, self.sites))

    def without(self, lost: Iterable[str]) -> Cluster:
        """The cluster with the chips that are left."""
        lost = set(lost)
        left = tuple(chip for chip in self.chips if chip.name not in lost)
        names = {name for chip in left for name in (chip.name, chip.node, chip.site)} | {"*"}
        links = tuple(link for link in self.links if names.issuperset(link.between))
        return dataclasses.replace(self, chips=left, links=links)

    def to_dict(self) -> dict[str, Any]:
        """Plain tables; `parse_cluster` reads them back."""
        return {
            "name": self.name,
            "chip": [as_table(chip) for chip in self.chips],
            "link": [as_table(link) for link in self.links],
        }

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that change with anything that the cluster says."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

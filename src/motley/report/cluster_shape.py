"""A cluster with its alike nodes taken together, so that 10,000 chips are few boxes.

Nodes of a site are alike if they have as many chips of each kind, the same paths inside and the
same network. A node that a link of its own joins to another stays by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from motley.chips.chip import Link
from motley.cluster import LOOPBACK, Cluster, Node
from motley.units import Source

MOST_PAIRED = 16
"""Chips of a node whose paths are looked at pair by pair; of more, the slowest counts."""

MOST_SITES = 12
"""Sites that are drawn."""


class Path(NamedTuple):
    """Figures of alike paths; bandwidth is bytes/s in one direction."""

    kind: str
    bandwidth_bytes_per_s: float
    latency_s: float
    source: Source
    origin: str | None

    @property
    def is_assumed(self) -> bool:
        """Nobody said anything about the path."""
        return self.source == LOOPBACK.source


def path_of(link: Link) -> Path:
    """The figures of a link."""
    return Path(link.kind, link.bandwidth_bytes_per_s, link.latency_s, link.source, link.origin)


@dataclass(frozen=True, kw_only=True)
class AlikeNodes:
    """Nodes of one site that differ in their names alone."""

    nodes: tuple[Node, ...]
    inside: tuple[Path, ...]
    """Between chips of one node, the widest first; empty for a lone chip."""
    between: Path | None
    """Between two of these nodes; None for a single one."""

    @property
    def name(self) -> str:
        first, last = self.nodes[0].name, self.nodes[-1].name
        return first if first == last else f"{first} ... {last}"

    @property
    def chips(self) -> Mapping[str, int]:
        """Chips of one node by kind."""
        return {kind: len(names) for kind, names in self.nodes[0].chips.items()}

    @property
    def sample(self) -> str:
        """A chip of one of the nodes."""
        return next(iter(self.nodes[0].chips.values()))[0]


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place with its nodes."""

    name: str
    alike: tuple[AlikeNodes, ...]
    across: tuple[tuple[Path, tuple[tuple[str, str], ...]], ...]
    """Paths between unlike nodes, the widest first, each with the names that it joins."""

    @property
    def num_nodes(self) -> int:
        return sum(len(each.nodes) for each in self.alike)

    @property
    def num_chips(self) -> int:
        return sum(node.num_chips for each in self.alike for node in each.nodes)


@dataclass(frozen=True, kw_only=True)
class SitePath:
    """All alike paths between two sites."""

    first: str
    second: str
    path: Path
    usd_per_gb: float | None
    """None is unknown."""


def sites_of(cluster: Cluster) -> tuple[Site, ...]:
    """The cluster's sites in their order."""
    own = _own_links(cluster)
    return tuple(_site(cluster, name, nodes, own) for name, nodes in cluster.sites.items())


def site_paths(cluster: Cluster, sites: Sequence[Site]) -> list[SitePath]:
    """Between the first sites; several for a pair whose nodes have unlike networks."""
    found = []
    for here, there in itertools.combinations(sites[:MOST_SITES], 2):
        paths: dict[tuple[Path, float | None], None] = {}
        for first, second in itertools.product(here.alike, there.alike):
            link = cluster.link(first.sample, second.sample)
            paths[path_of(link), cluster.usd_per_gb(first.sample, second.sample)] = None
        found += [
            SitePath(first=here.name, second=there.name, path=path, usd_per_gb=price)
            for path, price in paths
        ]
    return found


def _own_links(cluster: Cluster) -> Mapping[str, object]:
    """What makes a node's paths to others: its network, or itself where it has links by name."""
    node_of = {chip.name: chip.node for chip in cluster.chips}
    nodes = cluster.nodes
    own: dict[str, object] = {}
    for link in cluster.links:
        first, second = link.between
        ends = {node_of.get(name, name) for name in (first, second)}
        named = [name for name in ends if name in nodes]
        if "*" in ends and len(named) == 1 and first in (named[0], "*"):
            own.setdefault(named[0], path_of(link))
        elif len(ends) > 1:
            own.update((name, name) for name in named)
    return own


def _site(cluster: Cluster, name: str, nodes: Iterable[str], own: Mapping[str, object]) -> Site:
    groups: dict[object, list[Node]] = {}
    insides: dict[object, tuple[Path, ...]] = {}
    for node_name in nodes:
        node = cluster.nodes[node_name]
        inside = _inside(cluster, node)
        kinds = tuple((kind, len(names)) for kind, names in node.chips.items())
        key = (kinds, inside, own.get(node_name))
        groups.setdefault(key, []).append(node)
        insides[key] = inside
    alike = tuple(
        AlikeNodes(nodes=tuple(group), inside=insides[key], between=_between(cluster, group))
        for key, group in groups.items()
    )
    return Site(name=name, alike=alike, across=_across(cluster, alike))


def _inside(cluster: Cluster, node: Node) -> tuple[Path, ...]:
    names = [name for each in node.chips.values() for name in each]
    if len(names) < 2:
        return ()
    if len(names) > MOST_PAIRED:
        return (path_of(cluster.spread(names).local),)
    found = {path_of(cluster.link(*pair)) for pair in itertools.combinations(names, 2)}
    return tuple(sorted(found, key=_widest_first))


def _widest_first(path: Path) -> tuple[object, ...]:
    return -path.bandwidth_bytes_per_s, path.latency_s, path.kind, path.source, path.origin or ""


def _between(cluster: Cluster, group: Sequence[Node]) -> Path | None:
    if len(group) < 2:
        return None
    first, second = (next(iter(node.chips.values()))[0] for node in group[:2])
    return path_of(cluster.link(first, second))


def _across(
    cluster: Cluster, alike: Sequence[AlikeNodes]
) -> tuple[tuple[Path, tuple[tuple[str, str], ...]], ...]:
    joined: dict[Path, list[tuple[str, str]]] = {}
    for first, second in itertools.combinations(alike, 2):
        path = path_of(cluster.link(first.sample, second.sample))
        joined.setdefault(path, []).append((first.name, second.name))
    ordered = sorted(joined, key=_widest_first)
    return tuple((path, tuple(joined[path])) for path in ordered)

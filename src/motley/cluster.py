"""The chips, links and prices that one run may use, from `cluster.toml`.

A `[[chip]]` table declares one chip, or `count` alike. A `[[link]]` table declares the path between
two chips, two nodes or ("*") all others; the most particular one that fits a pair counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from motley.chips.chip import Chip, Link
from motley.chips.quoted import quoted_fields
from motley.errors import ClusterError, nearest
from motley.schema import build, load_toml

LOOPBACK = Link(bandwidth_bytes_per_s=2e9, latency_s=100e-6, source="predicted")
"""Stands for a link that was neither measured nor declared; plans that use it say so."""

LARGEST_COUNT = 10_000
"""More alike chips than any run has had; a slip of the keyboard must not fill the memory."""


class Spread(NamedTuple):
    """How the chips of a set are connected: inside nodes, and between them."""

    num_chips: int
    per_node: int
    """Chips of the set on the node that has most of them."""
    local: Link
    """Between two chips of one node, the slowest; the bandwidth of each chip. Where no node has two
    of them, it stands for none."""
    network: Link | None
    """Between two of the nodes, the slowest; a node's bandwidth is shared by those of its chips
    that use it at once. None within one node."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    name: str = "cluster"
    chips: tuple[Chip, ...]
    links: tuple[Link, ...] = field(default=())

    def chip(self, name: str) -> Chip:
        """The chip of that name; `ClusterError` suggests the nearest."""
        for chip in self.chips:
            if chip.name == name:
                return chip
        names = [chip.name for chip in self.chips]
        raise ClusterError(
            f"cluster '{self.name}' has no chip '{name}'.",
            remedy=nearest(name, names) or f"It has {', '.join(names)}.",
        )

    def link(self, first: str, second: str) -> Link:
        """The link between two chips: by their names, else by their nodes, else "*"."""
        nodes = (self.chip(first).node, self.chip(second).node)
        best, best_score = LOOPBACK, -1
        for link in self.links:
            score = max(_match(link.between, (first, second), nodes))
            if score > best_score:
                best, best_score = link, score
        if best is LOOPBACK and self.chip(first).emulated and self.chip(second).emulated:
            return dataclasses.replace(LOOPBACK, emulated=True)
        return best

    def spread(self, names: Sequence[str]) -> Spread:
        """How the chips of these names are connected."""
        nodes = Counter(self.chip(name).node for name in names)
        inside, across = [], []
        for first, second in itertools.combinations(names, 2):
            alike = self.chip(first).node == self.chip(second).node
            (inside if alike else across).append(self.link(first, second))
        local = _slowest(inside) if inside else self.link(names[0], names[0])
        network = _slowest(across) if across else None
        return Spread(len(names), max(nodes.values()), local, network)

    def without(self, lost: set[str]) -> Cluster:
        """The cluster with the chips that are left."""
        left = tuple(chip for chip in self.chips if chip.name not in lost)
        names = {name for chip in left for name in (chip.name, chip.node, "*")}
        links = tuple(link for link in self.links if set(link.between) <= names)
        return dataclasses.replace(self, chips=left, links=links)

    def to_dict(self) -> dict[str, Any]:
        """Plain tables; `parse_cluster` reads them back."""
        return {
            "name": self.name,
            "chip": [_set_fields(chip) for chip in self.chips],
            "link": [_set_fields(link) for link in self.links],
        }

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with anything that the cluster says."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _slowest(links: Sequence[Link]) -> Link:
    narrowest = min(links, key=lambda link: link.bandwidth_bytes_per_s)
    latency_s = max(link.latency_s for link in links)
    return dataclasses.replace(narrowest, latency_s=latency_s)


def _match(
    between: tuple[str, str], chips: tuple[str, str], nodes: tuple[str, str]
) -> tuple[int, int]:
    def side(pattern: str, chip: str, node: str) -> int:
        if pattern == chip:
            return 4
        if pattern == node:
            return 2
        return 0 if pattern == "*" else -100

    first, second = between
    straight = side(first, chips[0], nodes[0]) + side(second, chips[1], nodes[1])
    crossed = side(first, chips[1], nodes[1]) + side(second, chips[0], nodes[0])
    return straight, crossed


def _set_fields(item: Chip | Link) -> dict[str, Any]:
    table = dataclasses.asdict(item)
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in table.items()
        if value is not None
    }


def parse_cluster(table: dict[str, Any], where: str = "cluster") -> Cluster:
    """A cluster from tables; `ClusterError` names the place of what is wrong."""
    known = ("name", "chip", "link")
    for key in table:
        if key not in known:
            hint = nearest(key, known) or f"Known keys: {', '.join(known)}."
            raise ClusterError(f"{where}: unknown key '{key}'.", remedy=hint)
    chips = tuple(
        chip
        for position, entry in enumerate(_tables(table, "chip", where))
        for chip in _parse_chips(entry, f"{where}: chip {position + 1}")
    )
    links = tuple(
        build(Link, entry, f"{where}: link {position + 1}", ClusterError)
        for position, entry in enumerate(_tables(table, "link", where))
    )
    if not chips:
        raise ClusterError(f"{where}: no chips.", remedy="Add a [[chip]] table.")
    name = table.get("name", "cluster")
    if not isinstance(name, str):
        raise ClusterError(f"{where}.name: expected a text, found {name}.")
    cluster = Cluster(name=name, chips=chips, links=links)
    _check_names(cluster, where)
    return cluster


def load_cluster(path: Path) -> Cluster:
    """The cluster of a TOML file."""
    return parse_cluster(load_toml(path, ClusterError), path.name)


def _tables(table: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    entries = table.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ClusterError(f"{where}: '{key}' must be given as [[{key}]] tables.")
    return entries


def _parse_chips(entry: dict[str, Any], where: str) -> list[Chip]:
    entry = dict(entry)
    count = entry.pop("count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= LARGEST_COUNT:
        raise ClusterError(
            f"{where}.count: must be a whole number from 1 to {LARGEST_COUNT}, found {count}."
        )
    if "flops_per_s" not in entry and isinstance(kind := entry.get("kind"), str):
        entry = quoted_fields(kind, entry)
    chip = build(Chip, entry, where, ClusterError)
    if count == 1:
        return [chip]
    return [dataclasses.replace(chip, name=f"{chip.name}-{index}") for index in range(count)]


def _check_names(cluster: Cluster, where: str) -> None:
    for name, count in Counter(chip.name for chip in cluster.chips).items():
        if name in ("", "*"):
            raise ClusterError(f"{where}: a chip cannot be named '{name}'.", remedy="Name it.")
        if count > 1:
            raise ClusterError(
                f"{where}: {count} chips are named '{name}'.", remedy="Give each its own name."
            )
    known = {name for chip in cluster.chips for name in (chip.name, chip.node)} | {"*"}
    seen: set[tuple[str, ...]] = set()
    for link in cluster.links:
        for name in link.between:
            if name not in known:
                hint = nearest(name, known) or "Name a chip, a node or '*'."
                raise ClusterError(f"{where}: link names unknown '{name}'.", remedy=hint)
        pair = tuple(sorted(link.between))
        if pair in seen:
            raise ClusterError(
                f"{where}: two links between '{pair[0]}' and '{pair[1]}'.", remedy="Keep one."
            )
        seen.add(pair)


def check_devices(cluster: Cluster) -> None:
    """Before a training: one process drives one chip, so no two real chips can be one device.

    Formats that can only be planned are refused too.
    """
    seen: dict[tuple[str, str], str] = {}
    for chip in cluster.chips:
        if chip.precision == "fp8":
            raise ClusterError(
                f"chip '{chip.name}': training in fp8 can be planned, but not run yet.",
                remedy='Set precision = "bf16" to train.',
            )
        place = (chip.node, chip.device)
        if not chip.emulated and place in seen:
            raise ClusterError(
                f"'{seen[place]}' and '{chip.name}' are both {chip.device} of node '{chip.node}'.",
                remedy="Give each its own device (cuda:0, cuda:1, ...) or node.",
            )
        if not chip.emulated:
            seen[place] = chip.name

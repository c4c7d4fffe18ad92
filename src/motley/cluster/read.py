"""`cluster.toml` to a cluster, strictly.

A `[[chip]]` table declares one chip, or `count` alike; a `[[group]]` table alike chips over alike
nodes. A `[[link]]` table declares the path between two chips, nodes or sites, or ("*") all others.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from motley.chips.chip import Chip, Link
from motley.chips.quoted import quoted_fields
from motley.cluster.check import check_topology
from motley.cluster.cluster import Cluster
from motley.cluster.expand import GIGABIT_BYTES, Expanded, expand
from motley.cluster.group import LARGEST_COUNT
from motley.errors import ClusterError, nearest
from motley.schema import build, load_toml

_KEYS = ("name", "chip", "group", "link")


def load_cluster(path: Path) -> Cluster:
    """The cluster of a TOML file."""
    return parse_cluster(load_toml(path, ClusterError), path.name)


def parse_cluster(table: dict[str, Any], where: str = "cluster") -> Cluster:
    """A cluster from tables; `ClusterError` names the place of what is wrong."""
    for key in table:
        if key not in _KEYS:
            hint = nearest(key, _KEYS) or f"Known keys: {', '.join(_KEYS)}."
            raise ClusterError(f"{where}: unknown key '{key}'.", remedy=hint)
    name = table.get("name", "cluster")
    if not isinstance(name, str):
        raise ClusterError(f"{where}.name: expected a text, found {name}.")
    chips = [
        chip
        for position, entry in enumerate(_tables(table, "chip", where), 1)
        for chip in _parse_chips(entry, f"{where}: chip {position}")
    ]
    links = [
        _parse_link(entry, f"{where}: link {position}")
        for position, entry in enumerate(_tables(table, "link", where), 1)
    ]
    groups = _parse_groups(table, links, where)
    chips += [chip for each in groups for chip in each.chips]
    links += [link for each in groups for link in each.links]
    if not chips:
        raise ClusterError(f"{where}: no chips.", remedy="Add a [[chip]] or a [[group]] table.")
    cluster = Cluster(name=name, chips=tuple(chips), links=tuple(links))
    check_topology(cluster, groups, where)
    return cluster


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
        entry = quoted_fields(kind, entry, where)
    chip = build(Chip, entry, where, ClusterError)
    if count == 1:
        return [chip]
    return [dataclasses.replace(chip, name=f"{chip.name}-{index}") for index in range(count)]


def _parse_link(entry: dict[str, Any], where: str) -> Link:
    entry = dict(entry)
    gbit = entry.pop("gbit_per_s", None)
    if gbit is not None:
        if "bandwidth_bytes_per_s" in entry:
            raise ClusterError(
                f"{where}: both gbit_per_s and bandwidth_bytes_per_s.", remedy="Keep one."
            )
        if isinstance(gbit, bool) or not isinstance(gbit, int | float) or not 0 < gbit < 1e12:
            raise ClusterError(f"{where}.gbit_per_s: must be above zero, found {gbit}.")
        entry = {"source": "quoted", **entry, "bandwidth_bytes_per_s": gbit * GIGABIT_BYTES}
    return build(Link, entry, where, ClusterError)


def _parse_groups(table: dict[str, Any], links: list[Link], where: str) -> list[Expanded]:
    inside = frozenset(link.between[0] for link in links if len(set(link.between)) == 1)
    return [
        expand(entry, f"{where}: group {position}", inside)
        for position, entry in enumerate(_tables(table, "group", where), 1)
    ]

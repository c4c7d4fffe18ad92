"""What a `[[group]]` table stands for: 8 x rtx-4090 in 2 nodes are eight chips and four links.

Each chip is as a `[[chip]]` table would make it; each node gets a link between its chips and a
network. What is not given comes from the catalog; what neither knows is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from motley.chips.catalog import CatalogChip, look_up
from motley.chips.chip import Chip, Link
from motley.chips.quoted import quoted_fields
from motley.chips.quoted_link import LOCAL_LATENCY_S, quoted_link
from motley.cluster.group import Group, node_sizes
from motley.errors import ClusterError, UnknownChipError, nearest
from motley.schema import build

GIGABIT_BYTES = 1e9 / 8

GROUP_KEYS = tuple(each.name for each in dataclasses.fields(Group))
CHIP_KEYS = tuple(
    each.name for each in dataclasses.fields(Chip) if each.name not in (*GROUP_KEYS, "node")
)
"""That a group's table may give for all its chips."""


class Expanded(NamedTuple):
    """What a group stands for."""

    group: Group
    chips: tuple[Chip, ...]
    links: tuple[Link, ...]


def expand(entry: Mapping[str, Any], where: str, linked: frozenset[str]) -> Expanded:
    """The chips and links of one table.

    Nodes whose inside is `linked` by a table of its own need no link here.
    """
    group = _read(entry, where)
    sizes = node_sizes(group, where)
    row, fields = _chip_fields(group.kind, entry, where)
    kind = row.short_id if row else group.kind
    group = dataclasses.replace(group, name=group.name or kind)
    typical = build(Chip, {**fields, "name": group.name, "site": group.site}, where, ClusterError)
    names = [group.name] if len(sizes) == 1 else [f"{group.name}-{i}" for i in range(len(sizes))]
    nodes = dict(zip(names, sizes, strict=True))
    inside = {
        node: link
        for node, size in nodes.items()
        if size > 1 and (link := _inside(group, row, typical, size, node in linked, where))
    }
    network = _network(group, typical)
    links = [dataclasses.replace(link, between=(node, node)) for node, link in inside.items()]
    if network:
        links += [dataclasses.replace(network, between=(node, "*")) for node in nodes]
    return Expanded(group, _chips(typical, nodes), tuple(links))


def _read(entry: Mapping[str, Any], where: str) -> Group:
    known = (*GROUP_KEYS, *CHIP_KEYS)
    for key in entry:
        if key not in known:
            hint = nearest(key, known) or f"Known keys: {', '.join(known)}."
            raise ClusterError(f"{where}: unknown key '{key}'.", remedy=hint)
    own = {key: value for key, value in entry.items() if key in GROUP_KEYS}
    return build(Group, own, where, ClusterError)


def _chips(typical: Chip, nodes: Mapping[str, int]) -> tuple[Chip, ...]:
    return tuple(
        dataclasses.replace(
            typical, name=f"{node}.{index}", node=node, device=_device(typical, index)
        )
        for node, size in nodes.items()
        for index in range(size)
    )


def _chip_fields(
    kind: str, entry: Mapping[str, Any], where: str
) -> tuple[CatalogChip | None, dict[str, Any]]:
    """The catalog's row, if the kind has one, and the fields of each chip."""
    given = {key: value for key, value in entry.items() if key in CHIP_KEYS}
    try:
        row = look_up(kind)
    except UnknownChipError as unknown:
        if "flops_per_s" not in given:
            raise UnknownChipError(f"{where}: {unknown.message}", remedy=unknown.remedy) from None
        return None, {**given, "kind": kind}
    return row, quoted_fields(kind, given, where)


def _device(chip: Chip, index: int) -> str:
    """The device of the chip at that place in its node: a CPU has no number."""
    kind = chip.device.partition(":")[0]
    return kind if kind == "cpu" else f"{kind}:{index}"


def _inside(
    group: Group, row: CatalogChip | None, chip: Chip, size: int, is_linked: bool, where: str
) -> Link | None:
    """The link between the chips of one node; None if a table of its own gives it."""
    given = group.link_bandwidth_bytes_per_s
    if is_linked and given is None:
        return None
    quoted = quoted_link(row, size) if row else None
    if given is not None:
        return Link(
            kind=group.link_kind or "",
            bandwidth_bytes_per_s=given,
            latency_s=LOCAL_LATENCY_S if group.link_latency_s is None else group.link_latency_s,
            emulated=chip.emulated,
            source="emulated" if chip.emulated else group.link_source,
        )
    if quoted is None:
        raise ClusterError(
            f"{where}: the link between chips of '{chip.kind}' inside a node is not known.",
            remedy="Give link_bandwidth_bytes_per_s, or measure it: motley probe.",
        )
    latency_s = quoted.latency_s if group.link_latency_s is None else group.link_latency_s
    return dataclasses.replace(quoted, latency_s=latency_s, kind=group.link_kind or quoted.kind)


def _network(group: Group, chip: Chip) -> Link | None:
    if group.network_gbit_per_s is None:
        return None
    return Link(
        kind=group.network_kind,
        bandwidth_bytes_per_s=group.network_gbit_per_s * GIGABIT_BYTES,
        latency_s=group.network_latency_s,
        emulated=chip.emulated,
        source="emulated" if chip.emulated else group.network_source,
    )

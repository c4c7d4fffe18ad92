"""A `[[group]]` table: alike chips over alike nodes, such as 8 x rtx-4090 in 2 nodes.

It is short for one `[[chip]]` table per chip, a link inside each node and each node's network.
What is not given comes from the catalog; what neither knows is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from motley.chips.catalog import CatalogChip, look_up
from motley.chips.chip import DEFAULT_SITE, Chip, Link
from motley.chips.quoted import quoted_fields
from motley.chips.quoted_link import LOCAL_LATENCY_S, quoted_link
from motley.errors import ClusterError, UnknownChipError, nearest
from motley.schema import build, require_positive
from motley.units import Source

LARGEST_COUNT = 100_000
"""More alike chips than any run has had; a slip of the keyboard must not fill the memory."""

GIGABIT_BYTES = 1e9 / 8


@dataclass(frozen=True, kw_only=True)
class Group:
    """The keys of a `[[group]]` table that are not those of its chips."""

    name: str = ""
    """Its nodes are NAME, or NAME-0, NAME-1 ..., their chips NODE.0, NODE.1 ...; unset, the kind
    without its vendor."""
    kind: str
    """A catalog id, its vendor may be left out; any text if all figures are given."""
    count: int | None = None
    """Chips in all."""
    nodes: int | None = None
    per_node: tuple[int, ...] = ()
    """Chips of each node: one number, or one for every node."""
    site: str = DEFAULT_SITE
    link_kind: str | None = None
    """What joins the chips of a node; unset, the catalog's link, or its name with it."""
    link_bandwidth_bytes_per_s: float | None = None
    """Of each chip to the others of its node, one direction; unset, the catalog's."""
    link_latency_s: float | None = None
    link_source: Source = "quoted"
    """Where the given bandwidth comes from."""
    network_kind: str = ""
    network_gbit_per_s: float | None = None
    """Of one whole node to the other nodes, one direction."""
    network_latency_s: float = 5e-5
    network_source: Source = "quoted"

    def __post_init__(self) -> None:
        require_positive(self, "count", "nodes", "link_bandwidth_bytes_per_s", "network_gbit_per_s")
        for key in ("link_latency_s", "network_latency_s"):
            if (getattr(self, key) or 0.0) < 0:
                raise ValueError(f"{key}: must not be negative, found {getattr(self, key)}")
        if any(size < 1 for size in self.per_node):
            raise ValueError(f"per_node: must be above zero, found {min(self.per_node)}")


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
    for key in entry:
        if key not in GROUP_KEYS and key not in CHIP_KEYS:
            known = (*GROUP_KEYS, *CHIP_KEYS)
            hint = nearest(key, known) or f"Known keys: {', '.join(known)}."
            raise ClusterError(f"{where}: unknown key '{key}'.", remedy=hint)
    own = {key: value for key, value in entry.items() if key in GROUP_KEYS}
    group = build(Group, own, where, ClusterError)
    sizes = node_sizes(group, where)
    row, fields = _chip_fields(group.kind, entry, where)
    kind = row.short_id if row else group.kind
    group = dataclasses.replace(group, name=group.name or kind)
    typical = build(Chip, {**fields, "name": group.name, "site": group.site}, where, ClusterError)
    names = [group.name] if len(sizes) == 1 else [f"{group.name}-{i}" for i in range(len(sizes))]
    chips = tuple(
        dataclasses.replace(
            typical, name=f"{node}.{index}", node=node, device=_device(typical, index)
        )
        for node, size in zip(names, sizes, strict=True)
        for index in range(size)
    )
    links = [
        dataclasses.replace(link, between=(node, node))
        for node, size in zip(names, sizes, strict=True)
        if size > 1 and (link := _inside(group, row, typical, size, node in linked, where))
    ]
    network = _network(group, typical)
    if network:
        links += [dataclasses.replace(network, between=(node, "*")) for node in names]
    return Expanded(group, chips, tuple(links))


def node_sizes(group: Group, where: str) -> list[int]:
    """Chips of each node; `ClusterError` where count, nodes and per_node contradict each other."""
    sizes = _given_sizes(group, where)
    total = sum(sizes)
    if group.count is not None and total != group.count:
        raise ClusterError(
            f"{where}: {len(sizes)} nodes of {_listed(sizes)} chips are {total} chips, "
            f"but count is {group.count}.",
            remedy="Leave count or per_node out, or make them agree.",
        )
    if total > LARGEST_COUNT:
        raise ClusterError(f"{where}: at most {LARGEST_COUNT} chips in one group, found {total}.")
    return sizes


def _given_sizes(group: Group, where: str) -> list[int]:
    count, nodes, per_node = group.count, group.nodes, group.per_node
    if max(count or 1, nodes or 1, *per_node) > LARGEST_COUNT:
        raise ClusterError(f"{where}: at most {LARGEST_COUNT} chips in one group.")
    if len(per_node) > 1:
        if nodes not in (None, len(per_node)):
            raise ClusterError(
                f"{where}: per_node lists {len(per_node)} nodes, but nodes is {nodes}.",
                remedy="Leave nodes out.",
            )
        return list(per_node)
    if per_node:
        if nodes is None:
            nodes = max(1, (count or 0) // per_node[0])
        return [per_node[0]] * nodes
    if count is None:
        raise ClusterError(
            f"{where}: 'count' is missing.", remedy="Give count, the chips in all, or per_node."
        )
    nodes = nodes or 1
    if nodes > count:
        raise ClusterError(
            f"{where}: {nodes} nodes are more than the {count} chips.", remedy="Lower nodes."
        )
    if count % nodes:
        sizes = [count // nodes + (index < count % nodes) for index in range(nodes)]
        listed = f"per_node = [{_listed(sizes)}]" if nodes <= 8 else "per_node, a number per node"
        raise ClusterError(
            f"{where}: {count} chips do not share out evenly over {nodes} nodes.",
            remedy=f"If the nodes are unlike, say how: {listed}.",
        )
    return [count // nodes] * nodes


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes)) if len(set(sizes)) > 1 else str(sizes[0])


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

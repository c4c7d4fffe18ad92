"""The keys of a `[[group]]` table, and how many chips each of its nodes has."""

from __future__ import annotations

from dataclasses import dataclass

from motley.chips.chip import DEFAULT_SITE
from motley.errors import ClusterError
from motley.schema import require_positive
from motley.units import Source

LARGEST_COUNT = 100_000
"""More alike chips than any run has had; a slip of the keyboard must not fill the memory."""


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
    return _even_sizes(count, nodes or 1, where)


def _even_sizes(count: int, nodes: int, where: str) -> list[int]:
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

"""How long collectives take over two levels of links: inside nodes, and between them.

Rings move (n-1)/n of the bytes per reduce-scatter or all-gather (Patarasuk and Yuan, JPDC 2009).
Over several nodes NCCL and its kin reduce inside the node first, so that each byte crosses the
network once per node. A link that was measured or is emulated gives what it says. A quoted one
gives the share that collectives are known to reach, and each collective costs a start besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from motley.chips.chip import Link
from motley.chips.constants import CONSTANTS, Constants

if TYPE_CHECKING:
    from motley.cluster import Spread


class _Level(NamedTuple):
    """One ring: of chips inside a node, or of nodes."""

    size: int
    bandwidth_bytes_per_s: float
    """Of one member of the ring, while all groups beside it communicate too."""
    latency_s: float


def all_reduce_seconds(
    num_bytes: float, spread: Spread, *, groups: int = 1, constants: Constants = CONSTANTS
) -> float:
    """Every chip gets the sum of all; `groups` such groups use each node's network at once."""
    return reduce_scatter_seconds(
        num_bytes, spread, groups=groups, constants=constants
    ) + all_gather_seconds(num_bytes, spread, groups=groups, constants=constants)


def reduce_scatter_seconds(
    num_bytes: float, spread: Spread, *, groups: int = 1, constants: Constants = CONSTANTS
) -> float:
    """Every chip gets its part of the sum; `num_bytes` is the whole."""
    if spread.num_chips < 2:
        return 0.0
    seconds = _start(spread, constants)
    left = num_bytes
    for level in _levels(spread, groups, constants):
        rounds = level.size - 1
        seconds += rounds / level.size * left / level.bandwidth_bytes_per_s
        seconds += rounds * level.latency_s
        left /= level.size
    return seconds


def all_gather_seconds(
    num_bytes: float, spread: Spread, *, groups: int = 1, constants: Constants = CONSTANTS
) -> float:
    """Every chip gets all parts; `num_bytes` is the whole. As long as a reduce-scatter."""
    return reduce_scatter_seconds(num_bytes, spread, groups=groups, constants=constants)


def all_to_all_seconds(
    num_bytes: float, spread: Spread, *, groups: int = 1, constants: Constants = CONSTANTS
) -> float:
    """Every chip sends each other one its part of `num_bytes`."""
    size = spread.num_chips
    if size < 2:
        return 0.0
    seconds = _start(spread, constants)
    levels = _levels(spread, groups, constants)
    inside = levels[0].size if levels[0].size > 1 else 1
    local = levels[0]
    seconds += (inside - 1) / size * num_bytes / local.bandwidth_bytes_per_s + local.latency_s
    if len(levels) > 1:
        network = levels[1]
        # The node's chips share its network; `_levels` gives a ring's share of one chip.
        crossing = (size - inside) / size * num_bytes * inside
        seconds += crossing / network.bandwidth_bytes_per_s + network.latency_s
    return seconds


def send_seconds(num_bytes: float, link: Link, constants: Constants = CONSTANTS) -> float:
    """One message between two chips, alone on its link; without the latency."""
    return num_bytes / (link.bandwidth_bytes_per_s * reached_share(link, constants))


def reached_share(link: Link, constants: Constants = CONSTANTS) -> float:
    """Share of the link's bandwidth that messages get."""
    if link.source not in ("quoted", "predicted"):
        return 1.0
    return constants.pcie_share if link.kind.startswith("PCIe") else constants.link_share


def tensor_spread(spread: Spread, tensor: int) -> Spread:
    """The chips of one member of a group: neighbours."""
    return spread._replace(num_chips=tensor, per_node=min(tensor, spread.per_node))


def member_spread(spread: Spread, tensor: int, data: int) -> Spread:
    """One chip of each member of a group: every `tensor`-th."""
    return spread._replace(num_chips=data, per_node=max(1, min(data, spread.per_node // tensor)))


def _start(spread: Spread, constants: Constants) -> float:
    quoted = spread.local.source in ("quoted", "predicted")
    return constants.collective_s if quoted else 0.0


def _levels(spread: Spread, groups: int, constants: Constants) -> list[_Level]:
    inside = min(spread.num_chips, max(1, spread.per_node))
    nodes = -(-spread.num_chips // inside)
    local = spread.local
    levels = []
    if inside > 1:
        bandwidth = local.bandwidth_bytes_per_s * reached_share(local, constants)
        levels.append(_Level(inside, bandwidth, local.latency_s))
    if nodes > 1:
        link = spread.network or local
        # After the reduction inside the node its chips send one part each, together all.
        bandwidth = link.bandwidth_bytes_per_s * reached_share(link, constants) / inside / groups
        levels.append(_Level(nodes, bandwidth, link.latency_s))
    return levels or [_Level(1, local.bandwidth_bytes_per_s, local.latency_s)]

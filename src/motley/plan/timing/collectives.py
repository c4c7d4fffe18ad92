"""How long collectives take over two levels of links: inside nodes, and between them.

A ring moves (n-1)/n of the bytes over each of its links per reduce-scatter or all-gather (Patarasuk
and Yuan, JPDC 2009); over several nodes it enters and leaves every node once, so the slower of the
chip's local link and the node's network sets the pace (NCCL's rings). A link that was measured or
is emulated gives what it says. A quoted one gives the share that collectives are known to reach,
and each collective costs a start besides.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from motley.chips.chip import Link
from motley.chips.constants import CONSTANTS, Constants

if TYPE_CHECKING:
    from motley.cluster import Spread

_SOCKETS = re.compile(r"ethernet|tcp|socket", re.IGNORECASE)
_STAGED = re.compile(r"omni-?path", re.IGNORECASE)
_NETWORKS = re.compile(r"infiniband|rdma|roce|slingshot|\befa\b", re.IGNORECASE)

LONGEST_RING = 64
"""Chips from which libraries take trees, whose latency grows with the logarithm."""


class _Ring(NamedTuple):
    """A ring through all chips of a spread."""

    bandwidth_bytes_per_s: float
    """Of its slowest link, while all groups beside it communicate too."""
    latency_s: float
    """Of all its messages, one after another."""
    start_s: float


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
    size = spread.num_chips
    if size < 2:
        return 0.0
    ring = _ring(spread, groups, constants)
    rounds = size - 1
    moved = rounds / size * num_bytes / ring.bandwidth_bytes_per_s
    return ring.start_s + moved + ring.latency_s


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
    inside = min(size, max(1, spread.per_node))
    local = spread.local
    rate = local.bandwidth_bytes_per_s * reached_share(local, constants)
    seconds = (inside - 1) / size * num_bytes / rate + local.latency_s
    if size > inside and spread.network is not None:
        network = spread.network
        share = reached_share(network, constants, between_nodes=True)
        rate = network.bandwidth_bytes_per_s * share
        crossing = (size - inside) / size * num_bytes * inside * groups
        seconds += crossing / rate + network.latency_s
    return seconds + _start(spread, constants)


def send_seconds(num_bytes: float, link: Link, constants: Constants = CONSTANTS) -> float:
    """One message between two chips, alone on its link; without the latency."""
    return num_bytes / (link.bandwidth_bytes_per_s * reached_share(link, constants))


def start_seconds(link: Link, constants: Constants = CONSTANTS) -> float:
    """Time of a message besides its bytes and the latency: what a library needs to begin it."""
    return constants.collective_s if _is_quoted(link) else 0.0


def reached_share(
    link: Link, constants: Constants = CONSTANTS, *, between_nodes: bool = False
) -> float:
    """Share of the link's bandwidth that messages get."""
    if not _is_quoted(link):
        return 1.0
    name = _share_of(link.kind)
    if between_nodes and name not in ("socket_share", "staged_share"):
        return constants.network_share
    share: float = getattr(constants, name)
    return share


def slowest_of(links: Sequence[Link], constants: Constants = CONSTANTS) -> Link:
    """A link as narrow as the narrowest and as late as the latest."""
    narrowest = min(
        links, key=lambda link: link.bandwidth_bytes_per_s * reached_share(link, constants)
    )
    latency_s = max(link.latency_s for link in links)
    if latency_s == narrowest.latency_s:
        return narrowest
    return dataclasses.replace(narrowest, latency_s=latency_s)


@lru_cache(maxsize=256)
def _share_of(kind: str) -> str:
    """Which of the constants is the share that messages get of such a link."""
    if _SOCKETS.search(kind):
        return "socket_share"
    if _STAGED.search(kind):
        return "staged_share"
    if _NETWORKS.search(kind):
        return "network_share"
    return "pcie_share" if kind.startswith("PCIe") else "link_share"


def tensor_spread(spread: Spread, tensor: int) -> Spread:
    """The chips of one member of a group: neighbours."""
    return spread._replace(num_chips=tensor, per_node=min(tensor, spread.per_node))


def member_spread(spread: Spread, tensor: int, data: int) -> Spread:
    """One chip of each member of a group: every `tensor`-th."""
    return spread._replace(num_chips=data, per_node=max(1, min(data, spread.per_node // tensor)))


def _start(spread: Spread, constants: Constants) -> float:
    return start_seconds(spread.local, constants)


def _is_quoted(link: Link) -> bool:
    """Whether its bandwidth is a datasheet's, not what messages were seen or are made to get."""
    return not link.emulated and link.source in ("quoted", "predicted")


def _ring(spread: Spread, groups: int, constants: Constants) -> _Ring:
    """The ring through all chips: it enters and leaves each node once."""
    inside = min(spread.num_chips, max(1, spread.per_node))
    nodes = -(-spread.num_chips // inside)
    local = spread.local
    bandwidth = local.bandwidth_bytes_per_s * reached_share(local, constants)
    latency = (spread.num_chips - nodes) * local.latency_s if inside > 1 else 0.0
    if nodes > 1:
        link = spread.network or local
        share = reached_share(link, constants, between_nodes=True)
        across = link.bandwidth_bytes_per_s * share / groups
        bandwidth = min(bandwidth, across) if inside > 1 else across
        latency += (nodes - 1) * link.latency_s
    if nodes > 1 and spread.num_chips > LONGEST_RING:
        latency *= math.log2(spread.num_chips) / spread.num_chips
    return _Ring(bandwidth, latency, _start(spread, constants))

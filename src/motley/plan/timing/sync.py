"""Which ranks add up which gradients, and how long that takes.

Replicas may be cut differently, so every parameter group has its own holders. Groups are taken in
the order in which the backward pass completes them (the last layer first) and neighbours with the
same holders are sent together, up to a size that keeps the exchange under way during the backward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from motley.chips.chip import Link
from motley.chips.constants import CONSTANTS, Constants
from motley.model.config import ModelConfig
from motley.model.counts import ParameterGroup, parameter_groups
from motley.model.table_counts import touched_bytes
from motley.plan.layout import Layout
from motley.plan.plan import Plan
from motley.plan.stack import Stack
from motley.plan.timing.collectives import (
    all_gather_seconds,
    member_spread,
    reached_share,
    reduce_scatter_seconds,
    slowest_of,
)

if TYPE_CHECKING:
    from motley.cluster import Spread

BUCKET_BYTES = 4 * 2**20
"""Most fp32 gradient bytes that are sent together; a single group may be larger."""

GRADIENT_BYTES = 4
"""Gradients are added up in fp32."""


@dataclass(frozen=True)
class Bucket:
    """Parameter groups whose gradients are exchanged together."""

    groups: tuple[int, ...]
    """Indices into `parameter_groups(config)`, in the order in which they are completed."""
    ranks: tuple[int, ...]
    """All ranks that hold the groups, ascending. A single one needs no exchange."""
    num_parameters: int


def gradient_buckets(
    plan: Plan, config: ModelConfig, bucket_bytes: float | None = None
) -> tuple[Bucket, ...]:
    """The plan's buckets in the order in which every rank treats them; `bucket_bytes` as in a
    `Stack`."""
    ranges = [
        (placement.stage.first_layer, placement.stage.last_layer) for placement in plan.placements()
    ]
    return buckets_of(ranges, parameter_groups(config), bucket_bytes)


def buckets_of(
    ranges: Sequence[tuple[int, int]],
    groups: Sequence[ParameterGroup],
    bucket_bytes: float | None = None,
) -> tuple[Bucket, ...]:
    """Buckets for ranks that hold the layers [first, last) of `ranges`."""
    most = BUCKET_BYTES if bucket_bytes is None else bucket_bytes
    order = sorted(range(len(groups)), key=lambda index: (-min(groups[index].layers), index))
    buckets: list[Bucket] = []
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    for index in order:
        group = groups[index]
        if not group.num_parameters:
            continue
        holders = known.get(group.layers)
        if holders is None:
            holders = known[group.layers] = _holders(group, ranges)
        last = buckets[-1] if buckets else None
        total = group.num_parameters + (last.num_parameters if last else 0)
        if last and last.ranks == holders and total * GRADIENT_BYTES <= most:
            buckets[-1] = Bucket((*last.groups, index), holders, total)
        else:
            buckets.append(Bucket((index,), holders, group.num_parameters))
    return tuple(buckets)


def _holders(group: ParameterGroup, ranges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(
        rank
        for rank, (first, last) in enumerate(ranges)
        if any(first <= layer < last for layer in group.layers)
    )


def lowest_layer(
    bucket: Bucket, groups: Sequence[ParameterGroup], first_layer: int, last_layer: int
) -> int:
    """The layer of [first_layer, last_layer) whose backward completes the bucket there."""
    return min(
        layer
        for index in bucket.groups
        for layer in groups[index].layers
        if first_layer <= layer < last_layer
    )


def all_reduce_seconds(
    num_parameters: float,
    ranks: Sequence[int],
    link: Callable[[int, int], Link],
    *,
    element_bytes: int = GRADIENT_BYTES,
    constants: Constants = CONSTANTS,
) -> float:
    """Time of a ring all-reduce, held up by the slowest path between any two of its ranks.

    A rank that is named more than once stands for as many alike. 2(n-1) rounds, each moving 1/n of
    the bytes (Patarasuk and Yuan, JPDC 2009).
    """
    if len(ranks) < 2:
        return 0.0
    named = Counter(ranks)
    pairs = [*combinations(named, 2), *((rank, rank) for rank in named if named[rank] > 1)]
    slowest = slowest_of([link(first, second) for first, second in pairs], constants)
    return ring_seconds(num_parameters, len(ranks), slowest, element_bytes, constants)


def ring_seconds(
    num_parameters: float, num_ranks: int, slowest: Link, element_bytes: int, constants: Constants
) -> float:
    """`all_reduce_seconds` among ranks between which no path is slower than this one."""
    bandwidth = slowest.bandwidth_bytes_per_s * reached_share(slowest, constants)
    rounds = 2 * (num_ranks - 1)
    moved = rounds / num_ranks * element_bytes * num_parameters
    return moved / bandwidth + rounds * slowest.latency_s


def rows_exchange_seconds(config: ModelConfig, tokens: Sequence[int], link: Link) -> float:
    """Time in which replicas that compute so many tokens of a step each give each other the rows of
    memory tables that they touched, over links no slower than `link`.

    Each gets what all others have; that no row is touched twice is the worst case.
    """
    touched = [touched_bytes(config, each) for each in tokens]
    if len(touched) < 2 or not any(touched):
        return 0.0
    received = sum(touched) - min(touched)
    rate = link.bandwidth_bytes_per_s * reached_share(link)
    return received / rate + len(touched) * link.latency_s


def group_exchange_seconds(
    num_parameters: float, layout: Layout, spread: Spread, stack: Stack
) -> float:
    """Time in which the members of a group add up the gradients of `num_parameters` of a stage.

    With a sharded optimizer they scatter the sums and gather the new parameters (ZeRO-1, arXiv
    1910.02054). Fully-sharded members do it layer by layer: `cost.layer_time` has it.
    """
    if layout.data == 1 or layout.sharding == "full":
        return 0.0
    members = member_spread(spread, layout.tensor, layout.data)
    held = num_parameters / layout.tensor
    constants = stack.constants
    scatter = reduce_scatter_seconds(
        stack.exchange_bytes * held, members, groups=layout.tensor, constants=constants
    )
    gathered = stack.exchange_bytes if layout.sharding == "none" else stack.parameter_bytes
    return scatter + all_gather_seconds(
        gathered * held, members, groups=layout.tensor, constants=constants
    )

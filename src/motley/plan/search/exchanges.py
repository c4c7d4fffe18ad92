"""Which gradients the holders of a split exchange with each other, and how long that takes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from motley.plan.layout import Layout
from motley.plan.search.choices import Split, StageChoice
from motley.plan.search.tables import StageTables
from motley.plan.timing.sync import buckets_of, group_exchange_seconds

_Laid = tuple[tuple[tuple[StageChoice, ...], tuple[Layout, ...]], ...]
"""Every replica's stages and their layouts."""

_Ranges = tuple[tuple[int, int], ...]
"""First and last layers of all stages."""


@dataclass(frozen=True)
class BucketTime:
    """One exchange of gradients between its holders."""

    index: int
    """Of the bucket, in `gradient_buckets`."""
    seconds: float
    holders: tuple[tuple[int, int, int], ...]
    """Rank, replica, and the layer that completes the bucket there."""


class _Bucket(NamedTuple):
    """A bucket of a split whose stages hold certain layers."""

    num_parameters: int
    ranks: tuple[int, ...]
    lowest: tuple[int, ...]
    """For each rank the layer that completes the bucket there."""


class Exchanges:
    """The exchanges of splits over the blocks of some tables, each worked out once."""

    def __init__(self, tables: StageTables) -> None:
        self._tables = tables
        self._known: dict[_Laid, tuple[BucketTime, ...]] = {}
        self._buckets: dict[_Ranges, list[_Bucket]] = {}

    def of(self, split: Split, layouts: Sequence[tuple[Layout, ...]]) -> tuple[BucketTime, ...]:
        """Those that need a message, in the order in which every rank treats them."""
        key = tuple((replica.stages, own) for replica, own in zip(split, layouts, strict=True))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = tuple(self._work_out(key))
        return found

    def _work_out(self, replicas: _Laid) -> Iterator[BucketTime]:
        held = [pair for replica in replicas for pair in zip(*replica, strict=True)]
        owner = [index for index, (stages, _) in enumerate(replicas) for _ in stages]
        ranges = tuple((stage.first_layer, stage.last_layer) for stage, _ in held)
        known: dict[tuple[float, tuple[int, ...]], float] = {}
        for index, (num_parameters, ranks, lowest) in enumerate(self._buckets_of(ranges)):
            alike = num_parameters, ranks
            seconds = known.get(alike)
            if seconds is None:
                owners = [owner[rank] for rank in ranks]
                holders = [held[rank] for rank in ranks]
                seconds = known[alike] = self._seconds(num_parameters, holders, owners)
            if seconds:
                places = zip(ranks, lowest, strict=True)
                yield BucketTime(
                    index, seconds, tuple((rank, owner[rank], layer) for rank, layer in places)
                )

    def _buckets_of(self, ranges: _Ranges) -> list[_Bucket]:
        found = self._buckets.get(ranges)
        if found is None:
            groups = self._tables.groups
            found = self._buckets[ranges] = []
            for bucket in buckets_of(ranges, groups, self._tables.stack.bucket_bytes):
                layers = sorted({layer for each in bucket.groups for layer in groups[each].layers})
                lowest = tuple(
                    layers[bisect_left(layers, ranges[rank][0])] for rank in bucket.ranks
                )
                found.append(_Bucket(bucket.num_parameters, bucket.ranks, lowest))
        return found

    def _seconds(
        self,
        num_parameters: float,
        holders: Sequence[tuple[StageChoice, Layout]],
        owners: Sequence[int],
    ) -> float:
        """Of one bucket: inside the slowest of its holders, then between them."""
        tables = self._tables
        alike = {(stage.block, layout) for stage, layout in holders}
        inside = max(
            group_exchange_seconds(
                num_parameters, layout, tables.blocks[block].spread, tables.stack
            )
            for block, layout in alike
        )
        return inside + self._between_seconds(num_parameters, _by_replica(holders, owners))

    def _between_seconds(
        self, num_parameters: float, replicas: Sequence[Sequence[tuple[StageChoice, Layout]]]
    ) -> float:
        """Time in which the holders of a bucket, replica by replica, add up its gradients; in pairs
        where the stack does that and all replicas are cut alike."""
        seconds = self._tables.all_reduce_seconds
        if not self._tables.stack.tied_in_pairs or len({len(held) for held in replicas}) > 1:
            return seconds(num_parameters, [stage.block for held in replicas for stage, _ in held])
        tied = max(
            seconds(
                num_parameters * max(layout.data for _, layout in held),
                [stage.block for stage, _ in held],
            )
            for held in replicas
        )
        stages = zip(*replicas, strict=True)
        return tied + max(
            seconds(num_parameters, [stage.block for stage, _ in alike]) for alike in stages
        )


def _by_replica(
    holders: Sequence[tuple[StageChoice, Layout]], owners: Sequence[int]
) -> list[list[tuple[StageChoice, Layout]]]:
    """Holders of a bucket, those of each replica together."""
    found: dict[int, list[tuple[StageChoice, Layout]]] = {}
    for holder, owner in zip(holders, owners, strict=True):
        found.setdefault(owner, []).append(holder)
    return list(found.values())

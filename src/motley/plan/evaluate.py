"""What a split gives: does it fit, and how long is a step. The search asks this thousands of times.

An `Evaluator` knows one recipe and a list of chips, and remembers what it has computed. In the
search one chip stands for all alike; to predict a plan the list is the cluster's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from motley.chips.chip import Chip, Link
from motley.plan.choices import ReplicaChoice, Split, StageChoice
from motley.plan.pipeline import (
    LONG_RUN,
    ActionTime,
    PipelineCost,
    extrapolate_pipeline,
    run_pipeline,
)
from motley.plan.sync import all_reduce_seconds, buckets_of, lowest_layer
from motley.plan.tables import StageTables
from motley.recipe import Recipe


@dataclass(frozen=True)
class ReplicaTimes:
    """When one replica is done; seconds from the beginning of the step."""

    ready_s: tuple[float, ...]
    """When each layer's gradients are complete."""
    finish_s: float


@dataclass(frozen=True)
class BucketTime:
    """One exchange of gradients between its holders."""

    index: int
    """Of the bucket, in `gradient_buckets`."""
    seconds: float
    holders: tuple[tuple[int, int, int], ...]
    """Rank, replica, and the layer that completes the bucket there."""


class Evaluator(StageTables):
    """Time of splits of one recipe over some chips."""

    def __init__(
        self, recipe: Recipe, chips: Sequence[Chip], link: Callable[[int, int], Link]
    ) -> None:
        super().__init__(recipe, chips, link)
        self._replicas: dict[tuple[ReplicaChoice, bool], ReplicaTimes | None] = {}
        self._buckets: dict[tuple[tuple[StageChoice, ...], ...], tuple[BucketTime, ...]] = {}

    def pipeline_cost(self, replica: ReplicaChoice, recompute: Sequence[bool]) -> PipelineCost:
        """The times that the schedule's simulation needs."""
        stages, last = replica.stages, replica.last_samples
        full = min(replica.micro_batch_size, replica.num_samples)
        forward, backward = [], []
        for stage, flag in zip(stages, recompute, strict=True):
            whole = self.pass_seconds(stage, full, flag)
            ragged = whole if last == full else self.pass_seconds(stage, last, flag)
            forward.append((whole[0], ragged[0]))
            backward.append((whole[1], ragged[1]))
        send, latency = [], []
        for before, after in pairwise(stages):
            whole_s, edge_latency = self.edge_seconds(before.chip, after.chip, full)
            send.append((whole_s, self.edge_seconds(before.chip, after.chip, last)[0]))
            latency.append(edge_latency)
        return PipelineCost(
            start_s=tuple(self.optimizer_seconds(stage) for stage in stages),
            forward_s=tuple(forward),
            backward_s=tuple(backward),
            send_s=tuple(send),
            latency_s=tuple(latency),
        )

    def replica_times(
        self,
        replica: ReplicaChoice,
        recompute: Sequence[bool],
        record: list[ActionTime] | None = None,
        *,
        exact: bool = True,
    ) -> ReplicaTimes:
        """When the replica's gradients are complete."""
        cost = self.pipeline_cost(replica, recompute)
        num_micro_batches = replica.num_micro_batches
        if exact or len(replica.stages) == 1 or num_micro_batches <= LONG_RUN:
            began = run_pipeline(cost, num_micro_batches, record)
        else:
            began = extrapolate_pipeline(cost, num_micro_batches)
        ready = [0.0] * self.num_layers
        for stage, start, flag in zip(replica.stages, began, recompute, strict=True):
            running = self.running_sums(stage.chip, replica.last_samples)
            sums = running.recomputed_backward if flag else running.backward
            whole = start + sums[stage.last_layer]
            for layer in range(stage.first_layer, stage.last_layer):
                ready[layer] = whole - sums[layer]
        finish = max(ready[stage.first_layer] for stage in replica.stages)
        return ReplicaTimes(tuple(ready), finish)

    def replica(self, replica: ReplicaChoice, *, exact: bool = False) -> ReplicaTimes | None:
        """`replica_times` with the least recompute that fits, remembered; None: does not fit."""
        key = (replica, exact)
        if key not in self._replicas:
            flags = self.recompute_flags(replica)
            self._replicas[key] = (
                None if flags is None else self.replica_times(replica, flags, exact=exact)
            )
        return self._replicas[key]

    def step_seconds(self, split: Split, *, exact: bool = False) -> float | None:
        """Time of one step; None if a stage does not fit its chip."""
        times = []
        for replica in split:
            found = self.replica(replica, exact=exact)
            if found is None:
                return None
            times.append(found)
        return self.barrier(split, times)

    def barrier(
        self,
        split: Split,
        times: Sequence[ReplicaTimes],
        record: list[tuple[int, float, float]] | None = None,
    ) -> float:
        """When all gradients are added up everywhere; `record` receives each bucket's exchange."""
        end = max(time.finish_s for time in times)
        if len(split) == 1 and len(split[0].stages) == 1:
            return end
        channel: dict[int, float] = {}
        for bucket in self.bucket_times(split):
            start = 0.0
            for rank, replica, layer in bucket.holders:
                start = max(start, times[replica].ready_s[layer], channel.get(rank, 0.0))
            done = start + bucket.seconds
            for rank, _, _ in bucket.holders:
                channel[rank] = done
            if done > end:
                end = done
            if record is not None:
                record.append((bucket.index, start, done))
        return end

    def bucket_times(self, split: Split) -> tuple[BucketTime, ...]:
        """The exchanges that need a message, in the order in which every rank treats them."""
        key = tuple(replica.stages for replica in split)
        found = self._buckets.get(key)
        if found is None:
            found = self._buckets[key] = tuple(self._bucket_times(split))
        return found

    def _bucket_times(self, split: Split) -> list[BucketTime]:
        stages = [stage for replica in split for stage in replica.stages]
        owner = [index for index, replica in enumerate(split) for _ in replica.stages]
        result = []
        ranges = [(first, last) for _, first, last in stages]
        for index, bucket in enumerate(buckets_of(ranges, self.groups)):
            if len(bucket.ranks) < 2:
                continue
            holders = tuple(
                (rank, owner[rank], lowest_layer(bucket, self.groups, *stages[rank][1:]))
                for rank in bucket.ranks
            )
            chips = [stages[rank].chip for rank in bucket.ranks]
            seconds = all_reduce_seconds(bucket.num_parameters, chips, self.link)
            result.append(BucketTime(index, seconds, holders))
        return result

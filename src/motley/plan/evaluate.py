"""What a split gives: does it fit, and how long is a step. The search asks this thousands of times.

An `Evaluator` knows one recipe and a list of chips, and remembers what it has computed. A split
names chips by their place in that list; in the search one chip stands for all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from motley.chips.chip import Chip, Link
from motley.errors import RecipeError
from motley.plan.cost import (
    backward_flops,
    backward_seconds,
    boundary_bytes,
    forward_flops,
    forward_seconds,
    optimizer_seconds,
)
from motley.plan.memory import groups_of, held_parameters, stage_memory
from motley.plan.pipeline import ActionTime, PipelineCost, run_pipeline, steady_period
from motley.plan.schedule import in_flight
from motley.plan.sync import all_reduce_seconds, buckets_of, lowest_layer
from motley.recipe import Recipe

LONG_RUN = 48
"""A replica with more micro-batches than this is extrapolated unless the time must be exact."""


class StageChoice(NamedTuple):
    """Layers [first_layer, last_layer) on a chip, by its place in the evaluator's list."""

    chip: int
    first_layer: int
    last_layer: int


class ReplicaChoice(NamedTuple):
    """One replica of a split."""

    stages: tuple[StageChoice, ...]
    micro_batch_size: int
    num_samples: int

    @property
    def num_micro_batches(self) -> int:
        return -(-self.num_samples // self.micro_batch_size)

    @property
    def last_samples(self) -> int:
        """Samples of the last micro-batch."""
        return self.num_samples - (self.num_micro_batches - 1) * self.micro_batch_size


Split = tuple[ReplicaChoice, ...]


@dataclass(frozen=True)
class ReplicaTimes:
    """When one replica is done; seconds from the beginning of the step."""

    ready_s: tuple[float, ...]
    """When each layer's gradients are complete."""
    finish_s: float


class _Prefix(NamedTuple):
    """Running sums over layers: entry i is the time of the layers before i."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    recomputed_backward: tuple[float, ...]


class BucketTime(NamedTuple):
    """One exchange of gradients between its holders."""

    index: int
    """Of the bucket, in `gradient_buckets`."""
    seconds: float
    holders: tuple[tuple[int, int, int], ...]
    """Rank, replica, and the layer that completes the bucket there."""


class Evaluator:
    """Memory and time of splits of one recipe over some chips."""

    def __init__(
        self, recipe: Recipe, chips: Sequence[Chip], link: Callable[[int, int], Link]
    ) -> None:
        if recipe.model.vocab_size is None:
            raise RecipeError(
                "model.vocab_size is not known yet; a plan needs it.",
                remedy="Set it, or take it from the tokenizer with Recipe.with_vocabulary.",
            )
        self.config = recipe.model
        self.sequence_length = recipe.batch.sequence_length
        self.global_batch = recipe.batch.global_batch
        self.num_layers = recipe.model.num_layers
        self.chips = tuple(chips)
        self.link = link
        self.groups = groups_of(self.config)
        self._prefixes: dict[tuple[int, int], _Prefix] = {}
        self._memory: dict[tuple[object, ...], int] = {}
        self._optimizer: dict[StageChoice, float] = {}
        self._replicas: dict[tuple[ReplicaChoice, bool], ReplicaTimes | None] = {}
        self._buckets: dict[tuple[tuple[StageChoice, ...], ...], tuple[BucketTime, ...]] = {}

    def sample_flops(self) -> list[float]:
        """FLOPs of forward and backward of one sample, by layer."""
        precision = self.chips[0].precision
        return [
            forward_flops(self.config, layer, self.sequence_length, precision)
            + backward_flops(self.config, layer, self.sequence_length, precision, False)
            for layer in range(self.num_layers)
        ]

    def memory_bytes(
        self, stage: StageChoice, num_in_flight: int, micro_batch_size: int, recompute: bool
    ) -> int:
        """Predicted peak of a stage."""
        chip, first, last = stage
        precision = self.chips[chip].precision
        key = (precision, first, last, num_in_flight, micro_batch_size, recompute)
        need = self._memory.get(key)
        if need is None:
            need = stage_memory(
                self.config,
                self.sequence_length,
                precision,
                (first, last),
                num_in_flight=num_in_flight,
                micro_batch_size=micro_batch_size,
                recompute=recompute,
            ).total_bytes
            self._memory[key] = need
        return need

    def recompute(
        self, stage: StageChoice, num_in_flight: int, micro_batch_size: int
    ) -> bool | None:
        """Whether a stage must recompute to fit its chip; None if it does not fit at all."""
        available = self.chips[stage.chip].memory_bytes
        for recompute in (False, True):
            need = self.memory_bytes(stage, num_in_flight, micro_batch_size, recompute)
            if need <= available:
                return recompute
        return None

    def recompute_flags(self, replica: ReplicaChoice) -> tuple[bool, ...] | None:
        """`recompute` of every stage; None if any does not fit."""
        flags = []
        num_stages = len(replica.stages)
        size = min(replica.micro_batch_size, replica.num_samples)
        for position, stage in enumerate(replica.stages):
            kept = in_flight(position, num_stages, replica.num_micro_batches)
            flag = self.recompute(stage, kept, size)
            if flag is None:
                return None
            flags.append(flag)
        return tuple(flags)

    def prefix(self, chip: int, num_samples: int) -> _Prefix:
        """Running sums of the layers' times on a chip."""
        key = (chip, num_samples)
        found = self._prefixes.get(key)
        if found is None:
            arguments = (self.chips[chip], self.config)
            length, layers = self.sequence_length, range(self.num_layers)

            def backward(recompute: bool) -> tuple[float, ...]:
                seconds = (
                    backward_seconds(*arguments, layer, length, num_samples, recompute)
                    for layer in layers
                )
                return tuple(accumulate(seconds, initial=0.0))

            forward = (forward_seconds(*arguments, layer, length, num_samples) for layer in layers)
            found = _Prefix(
                tuple(accumulate(forward, initial=0.0)), backward(False), backward(True)
            )
            self._prefixes[key] = found
        return found

    def pass_seconds(
        self, stage: StageChoice, num_samples: int, recompute: bool
    ) -> tuple[float, float]:
        """Forward and backward time of one micro-batch."""
        prefix = self.prefix(stage.chip, num_samples)
        backward = prefix.recomputed_backward if recompute else prefix.backward
        first, last = stage.first_layer, stage.last_layer
        return prefix.forward[last] - prefix.forward[first], backward[last] - backward[first]

    def optimizer_seconds(self, stage: StageChoice) -> float:
        """Time of the update of what the stage holds."""
        seconds = self._optimizer.get(stage)
        if seconds is None:
            held = held_parameters(self.config, stage.first_layer, stage.last_layer)
            seconds = self._optimizer[stage] = optimizer_seconds(self.chips[stage.chip], held)
        return seconds

    def edge_seconds(self, first: int, second: int, num_samples: int) -> tuple[float, float]:
        """How long one message occupies the edge between two chips, and its latency."""
        link = self.link(first, second)
        num_bytes = boundary_bytes(
            self.config,
            self.sequence_length,
            num_samples,
            self.chips[first].precision,
            self.chips[second].precision,
        )
        return num_bytes / link.bandwidth_bytes_per_s, link.latency_s

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
        for before, after in zip(stages, stages[1:], strict=False):
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
            began = _extrapolate(cost, num_micro_batches)
        ready = [0.0] * self.num_layers
        for stage, start, flag in zip(replica.stages, began, recompute, strict=True):
            prefix = self.prefix(stage.chip, replica.last_samples)
            sums = prefix.recomputed_backward if flag else prefix.backward
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


def _extrapolate(cost: PipelineCost, num_micro_batches: int) -> list[float]:
    """Beginnings of the last backward after a long run, from a shorter one and its period.

    The time is a maximum of lines in the number of micro-batches, so it is at least the line
    through two short runs, and at least that of each stage working without a pause.
    """
    step = min(len(cost.start_s), LONG_RUN // 4)
    began = run_pipeline(cost, LONG_RUN)
    earlier = run_pipeline(cost, LONG_RUN - step)
    slope = max(new - old for new, old in zip(began, earlier, strict=True)) / step
    left = num_micro_batches - LONG_RUN
    end = max(began) + left * min(slope, steady_period(cost))
    before = 0.0
    for stage, (forward, backward) in enumerate(
        zip(cost.forward_s, cost.backward_s, strict=True)
    ):
        work = forward[0] + backward[0]
        end = max(end, before + (num_micro_batches - 1) * work)
        if stage < len(cost.send_s):
            before += work + 2 * (cost.send_s[stage][0] + cost.latency_s[stage])
    return [start + end - max(began) for start in began]

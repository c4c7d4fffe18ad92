"""What a split gives: does it fit, and how long is a step. The search asks this thousands of times.

An `Evaluator` knows one recipe and a list of blocks of chips, and remembers what it has computed.
In the search one block stands for all alike; to predict a plan the list is what its stages use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from motley.plan.layout import Layout
from motley.plan.memory.update import directions_bytes, update_flops
from motley.plan.search.choices import Block, ReplicaChoice, Split
from motley.plan.search.exchanges import Exchanges
from motley.plan.search.laid import LayoutTables
from motley.plan.search.memo import Links, Memo
from motley.plan.space import TRAINABLE, Space
from motley.plan.stack import MOTLEY, Stack
from motley.plan.timing.collectives import send_seconds
from motley.plan.timing.pipeline import (
    ActionTime,
    PipelineCost,
    extrapolate_pipeline,
    gradients_complete,
    held_up,
    run_pipeline,
)
from motley.plan.timing.sync import rows_exchange_seconds
from motley.recipe import Recipe
from motley.units import Precision


@dataclass(frozen=True)
class ReplicaTimes:
    """When one replica is done; seconds from the beginning of the step."""

    layouts: tuple[Layout, ...]
    """Of its stages."""
    ready_s: tuple[float, ...]
    """When each layer's gradients are complete."""
    finish_s: float


@dataclass(frozen=True)
class Prediction:
    """One step of a split."""

    step_s: float
    exposed_s: float
    """From the end of the last pass of any stage to the end of the step, without the time in which
    Muon's directions are computed: what links alone add."""
    busy_share: tuple[float, ...]
    """Of the step in which each stage computes (passes and optimizer); replica by replica."""


class Evaluator(LayoutTables):
    """Time of splits of one recipe over some blocks of chips."""

    def __init__(
        self,
        recipe: Recipe,
        blocks: Sequence[Block],
        links: Links,
        *,
        space: Space = TRAINABLE,
        stack: Stack = MOTLEY,
        memo: Memo | None = None,
    ) -> None:
        super().__init__(recipe, blocks, links, space=space, stack=stack, memo=memo)
        self._replicas: dict[tuple[ReplicaChoice, bool], ReplicaTimes | None] = {}
        self._exchanges_of = Exchanges(self)
        self._direction_work: dict[Precision, list[tuple[float, float]]] = {}

    def pipeline_cost(self, replica: ReplicaChoice, layouts: Sequence[Layout]) -> PipelineCost:
        """The times that the schedule's simulation needs."""
        stages, last = replica.stages, replica.last_samples
        full = min(replica.micro_batch_size, replica.num_samples)
        forward, backward, weight = [], [], []
        for stage, layout in zip(stages, layouts, strict=True):
            whole = self.pass_seconds(stage, full, layout)
            ragged = whole if last == full else self.pass_seconds(stage, last, layout)
            forward.append((whole[0], ragged[0]))
            backward.append((whole[1], ragged[1]))
            if replica.schedule == "zero-bubble":
                delayed = self.weight_seconds(stage, full, layout)
                weight.append((delayed, self.weight_seconds(stage, last, layout)))
        send, latency = [], []
        for before, after in pairwise(stages):
            edge, layer = (before.block, after.block), after.first_layer
            whole_s, edge_latency = self.edge_seconds(*edge, full, layer)
            send.append((whole_s, self.edge_seconds(*edge, last, layer)[0]))
            latency.append(edge_latency)
        cost = PipelineCost(
            start_s=self._starts(replica, layouts),
            forward_s=tuple(forward),
            backward_s=tuple(backward),
            send_s=tuple(send),
            latency_s=tuple(latency),
            schedule=replica.schedule,
            devices=replica.held_by,
            weight_s=tuple(weight),
        )
        return held_up(cost) if self.stack.blocking_sends else cost

    def _starts(self, replica: ReplicaChoice, layouts: Sequence[Layout]) -> tuple[float, ...]:
        """When each stage's chips have updated all that they hold."""
        busy: dict[int, float] = {}
        for group, stage, layout in zip(replica.held_by, replica.stages, layouts, strict=True):
            busy[group] = busy.get(group, 0.0) + self.optimizer_seconds(stage, layout)
        return tuple(busy[group] for group in replica.held_by)

    def replica_times(
        self,
        replica: ReplicaChoice,
        layouts: Sequence[Layout],
        record: list[ActionTime] | None = None,
        *,
        exact: bool = True,
    ) -> ReplicaTimes:
        """When the replica's gradients are complete."""
        cost = self.pipeline_cost(replica, layouts)
        num_micro_batches = replica.num_micro_batches
        began = self._began(cost, num_micro_batches, exact, record)
        complete = gradients_complete(cost, num_micro_batches, began)
        ready = [0.0] * self.num_layers
        for stage, end, layout in zip(replica.stages, complete, layouts, strict=True):
            sums = self.running_sums(stage.block, replica.last_samples, layout).backward
            for layer in range(stage.first_layer, stage.last_layer):
                ready[layer] = end - (sums[layer] - sums[stage.first_layer])
        finish = max(ready[stage.first_layer] for stage in replica.stages)
        return ReplicaTimes(tuple(layouts), tuple(ready), finish)

    def _began(
        self, cost: PipelineCost, count: int, exact: bool, record: list[ActionTime] | None
    ) -> Sequence[float]:
        """When each stage begins its last backward; the same for all replicas of equal costs."""
        if record is not None:
            run_pipeline(cost, count, record)
        key = (cost, count, exact)
        found = self.memo.runs.get(key)
        if found is None:
            run = run_pipeline if exact else extrapolate_pipeline
            found = self.memo.runs[key] = tuple(run(cost, count))
        return found

    def replica(self, replica: ReplicaChoice, *, exact: bool = False) -> ReplicaTimes | None:
        """`replica_times` with the fastest layouts that fit, remembered; None: does not fit."""
        key = (replica, exact)
        if key not in self._replicas:
            layouts = self.layouts(replica)
            self._replicas[key] = (
                None if layouts is None else self.replica_times(replica, layouts, exact=exact)
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

    def predict(self, split: Split, layouts: Sequence[Sequence[Layout]]) -> Prediction:
        """The step with the stages laid out so, fitting or not."""
        times = [self.replica_times(*each) for each in zip(split, layouts, strict=True)]
        step_s = self.barrier(split, times)
        computing = [
            seconds
            for each in zip(split, layouts, strict=True)
            for seconds in self._busy_seconds(*each)
        ]
        finding = self.directions_seconds(split)
        busy = tuple(
            (seconds + directions) / step_s
            for seconds, directions in zip(computing, finding, strict=True)
        )
        exposed_s = step_s - max(time.finish_s for time in times) - max(finding)
        return Prediction(step_s, exposed_s, busy)

    def directions_seconds(self, split: Split) -> list[float]:
        """In which each stage computes Muon's directions, replica by replica."""
        return [seconds for seconds, _ in self._directions(split)]

    def _busy_seconds(self, replica: ReplicaChoice, layouts: Sequence[Layout]) -> Iterator[float]:
        cost, full = self.pipeline_cost(replica, layouts), replica.num_micro_batches - 1
        passes = zip(cost.forward_s, cost.backward_s, strict=True)
        for stage, layout, (forward, backward) in zip(replica.stages, layouts, passes, strict=True):
            whole, last = (forward[place] + backward[place] for place in (0, 1))
            yield self.optimizer_seconds(stage, layout) + full * whole + last

    def barrier(
        self,
        split: Split,
        times: Sequence[ReplicaTimes],
        record: list[tuple[int, float, float]] | None = None,
    ) -> float:
        """When all gradients are added up everywhere; `record` receives each bucket's exchange."""
        end = max(time.finish_s for time in times)
        if len(split) == 1 and self._exchanges_nothing(times[0].layouts):
            return end + self._update_seconds(split)
        channel: dict[int, float] = {}
        overlap = self.stack.overlap_data
        for bucket in self._exchanges_of.of(split, [time.layouts for time in times]):
            start = 0.0
            for rank, replica, layer in bucket.holders:
                ready = times[replica].ready_s[layer] if overlap else times[replica].finish_s
                start = max(start, ready, channel.get(rank, 0.0))
            done = start + bucket.seconds
            for rank, _, _ in bucket.holders:
                channel[rank] = done
            if done > end:
                end = done
            if record is not None:
                record.append((bucket.index, start, done))
        if overlap and self.stack.exchange_slows:
            end += self._slowdown_seconds(split, times, end)
        return end + self._update_seconds(split) + self._rows_exchange_seconds(split)

    def _rows_exchange_seconds(self, split: Split) -> float:
        """Of memory tables, when all other gradients are added up."""
        if len(split) == 1 or self.recipe.model.tables is None:
            return 0.0
        length = self.recipe.batch.sequence_length
        link = self.links.slowest([replica.stages[0].block for replica in split])
        tokens = [replica.num_samples * length for replica in split]
        return rows_exchange_seconds(self.recipe.model, tokens, link)

    def _directions(self, split: Split) -> list[tuple[float, float]]:
        """Muon's directions that each stage finds, replica by replica: seconds, and the bytes that
        it gives out.

        All that hold a layer share its matrices by their speed (`motley.optim.owners`).
        """
        stages = [stage for replica in split for stage in replica.stages]
        if not self.recipe.optimizer.orthogonalises:
            return [(0.0, 0.0)] * len(stages)
        speeds = [self.blocks[stage.block].training_flops_per_s for stage in stages]
        together = [0.0] * (self.num_layers + 1)
        for stage, speed in zip(stages, speeds, strict=True):
            together[stage.first_layer] += speed
            together[stage.last_layer] -= speed
        together = list(accumulate(together))
        found = []
        for stage, speed in zip(stages, speeds, strict=True):
            work = self._layer_directions(self.blocks[stage.block].chip.precision)
            held = range(stage.first_layer, stage.last_layer)
            seconds = sum(work[layer][0] / together[layer] for layer in held)
            found.append((seconds, sum(work[i][1] * speed / together[i] for i in held)))
        return found

    def _layer_directions(self, precision: Precision) -> list[tuple[float, float]]:
        """FLOPs and bytes of each layer's directions."""
        known = self._direction_work.get(precision)
        if known is None:
            layers = pairwise(range(self.num_layers + 1))
            known = self._direction_work[precision] = [
                (update_flops(self.recipe, *own, precision), directions_bytes(self.recipe, *own))
                for own in layers
            ]
        return known

    def _update_seconds(self, split: Split) -> float:
        """In the next step's update: finding the directions, then giving them out."""
        found = self._directions(split)
        seconds, owned = (max(each[place] for each in found) for place in (0, 1))
        if len(split) == 1 or not owned:
            return seconds
        link = self.links.slowest([stage.block for replica in split for stage in replica.stages])
        return seconds + send_seconds(owned, link, self.stack.constants) + link.latency_s

    def _slowdown_seconds(self, split: Split, times: Sequence[ReplicaTimes], end_s: float) -> float:
        """By how much the exchanges beside the passes hold those up."""
        busy: dict[int, float] = defaultdict(float)
        for bucket in self._exchanges_of.of(split, [time.layouts for time in times]):
            for rank, _, _ in bucket.holders:
                busy[rank] += bucket.seconds
        exposed = end_s - max(time.finish_s for time in times)
        hidden = max(busy.values(), default=0.0) - exposed
        return self.stack.constants.overlap_slowdown * max(0.0, hidden)

    def _exchanges_nothing(self, layouts: Sequence[Layout]) -> bool:
        """Whether the only replica has every parameter on one chip, or split over several."""
        shares_layers = len(layouts) > 1 and any(len(group.layers) > 1 for group in self.groups)
        return not shares_layers and all(layout.data == 1 for layout in layouts)

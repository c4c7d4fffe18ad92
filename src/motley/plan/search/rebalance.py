"""The best boundaries between the stages of one pipeline, and the best order of its blocks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from motley.plan.search.choices import ReplicaChoice, StageChoice
from motley.plan.search.effort import cuts_between
from motley.plan.search.ends import TYPICAL_EXCHANGE, Goals
from motley.plan.search.pipelines import PipelineSearch
from motley.plan.search.stage_arrays import NEVER, ArraysByCuts, late

FINE_CUTS = 36
"""Boundaries between layers among which orders are compared."""

MOST_SETS = 300
"""Of the blocks of a pipeline that is put into another order."""


class Rebalancer:
    """Finds boundaries among all layers, by the recurrence of `pipelines`."""

    def __init__(self, arrays: ArraysByCuts) -> None:
        self.evaluator = arrays.evaluator
        self.arrays = arrays

    def rebalanced(self, replica: ReplicaChoice, *, alone: bool) -> ReplicaChoice | None:
        """The replica with the boundaries that suit its share; None if no boundaries fit."""
        evaluator, stages = self.evaluator, replica.stages
        size, count = replica.micro_batch_size, replica.num_micro_batches
        every = tuple(range(evaluator.num_layers + 1))
        arrays = self.arrays.between(every, min(len(stages), count))
        ends: list[NDArray[np.intp]] = []
        time = shared = work = np.zeros(0, np.float32)
        for position in range(len(stages) - 1, -1, -1):
            block = stages[position].block
            times = arrays.keeping(block, size, count, len(stages) - position)
            among = np.float32(0) if alone else TYPICAL_EXCHANGE
            exchange = times.exchange + among * arrays.shared(block)
            exchange = late(exchange, times.backward, arrays.last)
            own = times.forward + times.backward
            if position == len(stages) - 1:
                time, work = count * own[:, -1], own[:, -1]
                shared = time + exchange[:, -1]
                continue
            send, latency = evaluator.edge_seconds(block, stages[position + 1].block, size)
            behind = own + 2 * (send + latency)
            longest = np.maximum(np.maximum(own, (behind + work) / 2), send)
            times_ij = np.maximum(count * longest, behind + time)
            shared_ij = np.maximum(times_ij + exchange, times.forward + send + latency + shared)
            cut = np.maximum(times_ij, shared_ij).argmin(axis=1)
            rows = np.arange(len(cut))
            time, shared, work = (each[rows, cut] for each in (times_ij, shared_ij, own))
            ends.append(cut)
        if time[0] >= NEVER:
            return None
        return replica._replace(stages=tuple(self._cut(stages, ends[::-1])), layouts=())

    def _cut(
        self, stages: tuple[StageChoice, ...], ends: list[NDArray[np.intp]]
    ) -> list[StageChoice]:
        found, begin = [], 0
        for stage, cut in zip(stages, ends, strict=False):
            found.append(StageChoice(stage.block, begin, int(cut[begin])))
            begin = found[-1].last_layer
        return [*found, StageChoice(stages[-1].block, begin, self.evaluator.num_layers)]


class Reorderer:
    """Finds the best order and boundaries of the blocks of one pipeline."""

    def __init__(self, arrays: ArraysByCuts, ordered: Collection[Goals] = ()) -> None:
        """In `ordered` are goals for which pipelines are in their best order already."""
        self.evaluator = arrays.evaluator
        self.arrays = arrays
        self._ordered = {
            (goals.micro_batch_size, count, not among)
            for goals in ordered
            for count, among in goals.pairs
        }
        self._known: dict[tuple[object, ...], tuple[StageChoice, ...]] = {}

    def reordered(self, replica: ReplicaChoice, *, alone: bool) -> ReplicaChoice | None:
        """The replica with its blocks in the order that suits its share."""
        counts = Counter(stage.block for stage in replica.stages)
        size, count = replica.micro_batch_size, _rounded(replica.num_micro_batches)
        sets = math.prod(each + 1 for each in counts.values())
        if sets > MOST_SETS or len(counts) < 2:
            return replica
        if (size, replica.num_micro_batches, alone) in self._ordered:
            return replica
        key = (*sorted(counts.items()), size, count, alone)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._best(replica, counts, count, alone)
        return replica._replace(stages=found, layouts=())

    def _best(
        self, replica: ReplicaChoice, counts: Mapping[int, int], count: int, alone: bool
    ) -> tuple[StageChoice, ...]:
        kinds = sorted(counts)
        goals = Goals(replica.micro_batch_size, ((count, not alone),))
        cuts = cuts_between(self.evaluator.num_layers, FINE_CUTS)
        search = PipelineSearch(
            self.evaluator,
            tuple(counts[kind] for kind in kinds),
            [tuple(int(kind == other) for other in kinds) for kind in kinds],
            self.arrays.between(cuts, len(replica.stages)),
            goals,
            beam=1,
            blocks=kinds,
        )
        lines = search.run(len(replica.stages), len(replica.stages))
        if lines is None:
            return replica.stages
        whole = lines.take(np.flatnonzero(lines.used.sum(axis=1) == len(replica.stages)))
        if not len(whole.size):
            return replica.stages
        best = int(whole.seconds(replica.num_samples, None if alone else 0).argmin())
        return search.stages(whole.origin[best])


def _rounded(count: int) -> int:
    """Micro-batches as orders tell them apart: down to a number of four binary digits."""
    few = max(0, count.bit_length() - 4)
    return count >> few << few

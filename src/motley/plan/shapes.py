"""A pipeline with its micro-batch size, and a quick estimate of its time for any share.

The estimate is a line in the number of micro-batches: the slowest stage, or two neighbours that
wait for each other's messages, repeats; what fills and drains the pipeline, and the gradients'
exchange after the last backward, comes once. It is hardly ever above the real time.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from motley.plan.choices import StageChoice
from motley.plan.evaluate import Evaluator
from motley.plan.layout import Layout
from motley.plan.pipelines import Pipeline
from motley.plan.sync import all_reduce_seconds


class Shape(NamedTuple):
    """A pipeline and its micro-batch size."""

    stages: tuple[StageChoice, ...]
    micro_batch_size: int
    most_samples: int
    """With more, a stage would keep more micro-batches and no longer fit as it is laid out."""
    start_s: float
    """The first stage's optimizer."""
    round_trip_s: float
    """One micro-batch through all stages and back."""
    period_s: float
    """What each further micro-batch adds."""
    tails_s: tuple[float, float]
    """Exchange of gradients after the last pass: of the only replica, and of one of two."""

    def seconds(self, num_samples: float, *, alone: bool) -> float:
        """Time of some samples."""
        count = num_samples / self.micro_batch_size
        passes = self.round_trip_s * min(count, 1.0) + self.period_s * max(count - 1.0, 0.0)
        return self.start_s + passes + self.tails_s[not alone]


class ShapeMaker:
    """Works out the shapes of pipelines."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._exchange: dict[StageChoice, float] = {}

    def shape(self, pipeline: Pipeline, micro_batch_size: int) -> Shape | None:
        """The shape of a pipeline that was built for some number of micro-batches; None if one of
        its stages does not fit after all."""
        evaluator, stages = self.evaluator, pipeline.stages
        size, count = micro_batch_size, pipeline.num_micro_batches
        layouts: list[Layout] = []
        for position, stage in enumerate(stages):
            kept = min(len(stages) - position, count)
            layout = evaluator.layout(stage, kept, size, count)
            if layout is None:
                return None
            layouts.append(layout)
        passes = [
            evaluator.pass_seconds(stage, size, layout)
            for stage, layout in zip(stages, layouts, strict=True)
        ]
        edges = [
            evaluator.edge_seconds(before.block, after.block, size)
            for before, after in pairwise(stages)
        ]
        one_way = [send + latency for send, latency in edges]
        work = [forward + backward for forward, backward in passes]
        pairs = [
            (work[place] + work[place + 1]) / 2 + one_way[place] for place in range(len(edges))
        ]
        round_trip = sum(work) + 2 * sum(one_way)
        period = max([*work, *pairs, *(send for send, _ in edges)])
        return Shape(
            stages,
            size,
            self._most_samples(stages, layouts, size, count),
            evaluator.optimizer_seconds(stages[0], layouts[0]),
            max(round_trip, period),
            period,
            self._tails(stages, layouts, [backward for _, backward in passes], one_way),
        )

    def _tails(
        self,
        stages: tuple[StageChoice, ...],
        layouts: list[Layout],
        backward: list[float],
        one_way: list[float],
    ) -> tuple[float, float]:
        """The exchange that is not over when the first stage's last backward is."""
        alone = shared = before = 0.0
        for place, (stage, layout) in enumerate(zip(stages, layouts, strict=True)):
            before += backward[place] + (one_way[place - 1] if place else 0.0)
            own = self.evaluator.exchange_seconds(stage, layout)
            among = self._shared_exchange(stage)
            alone = max(alone, own - before)
            shared = max(shared, own + among - before)
        return alone, shared

    def _shared_exchange(self, stage: StageChoice) -> float:
        """Of the stage's gradients with one other replica, over its best link."""
        found = self._exchange.get(stage)
        if found is None:
            evaluator = self.evaluator
            held = evaluator.parameters(stage)
            found = self._exchange[stage] = min(
                all_reduce_seconds(held, (stage.block, other), evaluator.link)
                for other in range(len(evaluator.blocks))
            )
        return found

    def _most_samples(
        self, stages: tuple[StageChoice, ...], layouts: list[Layout], size: int, count: int
    ) -> int:
        for position, (stage, layout) in enumerate(zip(stages, layouts, strict=True)):
            behind = len(stages) - position
            if behind > count and self.evaluator.layout(stage, behind, size, count) != layout:
                return count * size
        return self.evaluator.global_batch

"""A pipeline with its micro-batch size, and a quick lower bound of its time for any share.

The bound is the largest of some lines in the number of micro-batches: a stage that works without a
pause, two neighbours that wait for each other's messages, and, with more than one replica, a stage
whose gradients have to be exchanged after its last backward has begun.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from motley.plan.choices import StageChoice
from motley.plan.evaluate import Evaluator
from motley.plan.sync import all_reduce_seconds

Lines = tuple[tuple[float, float], ...]
"""(seconds at zero micro-batches, seconds per micro-batch), steepest first."""

MAX_REPLICAS_TOLD_APART = 4
"""The exchange's weight 2(n-1)/n hardly grows from here on; more replicas use this one's bound."""


class Shape(NamedTuple):
    """A pipeline and its micro-batch size."""

    stages: tuple[StageChoice, ...]
    micro_batch_size: int
    most_samples: int
    """With more, a stage would keep more micro-batches and no longer fit or have to recompute."""
    round_trip_s: float
    """One micro-batch through all stages and back."""
    bounds: tuple[Lines, ...]
    """By number of replicas, from one."""

    def lines(self, num_replicas: int) -> Lines:
        """The bound when there are as many replicas."""
        return self.bounds[min(num_replicas, len(self.bounds)) - 1]

    def seconds(self, num_samples: int, num_replicas: int) -> float:
        """Least time of some samples."""
        count = num_samples / self.micro_batch_size
        lines = self.lines(num_replicas)
        if count < 1:
            one = max(offset + slope for offset, slope in lines)
            return one - (1 - count) * self.round_trip_s
        return max(offset + count * slope for offset, slope in lines)

    def samples(self, seconds: float, num_replicas: int) -> float:
        """Most samples in some time; the inverse of `seconds`."""
        lines = self.lines(num_replicas)
        one = max(offset + slope for offset, slope in lines)
        if seconds < one:
            return self.micro_batch_size * max(0.0, 1 - (one - seconds) / self.round_trip_s)
        most = min(
            ((seconds - offset) / slope for offset, slope in lines if slope > 0),
            default=float(self.most_samples),
        )
        return min(most * self.micro_batch_size, self.most_samples)


class ShapeMaker:
    """Works out the bounds of pipelines."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        indices = range(len(evaluator.chips))
        self._exchange: dict[StageChoice, float] = {}
        first_layer = sum(
            group.num_parameters for group in evaluator.groups if min(group.layers) == 0
        )
        self._tail_s = min(self._reduce_seconds(chip, first_layer) for chip in indices)

    def _reduce_seconds(self, chip: int, num_parameters: int) -> float:
        """Of two ranks, over the chip's best link."""
        return min(
            all_reduce_seconds(num_parameters, (chip, other), self.evaluator.link)
            for other in range(len(self.evaluator.chips))
        )

    def exchange_seconds(self, stage: StageChoice) -> float:
        """Least time of the exchange of a stage's gradients between two replicas."""
        seconds = self._exchange.get(stage)
        if seconds is None:
            held = sum(
                group.num_parameters
                for group in self.evaluator.groups
                if any(stage.first_layer <= layer < stage.last_layer for layer in group.layers)
            )
            seconds = self._exchange[stage] = self._reduce_seconds(stage.chip, held)
        return seconds

    def shape(
        self, stages: tuple[StageChoice, ...], micro_batch_size: int, num_micro_batches: int
    ) -> Shape:
        """The shape of a pipeline that was built for some number of micro-batches."""
        most = self._most_samples(stages, micro_batch_size, num_micro_batches)
        passes = [
            self._passes(stage, len(stages) - position, micro_batch_size)
            for position, stage in enumerate(stages)
        ]
        edges = [
            self.evaluator.edge_seconds(before.chip, after.chip, micro_batch_size)
            for before, after in pairwise(stages)
        ]
        begin = self.evaluator.optimizer_seconds(stages[0])
        one_way = [send + latency for send, latency in edges]
        work = [forward + backward for forward, backward in passes]
        alone = _busy_lines(begin, work, one_way)
        bounds = [_hull(alone)]
        for num_replicas in range(2, MAX_REPLICAS_TOLD_APART + 1):
            weight = 2 * (num_replicas - 1) / num_replicas
            lines = [(offset + weight * self._tail_s, slope) for offset, slope in alone]
            start = begin
            for position, stage in enumerate(stages):
                own = weight * self.exchange_seconds(stage) - passes[position][1]
                lines += _busy_lines(start + own, work[position:], one_way[position:])
                if position < len(edges):
                    start += passes[position][0] + one_way[position]
            bounds.append(_hull(lines))
        round_trip = sum(work) + 2 * sum(one_way)
        return Shape(stages, micro_batch_size, most, round_trip, tuple(bounds))

    def _passes(self, stage: StageChoice, behind: int, size: int) -> tuple[float, float]:
        recompute = self.evaluator.recompute(stage, behind, size)
        return self.evaluator.pass_seconds(stage, size, recompute is True)

    def _most_samples(
        self, stages: tuple[StageChoice, ...], size: int, num_micro_batches: int
    ) -> int:
        for position, stage in enumerate(stages):
            behind = len(stages) - position
            if behind > num_micro_batches:
                now = self.evaluator.recompute(stage, num_micro_batches, size)
                if self.evaluator.recompute(stage, behind, size) is not now:
                    return num_micro_batches * size
        return self.evaluator.global_batch


def _busy_lines(begin: float, work: list[float], one_way: list[float]) -> list[tuple[float, float]]:
    """Stages that work without a pause, and neighbours that wait for each other's messages."""
    lines, offset = [], begin
    for position, own in enumerate(work):
        lines.append((offset, own))
        if position < len(work) - 1:
            pair = (own + work[position + 1]) / 2 + one_way[position]
            if pair > max(own, work[position + 1]):
                lines.append((offset, pair))
            offset += own + 2 * one_way[position]
    return lines


def _hull(lines: list[tuple[float, float]]) -> Lines:
    """The lines that may be the largest at one or more micro-batches, steepest first."""
    kept: list[tuple[float, float]] = []
    highest = float("-inf")
    for offset, slope in sorted(lines, key=lambda line: (-line[1], -line[0])):
        if offset + slope > highest:
            kept.append((offset, slope))
            highest = offset + slope
    return tuple(kept)

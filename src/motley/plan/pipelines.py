"""The best pipelines of every set of chips: which chips, in which order, with which layers.

A pipeline is built from its last stage backwards. That is where the schedule fixes how many
micro-batches a stage keeps, so memory is checked exactly while building. For a given number m of
micro-batches the time from any stage on is max(m x its own work, its work + the time behind it);
the best few of each (chips used, first layer) are kept. Splits that leave so much of the chips'
speed unused that no other choice could make up for it are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from motley.plan.classes import ChipClasses, Counts
from motley.plan.evaluate import Evaluator, StageChoice


class Shape(NamedTuple):
    """A pipeline and its micro-batch size, and lines whose maximum is its time."""

    stages: tuple[StageChoice, ...]
    micro_batch_size: int
    lines: tuple[tuple[float, float], ...]
    """(offset in seconds, seconds per micro-batch) of each stage working without a pause."""
    most_samples: int
    """With more, a stage would keep more micro-batches and no longer fit or have to recompute."""


class _Partial(NamedTuple):
    """The stages from some layer to the end. Ordered by time."""

    time_s: float
    stage: StageChoice
    work_s: float
    bottleneck_s: float
    speed: float
    """FLOP/s of its chips."""
    rest: _Partial | None

    def stages(self) -> tuple[StageChoice, ...]:
        listed: list[StageChoice] = []
        node: _Partial | None = self
        while node is not None:
            listed.append(node.stage)
            node = node.rest
        return tuple(listed)


State = tuple[Counts, int, int]
"""Chips used, first layer, and the class of the first stage where links differ (else -1)."""


class PipelineSearch:
    """Finds the best pipelines for one micro-batch size and number of micro-batches."""

    def __init__(
        self,
        evaluator: Evaluator,
        classes: ChipClasses,
        micro_batch_size: int,
        num_micro_batches: int,
        beam: int,
        slack_flops_per_s: float,
    ) -> None:
        self.evaluator = evaluator
        self.classes = classes
        self.size = micro_batch_size
        self.num_micro_batches = num_micro_batches
        self.beam = beam
        self.slack = slack_flops_per_s
        self.uniform = classes.uniform
        self.speeds = [chip.training_flops_per_s for chip in evaluator.chips]
        flops = evaluator.sample_flops()
        self.flops_from = [
            micro_batch_size * sum(flops[layer:]) for layer in range(evaluator.num_layers + 1)
        ]
        self.rounds = [
            [self._message_s(first, second) for second in range(len(self.speeds))]
            for first in range(len(self.speeds))
        ]

    def _message_s(self, first: int, second: int) -> tuple[float, float]:
        """One activation and one gradient over an edge, and the time either occupies it."""
        send, latency = self.evaluator.edge_seconds(first, second, self.size)
        return 2 * (send + latency), send

    def run(self) -> Iterator[tuple[Counts, Shape]]:
        """Whole pipelines with the chips they use."""
        totals = self.classes.totals
        none: Counts = tuple(0 for _ in totals)
        end = self.evaluator.num_layers
        level: dict[State, list[_Partial]] = {(none, end, -1): []}
        for num_stages in range(1, min(sum(totals), end) + 1):
            level = self._extend(level, num_stages)
            for (used, first, _), partials in level.items():
                if first == 0:
                    for partial in partials:
                        yield used, self._shape(partial)

    def _extend(
        self, level: dict[State, list[_Partial]], num_stages: int
    ) -> dict[State, list[_Partial]]:
        found: dict[State, list[_Partial]] = {}
        kept = min(num_stages, self.num_micro_batches)
        options: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for (used, end, _), partials in level.items():
            if end == 0:
                continue
            for chip, total in enumerate(self.classes.totals):
                if used[chip] == total:
                    continue
                stages = options.get((chip, end))
                if stages is None:
                    stages = options[chip, end] = self._stages(chip, end, kept)
                now = (*used[:chip], used[chip] + 1, *used[chip + 1 :])
                head = -1 if self.uniform else chip
                for first, work in stages:
                    state = (now, first, head)
                    into = found.setdefault(state, [])
                    self._push(into, StageChoice(chip, first, end), work, partials)
        return found

    def _stages(self, chip: int, end: int, kept: int) -> list[tuple[int, float]]:
        """First layer and time of both passes of every stage that ends at `end` and fits."""
        listed = []
        for first in range(end):
            stage = StageChoice(chip, first, end)
            recompute = self.evaluator.recompute(stage, kept, self.size)
            if recompute is not None:
                listed.append((first, sum(self.evaluator.pass_seconds(stage, self.size, recompute))))
        return listed

    def _push(
        self, into: list[_Partial], stage: StageChoice, work: float, partials: list[_Partial]
    ) -> None:
        steady = self.num_micro_batches * work
        useful = self.flops_from[stage.first_layer]
        own_speed = self.speeds[stage.chip]
        if not partials:
            if own_speed - useful / max(work, 1e-30) <= self.slack:
                self._keep(into, _Partial(steady, stage, work, work, own_speed, None))
            return
        messages = self.rounds[stage.chip]
        for rest in partials:
            both_ways, send = messages[rest.stage.chip]
            pair = (work + rest.work_s + both_ways) / 2
            bottleneck = max(rest.bottleneck_s, work, pair, send)
            speed = own_speed + rest.speed
            if speed - useful / max(bottleneck, 1e-30) > self.slack:
                continue
            time = max(steady, work + both_ways + rest.time_s, self.num_micro_batches * pair)
            if len(into) == self.beam and time >= into[-1].time_s:
                continue
            self._keep(into, _Partial(time, stage, work, bottleneck, speed, rest))

    def _keep(self, into: list[_Partial], partial: _Partial) -> None:
        position = len(into)
        while position and into[position - 1].time_s > partial.time_s:
            position -= 1
        into.insert(position, partial)
        if len(into) > self.beam:
            into.pop()

    def _shape(self, partial: _Partial) -> Shape:
        offset = self.evaluator.optimizer_seconds(partial.stage)
        lines = []
        node: _Partial | None = partial
        while node is not None:
            lines.append((offset, node.work_s))
            rest = node.rest
            if rest is not None:
                both_ways, _ = self.rounds[node.stage.chip][rest.stage.chip]
                pair = (node.work_s + rest.work_s + both_ways) / 2
                if pair > max(node.work_s, rest.work_s):
                    lines.append((offset, pair))
                offset += node.work_s + both_ways
            node = rest
        stages = partial.stages()
        return Shape(stages, self.size, _hull(lines), self._most_samples(stages))

    def _most_samples(self, stages: tuple[StageChoice, ...]) -> int:
        for position, stage in enumerate(stages):
            behind = len(stages) - position
            if behind > self.num_micro_batches:
                now = self.evaluator.recompute(stage, self.num_micro_batches, self.size)
                if self.evaluator.recompute(stage, behind, self.size) is not now:
                    return self.num_micro_batches * self.size
        return self.evaluator.global_batch


def _hull(lines: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The lines that are the largest somewhere at one or more micro-batches, roughly."""
    kept: list[tuple[float, float]] = []
    for offset, slope in sorted(lines, key=lambda line: (-line[1], -line[0])):
        if all(offset + slope > other[0] + other[1] for other in kept):
            kept.append((offset, slope))
    return tuple(kept)


def shape_seconds(shape: Shape, num_samples: int) -> float:
    """Time of a shape; a little optimistic."""
    num_micro_batches = num_samples / shape.micro_batch_size
    if num_micro_batches <= 1:
        return num_micro_batches * max(offset + slope for offset, slope in shape.lines)
    return max(offset + num_micro_batches * slope for offset, slope in shape.lines)


def shape_samples(shape: Shape, seconds: float) -> float:
    """Samples that a shape computes in some time; the inverse of `shape_seconds`."""
    one = max(offset + slope for offset, slope in shape.lines)
    if seconds <= one:
        return shape.micro_batch_size * seconds / one
    samples = shape.micro_batch_size * min(
        (seconds - offset) / slope for offset, slope in shape.lines if slope > 0
    )
    return min(samples, shape.most_samples)

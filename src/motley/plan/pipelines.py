"""The best pipelines of every set of chips: which chips, in which order, with which layers.

A pipeline is built from its last stage backwards. That is where the schedule fixes how many
micro-batches a stage keeps, so memory is checked exactly while building. For a given number m of
micro-batches the time from any stage on is max(m x its own work, its work + the time behind it);
the best few of each (chips used, first layer) are kept. Splits that leave so much of the chips'
speed unused that no other choice could make up for it, or that take too long, are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from motley.plan.choices import StageChoice
from motley.plan.classes import ChipClasses, Counts
from motley.plan.evaluate import Evaluator
from motley.plan.shapes import Shape, ShapeMaker

State = tuple[Counts, int, int]
"""Chips used, first layer, and the class of the first stage where links differ (else -1)."""


class Goal(NamedTuple):
    """What pipelines are built for."""

    micro_batch_size: int
    num_micro_batches: int
    exchange: float
    """Weight of the gradients' exchange, 2(n-1)/n for n replicas; 0 leaves it out."""
    beam: int
    """Pipelines kept for each state."""
    slack_flops_per_s: float
    """Speed that may stay unused."""
    limit_s: float
    """Pipelines that take longer are dropped."""


class _Option(NamedTuple):
    """A stage that fits."""

    stage: StageChoice
    forward_s: float
    backward_s: float
    exchange_s: float
    useful_flops: float
    """Of one micro-batch, from the stage's first layer to the end."""


class _Partial(NamedTuple):
    """The stages from some layer to the end."""

    score: float
    time_s: float
    """From the first forward to the end of the last backward of the first of the stages."""
    exchanged_s: float
    """From the same moment to the end of the exchange of all their gradients."""
    chip: int
    work_s: float
    bottleneck_s: float
    speed: float
    """FLOP/s of its chips."""
    stage: StageChoice
    rest: _Partial | None

    def stages(self) -> tuple[StageChoice, ...]:
        """The stages in order."""
        listed: list[StageChoice] = []
        node: _Partial | None = self
        while node is not None:
            listed.append(node.stage)
            node = node.rest
        return tuple(listed)


class PipelineSearch:
    """Finds the best pipelines for one goal."""

    def __init__(
        self, evaluator: Evaluator, classes: ChipClasses, maker: ShapeMaker, goal: Goal
    ) -> None:
        self.evaluator = evaluator
        self.classes = classes
        self.maker = maker
        self.goal = goal
        self.speeds = [chip.training_flops_per_s for chip in evaluator.chips]
        flops = evaluator.sample_flops()
        self.flops_from = [
            goal.micro_batch_size * sum(flops[layer:]) for layer in range(evaluator.num_layers)
        ]
        chips = range(len(self.speeds))
        self.messages = [
            [evaluator.edge_seconds(first, second, goal.micro_batch_size) for second in chips]
            for first in chips
        ]

    def run(self) -> Iterator[tuple[Counts, Shape]]:
        """Whole pipelines with the chips they use."""
        totals = self.classes.totals
        none: Counts = tuple(0 for _ in totals)
        end = self.evaluator.num_layers
        level: dict[State, list[_Partial]] = {(none, end, -1): []}
        for num_stages in range(1, min(sum(totals), end) + 1):
            level = self._extend(level, num_stages)
            for used, first, head in [state for state in level if state[1] == 0]:
                for partial in level.pop((used, first, head)):
                    yield used, self._shape(partial)

    def _shape(self, partial: _Partial) -> Shape:
        goal = self.goal
        return self.maker.shape(partial.stages(), goal.micro_batch_size, goal.num_micro_batches)

    def _extend(
        self, level: dict[State, list[_Partial]], num_stages: int
    ) -> dict[State, list[_Partial]]:
        """One stage more in front of every partial pipeline."""
        found: dict[State, list[_Partial]] = {}
        kept = min(num_stages, self.goal.num_micro_batches)
        options: dict[tuple[int, int], list[_Option]] = {}
        for (used, end, _), partials in level.items():
            for chip, total in enumerate(self.classes.totals):
                if used[chip] == total:
                    continue
                fitting = options.get((chip, end))
                if fitting is None:
                    fitting = options[chip, end] = self._fitting(chip, end, kept)
                now = (*used[:chip], used[chip] + 1, *used[chip + 1 :])
                head = -1 if self.classes.uniform else chip
                for option in fitting:
                    into = found.setdefault((now, option.stage.first_layer, head), [])
                    if num_stages == 1:
                        self._begin(into, option)
                    else:
                        self._put_before(into, option, partials)
        return {state: partials for state, partials in found.items() if partials}

    def _fitting(self, chip: int, end: int, kept: int) -> list[_Option]:
        """Every stage of the chip that ends at `end` and fits."""
        listed = []
        size = self.goal.micro_batch_size
        for first in range(end):
            stage = StageChoice(chip, first, end)
            recompute = self.evaluator.recompute(stage, kept, size)
            if recompute is None:
                continue
            forward, backward = self.evaluator.pass_seconds(stage, size, recompute)
            exchange = self.goal.exchange * self.maker.exchange_seconds(stage)
            listed.append(_Option(stage, forward, backward, exchange, self.flops_from[first]))
        return listed

    def _begin(self, into: list[_Partial], option: _Option) -> None:
        """The last stage of a pipeline."""
        stage, forward, backward, exchange, useful = option
        work = forward + backward
        time = self.goal.num_micro_batches * work
        speed = self.speeds[stage.chip]
        exchanged = time - backward + exchange
        score = max(time, exchanged)
        if work > 0 and speed - useful / work > self.goal.slack_flops_per_s:
            return
        if score <= self.goal.limit_s:
            self._keep(
                into,
                _Partial(score, time, exchanged, stage.chip, work, work, speed, stage, None),
            )

    def _put_before(self, into: list[_Partial], option: _Option, partials: list[_Partial]) -> None:
        """One stage in front of others. Adjacent stages also wait for each other's messages."""
        stage, forward, backward, exchange, useful = option
        work = forward + backward
        count, beam = self.goal.num_micro_batches, self.goal.beam
        slack, limit = self.goal.slack_flops_per_s, self.goal.limit_s
        messages, own_speed = self.messages[stage.chip], self.speeds[stage.chip]
        for rest in partials:
            send, latency = messages[rest.chip]
            one_way = send + latency
            behind = work + 2 * one_way
            pair = (behind + rest.work_s) / 2
            time = max(count * work, count * pair, count * send, behind + rest.time_s)
            exchanged = max(time - backward + exchange, forward + one_way + rest.exchanged_s)
            score = time if time > exchanged else exchanged
            if score > limit or (len(into) == beam and score >= into[-1].score):
                continue
            speed = own_speed + rest.speed
            bottleneck = max(rest.bottleneck_s, work, pair, send)
            if bottleneck > 0 and speed - useful / bottleneck > slack:
                continue
            self._keep(
                into,
                _Partial(score, time, exchanged, stage.chip, work, bottleneck, speed, stage, rest),
            )

    def _keep(self, into: list[_Partial], partial: _Partial) -> None:
        position = len(into)
        while position and into[position - 1].score > partial.score:
            position -= 1
        into.insert(position, partial)
        if len(into) > self.goal.beam:
            into.pop()

"""The engine of one rank: runs its stage's part of a step, and the validation, under any plan.

A step: the 1F1B schedule of the rank's replica; each bucket of gradients is reduced as soon as the
last backward has completed it; one exchange of figures; one update of a gradient that is scaled by
the true number of targets and clipped over the whole model.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from motley.chips.runtime import Runtime
from motley.data.batches import SampleSource
from motley.model.counts import parameter_groups
from motley.model.stream import carried_width
from motley.optim.average import TailAverage
from motley.optim.optimizer import Optimizer
from motley.plan.plan import Placement
from motley.plan.stack import MOTLEY
from motley.plan.timing.schedule import one_forward_one_backward
from motley.plan.timing.sync import Bucket, lowest_layer
from motley.recipe import Recipe
from motley.train.channel import ReductionClock
from motley.train.checkpoint import LiveState
from motley.train.edges import Receiver, Sender
from motley.train.exchange import RankReport, exchange
from motley.train.health import LossWatch
from motley.train.parameters import StageParameters
from motley.train.reduce import GradientReducer
from motley.train.sampling import TargetSampler
from motley.train.scaling import LossScale
from motley.train.share import Share, share_of
from motley.train.stage import StageRunner
from motley.train.timing import SpanKind, StepTimer


@dataclass(frozen=True)
class Edges:
    """The ends of the pipeline's edges at this rank; None where the pipeline ends."""

    inputs: Receiver | None = None
    outputs: Sender | None = None
    output_gradients: Receiver | None = None
    input_gradients: Sender | None = None


@dataclass(frozen=True)
class StepResult:
    """What a step gave; the same on every rank, but for `spans`."""

    loss: float
    """Nats per target."""
    gradient_norm: float
    learning_rate: float
    num_targets: int
    step_s: float
    stop: bool
    reports: list[RankReport]
    spans: list[tuple[SpanKind, int | None, float, float]]


@dataclass
class Engine:
    """All parts of one rank, put together by `assemble.build_engine`."""

    recipe: Recipe
    placement: Placement
    runtime: Runtime
    parameters: StageParameters
    runner: StageRunner
    edges: Edges
    buckets: tuple[Bucket, ...]
    reducer: GradientReducer
    optimizer: Optimizer
    average: TailAverage
    control: dist.ProcessGroup | None
    clock: ReductionClock
    scale: LossScale
    watch: LossWatch
    targets: TargetSampler
    answers_for: tuple[int, ...]
    """Parameter groups whose norm and checkpoint this rank answers for."""
    timer: StepTimer
    _began: float = 0.0
    _pending: dict[int, int] = field(default_factory=dict)
    """Bucket to the layer of this rank that completes it in the last backward."""
    _communication_s: float = 0.0
    """Of the step before: this step's ends only after the exchange that reports it."""

    @property
    def live(self) -> LiveState:
        """All that this rank trains."""
        return LiveState(self.parameters, self.optimizer, self.average)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the weights are the mean of the last ones."""
        with self.average.in_place():
            self.parameters.refresh()
            yield
        self.parameters.refresh()

    @property
    def answered_names(self) -> list[str]:
        """Parameters that this rank alone saves and hands out."""
        names = self.parameters.group_names
        dense = [name for group in self.answers_for for name in names[group]]
        return [*dense, *self.parameters.tables.answered]

    def align(self) -> None:
        """All ranks meet; the chips' clocks are set to the latest."""
        reports, _ = exchange(RankReport(clock=self.runtime.now()), {}, 0, self.control)
        self.runtime.wait_until(max(report.clock for report in reports))
        self._began = self._set_clock()
        self.timer.begin()

    def _set_clock(self) -> float:
        moment = max(self.runtime.now(), time.monotonic())
        self.runtime.align(moment)
        return moment

    def train_step(self, step: int, source: SampleSource, *, rate: float, stop: bool) -> StepResult:
        """One update on the samples of step `step` (from 0), at learning rate `rate`.

        `DivergedError` if the loss is not finite or far too high for long.
        """
        share = share_of(self.recipe, self.placement, step)
        with self.targets.sampling(step, source):
            loss_sum, num_targets = self._pipeline(share, source)
        with self.timer.span("sync"):
            self.reducer.finish()
            self.parameters.tables.reduce()
            squared_norm = self._squared_norm()
            self.runtime.synchronize()
            report = self._report(share, loss_sum, num_targets, squared_norm, stop)
            reports, ready = exchange(report, self.reducer.ready, len(self.buckets), self.control)
            self.runtime.wait_until(self.clock.barrier(reports, ready))
        self.runtime.synchronize()
        spans = self.timer.spans()
        totals = self.timer.totals()
        now = self._set_clock()
        step_s, self._began = now - self._began, now
        self.timer.begin()
        with self.timer.span("optimizer"):
            norm = self._update(reports, rate, step)
        self._communication_s = totals["sync"]
        targets = sum(report.num_targets for report in reports)
        loss = sum(report.loss_sum for report in reports) / max(targets, 1.0)
        self.watch.look(
            step,
            loss,
            norm,
            rate / self.recipe.optimizer.learning_rate,
            skips=self.scale.is_dynamic,
        )
        return StepResult(
            loss=loss,
            gradient_norm=norm,
            learning_rate=rate,
            num_targets=int(targets),
            step_s=step_s,
            stop=any(report.stop for report in reports),
            reports=reports,
            spans=spans,
        )

    def _pipeline(self, share: Share, source: SampleSource) -> tuple[float, float]:
        replica, place = self.placement.replica, self.placement
        num_micro_batches = share.num_micro_batches
        if self.edges.inputs:
            self.edges.inputs.expect(self._shapes(share, place.stage.first_layer))
        if self.edges.output_gradients:
            self.edges.output_gradients.expect(self._shapes(share, place.stage.last_layer))
        self.reducer.start_step()
        self._pending = self._completing_layers()
        losses: list[Tensor] = []
        targets: dict[int, Tensor | None] = {}
        schedule = one_forward_one_backward(place.position, len(replica.stages), num_micro_batches)
        num_targets = 0.0
        for action in schedule:
            if action.kind == "forward":
                tokens, targets[action.micro_batch] = self._load(share, action.micro_batch, source)
                output = self._forward(action.micro_batch, tokens, targets[action.micro_batch])
                if place.is_last:
                    losses.append(output)
                    num_targets += _count(targets[action.micro_batch])
            else:
                last = action.micro_batch == num_micro_batches - 1
                self._backward(action.micro_batch, targets.pop(action.micro_batch), last=last)
        if not num_micro_batches:
            for layer in reversed(place.stage.layers):
                self._layer_done(layer)
        for sender in (self.edges.outputs, self.edges.input_gradients):
            if sender:
                sender.finish()
        loss_sum = float(torch.stack(losses).double().sum()) if losses else 0.0
        return loss_sum, num_targets

    def _shapes(self, share: Share, layer: int) -> list[tuple[int, int, int]]:
        """Of the messages that pass before `layer` in a step."""
        return share.shapes(carried_width(self.recipe.model, layer))

    def _load(
        self, share: Share, micro_batch: int, source: SampleSource
    ) -> tuple[Tensor | None, Tensor | None]:
        """Tokens, if the stage is the first, and targets, if it is the last."""
        place, device = self.placement, self.runtime.device
        if not place.is_first and not place.is_last:
            return None, None
        tokens, targets = (
            torch.from_numpy(array).view(-1, share.sequence_length)
            for array in source.batch(share.positions(micro_batch))
        )
        return (
            tokens.to(device) if place.is_first else None,
            targets.to(device) if place.is_last else None,
        )

    def _receive(self, receiver: Receiver | None, micro_batch: int | None) -> Tensor:
        assert receiver is not None
        with self.timer.span("wait", micro_batch):
            return receiver.receive()

    def _forward(self, micro_batch: int, tokens: Tensor | None, targets: Tensor | None) -> Tensor:
        stage_input = (
            tokens if tokens is not None else self._receive(self.edges.inputs, micro_batch)
        )
        with self.timer.span("forward", micro_batch):
            output = self.runner.forward(micro_batch, stage_input, targets)
        if self.edges.outputs:
            self.edges.outputs.send(output)
        return output

    def _backward(self, micro_batch: int, targets: Tensor | None, *, last: bool) -> None:
        if self.placement.is_last:
            factor = self.scale.value / self.recipe.tokens_per_step
            gradient = torch.tensor(factor, device=self.runtime.device)
        else:
            gradient = self._receive(self.edges.output_gradients, micro_batch)
        with self.timer.span("backward", micro_batch):
            passed_on = self.runner.backward(
                micro_batch, gradient, targets, self._layer_done if last else _ignore
            )
        if self.edges.input_gradients:
            assert passed_on is not None
            self.edges.input_gradients.send(passed_on)

    def _completing_layers(self) -> dict[int, int]:
        """The lowest layer of this rank that each of its buckets waits for."""
        stage, groups = self.placement.stage, parameter_groups(self.recipe.model)
        return {
            index: lowest_layer(bucket, groups, stage.first_layer, stage.last_layer)
            for index, bucket in enumerate(self.buckets)
            if self.placement.rank in bucket.ranks
        }

    def _layer_done(self, layer: int) -> None:
        for bucket in [index for index, lowest in self._pending.items() if lowest == layer]:
            del self._pending[bucket]
            self.reducer.begin(bucket)

    def _squared_norm(self) -> float:
        """Of the reduced gradients that this rank answers for, scaled as they are. Those of memory
        tables do not count, as their updates do not depend on their length, unless not finite."""
        if not self.parameters.tables.is_finite():
            return math.inf
        return sum(
            float(torch.linalg.vector_norm(self.parameters.buffers[group])) ** 2
            for group in self.answers_for
        )

    def _report(
        self, share: Share, loss_sum: float, num_targets: float, squared_norm: float, stop: bool
    ) -> RankReport:
        totals = self.timer.totals()
        return RankReport(
            loss_sum=loss_sum,
            num_targets=num_targets,
            squared_norm=squared_norm,
            stop=float(stop),
            clock=self.runtime.now(),
            compute_s=totals["forward"] + totals["backward"],
            wait_s=totals["wait"],
            communication_s=self._communication_s,
            optimizer_s=totals["optimizer"],
            memory_bytes=self.runtime.peak_memory_bytes(),
            samples=float(len(share.samples)),
        )

    def _update(self, reports: list[RankReport], rate: float, step: int) -> float:
        """Scales, clips and applies the summed gradient; returns its norm before clipping."""
        targets = sum(report.num_targets for report in reports)
        per_target = self.recipe.tokens_per_step / max(targets, 1.0) / self.scale.value
        norm = math.sqrt(sum(report.squared_norm for report in reports)) * per_target
        finite = math.isfinite(norm)
        if finite:
            clip = min(1.0, self.recipe.optimizer.gradient_clip / max(norm, 1e-12))
            for buffer in self.parameters.buffers.values():
                buffer.mul_(per_target * clip)
            self.parameters.tables.scale(per_target)
            self.optimizer.step(rate / self.recipe.optimizer.learning_rate, step)
            self.parameters.refresh()
        self.parameters.clear_gradients()
        self.scale.update(finite=finite)
        self.runtime.spend(0.0, MOTLEY.optimizer_bytes * self.parameters.num_parameters)
        return norm


def _ignore(layer: int) -> None:
    """A layer is done, but its gradients are not complete yet."""


def _count(targets: Tensor | None) -> float:
    return float((targets >= 0).sum()) if targets is not None else 0.0

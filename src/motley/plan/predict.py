"""Predicts the step of a published case: the composition of layers, messages and stages.

Layers give stages, stages a pipeline that is simulated event by event; then the gradients are added
up and the optimizer runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from motley.chips.chip import Chip, Link
from motley.cluster import Spread
from motley.model.config import ModelConfig
from motley.model.counts import ParameterGroup, parameter_groups
from motley.plan.collectives import (
    all_reduce_seconds,
    reached_share,
)
from motley.plan.cost import LayerTime, boundary_bytes, layer_time, optimizer_seconds
from motley.plan.pipeline import PipelineCost, extrapolate_pipeline, gradients_complete
from motley.plan.published_case import Case
from motley.plan.sync import group_exchange_seconds

HIDEABLE = 0.8
"""Share of the last backward pass beside which gradients may travel: the first bucket must be full
before it leaves, and the last cannot leave before the pass ends (arXiv 2006.15704)."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One step, and what it consists of; all in seconds."""

    step_s: float
    pipeline_s: float
    """Passes of all micro-batches, with the pipeline's bubble and messages inside layers."""
    exchange_s: float
    """Of gradients, as far as nothing hides it."""
    optimizer_s: float


class _Stage(NamedTuple):
    """One micro-batch in one stage."""

    forward_s: float
    backward_s: float
    send_s: float
    """Of its output, or the gradient that comes back."""


def predict(case: Case) -> Prediction:
    """The predicted step of a case."""
    total = case.layout.data * case.num_replicas
    pipelines: dict[tuple[int, ...], float] = {}
    for member in range(total):
        kinds = tuple(_kind(case, stage, member) for stage in range(case.num_stages))
        if kinds not in pipelines:
            pipelines[kinds] = _pipeline_seconds([*_stages(case, kinds)], case)
    exchange = _exchange_seconds(case)
    if case.stack.overlap_data:
        slowest = max(_kinds_of_stage(case, case.num_stages - 1))
        backward = _passes(case, case.num_stages - 1, slowest)[1]
        exchange = max(exchange - HIDEABLE * backward, 0.1 * exchange)
    optimizer = max(
        optimizer_seconds(case.chips[kind], _held(case, stage), case.layout, case.stack)
        for stage in range(case.num_stages)
        for kind in _kinds_of_stage(case, stage)
    )
    pipeline = max(pipelines.values())
    return Prediction(
        step_s=pipeline + exchange + optimizer,
        pipeline_s=pipeline,
        exchange_s=exchange,
        optimizer_s=optimizer,
    )


def _kind(case: Case, stage: int, member: int) -> int:
    """The slowest kind of chip of one member of one stage."""
    width = case.layout.tensor * case.context
    per_stage = width * case.layout.data * case.num_replicas
    first = stage * per_stage + member * width
    kinds = {_kind_of_rank(case, rank) for rank in range(first, first + width)}
    return min(kinds, key=lambda kind: case.chips[kind].training_flops_per_s)


def _kind_of_rank(case: Case, rank: int) -> int:
    reached = 0
    for kind, count in enumerate(case.counts):
        reached += count
        if rank < reached:
            return kind
    return len(case.counts) - 1


def _kinds_of_stage(case: Case, stage: int) -> set[int]:
    members = case.layout.data * case.num_replicas
    if len(case.chips) == 1:
        return {0}
    return {_kind(case, stage, member) for member in range(members)}


def _bounds(case: Case, stage: int) -> tuple[int, int]:
    """First and last layer of a stage; the embedding and the head belong to the outer ones."""
    blocks, stages = case.config.layers, case.num_stages
    if case.partition is not None and len(case.partition) == stages + 1:
        first, last = case.partition[stage], case.partition[stage + 1]
    elif case.stack.balance == "layers" and blocks % stages and (blocks + 2) % stages == 0:
        return _even(case.config.num_layers, stages, stage)
    else:
        first, last = _even(blocks, stages, stage)
    return (
        0 if stage == 0 else first + 1,
        case.config.num_layers if stage == stages - 1 else last + 1,
    )


def stage_bounds(case: Case) -> tuple[tuple[int, int], ...]:
    """First and last layer of every stage, in the order of the pipeline."""
    return tuple(_bounds(case, stage) for stage in range(case.num_stages))


def _even(count: int, stages: int, stage: int) -> tuple[int, int]:
    """Bounds of one of `stages` even parts; the first parts have the odd ones."""
    size, odd = divmod(count, stages)
    return stage * size + min(stage, odd), (stage + 1) * size + min(stage + 1, odd)


def _stages(case: Case, kinds: tuple[int, ...]) -> list[_Stage]:
    """The stages of a pipeline; alike ones are worked out once."""
    known: dict[tuple[int, int, bool, bool], tuple[float, float]] = {}
    result = []
    for stage, kind in enumerate(kinds):
        first, last = _bounds(case, stage)
        key = (kind, last - first, first == 0, last == case.config.num_layers)
        if key not in known:
            known[key] = _passes(case, stage, kind)
        crossing = stage + 1 < case.num_stages
        send = _send_seconds(case, case.chips[kind], stage) if crossing else 0.0
        result.append(_Stage(*known[key], send))
    return result


def _passes(case: Case, stage: int, kind: int) -> tuple[float, float]:
    """Forward and backward of one micro-batch."""
    first, last = _bounds(case, stage)
    spread = _spread(case, kind)
    samples = case.micro_batch * case.layout.data
    times: dict[int, LayerTime] = {}
    forward = backward = 0.0
    for layer in range(first, last):
        outer = layer == 0 or layer == case.config.num_layers - 1
        key = layer if outer or case.config.mixture is not None else 1
        if key not in times:
            times[key] = layer_time(
                case.chips[kind],
                case.config,
                layer,
                case.sequence_length,
                samples,
                case.layout,
                spread,
                case.stack,
            )
        forward += times[key].forward_s
        backward += times[key].backward_s
    return forward / case.context, backward / case.context


def _spread(case: Case, kind: int) -> Spread:
    size = case.layout.num_chips
    return Spread(size, min(case.per_node, size), case.local[kind], case.network)


def _send_seconds(case: Case, chip: Chip, stage: int) -> float:
    """One boundary message, with those of the members beside it on the same network."""
    width = case.layout.tensor * case.context
    per_stage = width * case.layout.data * case.num_replicas
    num_bytes = boundary_bytes(
        case.config, case.sequence_length, case.micro_batch, chip.precision, chip.precision
    )
    first = stage * per_stage
    inside = first // case.per_node == (first + per_stage) // case.per_node
    constants = case.stack.constants
    if inside:
        link = case.local[_kind(case, stage, 0)]
        share = reached_share(link, constants)
        rate = link.bandwidth_bytes_per_s * share * case.layout.tensor
        return num_bytes / rate + link.latency_s + constants.collective_s
    beside = max(1, min(case.per_node, per_stage) // width)
    share = reached_share(case.network, constants, between_nodes=True)
    rate = case.network.bandwidth_bytes_per_s * share / beside
    return num_bytes / rate + case.network.latency_s + constants.collective_s


def _pipeline_seconds(stages: list[_Stage], case: Case) -> float:
    """All micro-batches through all stages, event by event.

    Sends hold up the chips, as the blocking sends of Megatron-LM and DeepSpeed do. With several
    stages per group the blocks of each are spread evenly over its stages.
    """
    sends = [0.0, *(stage.send_s for stage in stages)]
    forward = [stage.forward_s / case.virtual + stage.send_s for stage in stages]
    backward = [
        stage.backward_s / case.virtual + before
        for stage, before in zip(stages, sends, strict=False)
    ]
    num_stages = len(stages) * case.virtual
    idle = (0.0,) * num_stages
    cost = PipelineCost(
        start_s=idle,
        forward_s=tuple((seconds, seconds) for seconds in forward * case.virtual),
        backward_s=tuple((seconds, seconds) for seconds in backward * case.virtual),
        send_s=((0.0, 0.0),) * (num_stages - 1),
        latency_s=(0.0,) * (num_stages - 1),
        schedule="interleaved" if case.virtual > 1 else "1f1b",
        devices=tuple(range(len(stages))) * case.virtual if case.virtual > 1 else (),
    )
    count = case.num_micro_batches
    began = extrapolate_pipeline(cost, count)
    return max(gradients_complete(cost, count, began))


def _held(case: Case, stage: int) -> float:
    """Parameters of a stage."""
    return _held_parameters(case.config, *_bounds(case, stage))


@lru_cache(maxsize=4096)
def _held_parameters(config: ModelConfig, first: int, last: int) -> float:
    return float(
        sum(
            group.num_parameters
            for group in _groups(config)
            if any(first <= layer < last for layer in group.layers)
        )
    )


@lru_cache(maxsize=256)
def _groups(config: ModelConfig) -> tuple[ParameterGroup, ...]:
    return parameter_groups(config)


def _exchange_seconds(case: Case) -> float:
    """Gradients of the stage that holds most, and the matrix that first and last stage share."""
    held = max(_held(case, stage) for stage in range(case.num_stages))
    slowest = case.local.index(_slowest_local(case))
    members = group_exchange_seconds(held, case.layout, _spread(case, slowest), case.stack)
    seconds = members + _replicas_exchange(case, held)
    if case.num_stages > 1 and case.config.tied_head:
        seconds += _tied_exchange(case)
    return seconds


def _slowest_local(case: Case) -> Link:
    return min(case.local, key=lambda link: link.bandwidth_bytes_per_s)


def _replicas_exchange(case: Case, held: float) -> float:
    layout = case.layout
    if case.num_replicas == 1:
        return 0.0
    stride = layout.num_chips * case.context
    shared = layout.tensor * (layout.data if layout.sharding == "full" else 1)
    return all_reduce_seconds(
        case.stack.exchange_bytes * held / shared,
        _strided(case, stride, case.num_replicas),
        groups=min(case.per_node, stride),
        constants=case.stack.constants,
    )


def _strided(case: Case, stride: int, size: int) -> Spread:
    """Every `stride`-th chip."""
    per_node = max(1, min(size, case.per_node // stride))
    return Spread(size, per_node, _slowest_local(case), case.network)


def _tied_exchange(case: Case) -> float:
    """The gradient of a tied head, between the first and the last stage.

    Many pairs of chips exchange it at once, and each fills the gaps that the others leave on the
    network: together they reach more of it than one.
    """
    per_stage = case.layout.num_chips * case.num_replicas * case.context
    num_bytes = case.config.vocabulary * case.config.width * case.stack.exchange_bytes
    constants = case.stack.constants
    if per_stage * case.num_stages <= case.per_node:
        local = _slowest_local(case)
        rate = local.bandwidth_bytes_per_s * reached_share(local, constants)
        return num_bytes / case.layout.tensor / rate
    pairs = min(case.per_node, per_stage)
    share = reached_share(case.network, constants, between_nodes=True)
    rate = case.network.bandwidth_bytes_per_s * (1.0 - (1.0 - share) ** pairs)
    return num_bytes / case.layout.tensor * pairs / rate

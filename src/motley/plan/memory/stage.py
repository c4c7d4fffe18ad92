"""How much memory a stage needs at its peak on each of its chips; a hard limit for every plan.

Training state per parameter (Rajbhandari et al., arXiv 1910.02054), what each layer saves for its
backward pass times the micro-batches in flight, what is there only for a moment, and buffers. Where
the order of frees is not known the larger figure counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from motley.model.config import ModelConfig
from motley.model.stream import FIRST_INPUT, FIRST_VALUES, carried, stream_width
from motley.model.table_counts import table_gradient_bytes, table_state_bytes
from motley.plan.layout import Layout
from motley.plan.memory import update
from motley.plan.memory.footprint import MARGIN, context_bytes
from motley.plan.memory.held import Held, held_in_stage, largest_group
from motley.plan.memory.layer_memory import Transient, last_exchange, layer_memory
from motley.plan.memory.state_memory import gradient_bytes, state_bytes, step_bytes
from motley.plan.stack import MOTLEY, Stack
from motley.plan.timing.sync import BUCKET_BYTES, GRADIENT_BYTES
from motley.recipe import Recipe
from motley.units import BYTES_PER_ELEMENT, Precision

ONE_CHIP = Layout()

NVLINK_BYTES_PER_S = 300e9
"""The link inside a node if nothing else is known (NVLink 3)."""


@dataclass(frozen=True)
class StageMemory:
    """Predicted peak of one stage on each of its chips, by part, in bytes.

    `total_bytes` must fit the chip and has the margin.
    """

    state_bytes: int
    """Parameters, gradients and optimizer state."""
    activation_bytes: int
    transient_bytes: int
    buffer_bytes: int
    context_bytes: int = 0
    """Outside the framework's allocator: the device's context, communicators."""
    cached_bytes: int = 0
    """What a caching allocator holds besides while there is room; not in `total_bytes`."""
    margin: float = MARGIN
    """Share added to what is allocated."""

    @property
    def allocated_bytes(self) -> int:
        """All tensors at the peak."""
        return self.state_bytes + self.activation_bytes + self.transient_bytes + self.buffer_bytes

    @property
    def total_bytes(self) -> int:
        return math.ceil(self.allocated_bytes * (1 + self.margin)) + self.context_bytes

    @property
    def reserved_bytes(self) -> int:
        """What the allocator would show as reserved on a chip with room."""
        return self.total_bytes - self.context_bytes + self.cached_bytes


@dataclass(frozen=True)
class _Layers:
    """Sums over the layers of one stage on one chip; bytes are per sample that it computes."""

    held: Held
    largest_group: int
    kept_bytes: float
    transients: tuple[Transient, ...]
    cached_bytes: float


def stage_memory(
    config: ModelConfig,
    sequence_length: int,
    precision: Precision,
    layers: tuple[int, int],
    *,
    num_in_flight: int,
    micro_batch_size: int,
    layout: Layout = ONE_CHIP,
    stack: Stack = MOTLEY,
    accumulates: bool = True,
    link_bytes_per_s: float = NVLINK_BYTES_PER_S,
    recipe: Recipe | None = None,
) -> StageMemory:
    """Peak memory of the layers [first, last) with `num_in_flight` micro-batches kept.

    `micro_batch_size` counts the samples of the whole group. Without `accumulates` a step has one
    micro-batch. `link_bytes_per_s` is that between the group's chips. The update is that of
    `recipe`, or AdamW's.
    """
    first, last = layers
    sums = _sums(config, sequence_length, precision, first, last, layout, stack)
    samples = layout.member_samples(micro_batch_size)
    in_pipeline = first > 0 or last < config.num_layers
    activations = num_in_flight * samples * sums.kept_bytes
    moment = max(each.of(samples) for each in sums.transients)
    end = last_exchange(config, sequence_length, precision, layers, layout, stack)
    taken = step_bytes(sums.held, layout, stack)
    if recipe:
        taken += update.step_bytes(recipe, first, last)
    after = max(taken, end.of(samples))
    moments = update.moment_bytes(recipe, first, last) if recipe else update.MOMENT_BYTES
    state = state_bytes(sums.held, precision, layout, moments)
    gradients = gradient_bytes(sums.held, layout, stack)
    if accumulates or stack.footprint.gradients_stay:
        state += gradients
    else:
        after += gradients
    if first == 0:
        in_step = recipe.tokens_per_step if recipe else samples * sequence_length
        state += table_state_bytes(config)
        state += table_gradient_bytes(config, in_step, samples * sequence_length)
    buffers = (
        _edge_bytes(config, sequence_length, layers, samples, layout, stack)
        + _bucket_bytes(sums, layout, stack)
        + _root_bytes(config, precision, layers, layout, stack)
    )
    passing = max(moment, after - activations)
    allocated = state + activations + passing + buffers
    cached = stack.footprint.cached_share * allocated + samples * sums.cached_bytes
    return StageMemory(
        state_bytes=math.ceil(state),
        activation_bytes=math.ceil(activations),
        transient_bytes=math.ceil(passing),
        buffer_bytes=math.ceil(buffers),
        context_bytes=_context_bytes(layout, stack, in_pipeline, link_bytes_per_s),
        cached_bytes=math.ceil(cached),
        margin=stack.footprint.margin,
    )


def device_memory(parts: Sequence[StageMemory]) -> StageMemory:
    """The peak of chips that hold several (virtual) stages at once.

    One of them runs at a time, so the largest moment counts; the context is there once.
    """
    return StageMemory(
        state_bytes=sum(part.state_bytes for part in parts),
        activation_bytes=sum(part.activation_bytes for part in parts),
        transient_bytes=max(part.transient_bytes for part in parts),
        buffer_bytes=sum(part.buffer_bytes for part in parts),
        context_bytes=max(part.context_bytes for part in parts),
        cached_bytes=max(part.cached_bytes for part in parts),
        margin=max(part.margin for part in parts),
    )


@lru_cache(maxsize=65536)
def _sums(
    config: ModelConfig,
    sequence_length: int,
    precision: Precision,
    first: int,
    last: int,
    layout: Layout,
    stack: Stack,
) -> _Layers:
    kept, cached = 0.0, 0.0
    transients: list[Transient] = []
    beside = _carried_bytes(config, sequence_length, precision, (first, last), layout)
    for layer, count in _kinds(config, first, last):
        memory = layer_memory(config, layer, sequence_length, precision, layout, stack)
        kept += count * memory.saved_bytes
        cached += count * memory.cached_bytes
        transients += memory.transients
    return _Layers(
        held=held_in_stage(config, first, last),
        largest_group=largest_group(config, first, last),
        kept_bytes=kept + memory.output_bytes + beside,
        transients=tuple(transients),
        cached_bytes=cached,
    )


def _carried_bytes(
    config: ModelConfig,
    sequence_length: int,
    precision: Precision,
    layers: tuple[int, int],
    layout: Layout,
) -> int:
    """What a stage keeps once for all of its blocks, beside the residual stream. It came with the
    message, or from the first layers, where the first block keeps a part of it itself. A stage that
    begins with the first block is given a little too much, as all of its kind are alike."""
    first, last = layers
    if last == 1 or first == config.num_layers - 1:
        return 0
    width = stream_width(config) - config.width
    if first == 0:
        pieces = carried(config, 2)
        own = (FIRST_INPUT,) if layout.recompute == "full" else (FIRST_INPUT, FIRST_VALUES)
        width -= sum(pieces.get(piece, 0) for piece in own)
    return sequence_length * width * BYTES_PER_ELEMENT[precision]


def _kinds(config: ModelConfig, first: int, last: int) -> list[tuple[int, int]]:
    """One layer of each kind in [first, last) and how many there are, in the order of layers."""
    if config.tables is not None and config.tables.value_blocks:
        return [(layer, 1) for layer in range(first, last)]
    dense = config.mixture.leading_dense_layers if config.mixture else config.layers
    bounds = (0, 1, 1 + dense, 1 + config.layers, config.num_layers)
    kinds = []
    for begin, end in pairwise(bounds):
        low, high = max(begin, first), min(end, last)
        if low < high:
            kinds.append((low, high - low))
    return kinds


def _edge_bytes(
    config: ModelConfig,
    sequence_length: int,
    layers: tuple[int, int],
    samples: int,
    layout: Layout,
    stack: Stack,
) -> float:
    """Messages from and to the stages before and behind."""
    edges = (layers[0] > 0) + (layers[1] < config.num_layers)
    split = layout.tensor if stack.sequence_parallel else 1
    width = stream_width(config)
    return edges * stack.footprint.edge_bytes * samples * sequence_length * width / split


def _bucket_bytes(sums: _Layers, layout: Layout, stack: Stack) -> float:
    """Buffers in which gradients travel: no larger than all of them."""
    bucket = stack.footprint.bucket_bytes
    if bucket is None:
        bucket = max(BUCKET_BYTES, GRADIENT_BYTES * sums.largest_group)
    elif layout.data == 1:
        return 0.0
    return min(bucket, stack.exchange_bytes * sums.held.on_chip(layout))


def _root_bytes(
    config: ModelConfig,
    precision: Precision,
    layers: tuple[int, int],
    layout: Layout,
    stack: Stack,
) -> float:
    """Fully-sharded: matrices of embedding and head that stay gathered, a tied one once."""
    if layout.sharding != "full" or not stack.footprint.keeps_root:
        return 0.0
    ends = (layers[0] == 0) + (layers[1] == config.num_layers)
    matrices = min(ends, 1) if config.tied_head else ends
    matrix = config.vocabulary * config.embedding_size / layout.tensor
    return BYTES_PER_ELEMENT[precision] * matrices * matrix


def _context_bytes(layout: Layout, stack: Stack, in_pipeline: bool, link_bytes_per_s: float) -> int:
    """Tensor, data and pipeline groups have a communicator each."""
    if not stack.footprint.has_context:
        return 0
    groups = (layout.tensor > 1) + (layout.data > 1) + in_pipeline
    return round(context_bytes(groups, link_bytes_per_s))

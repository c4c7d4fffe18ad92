"""How much memory a stage needs at its peak on each of its chips; a hard limit for every plan.

Training state per parameter (Rajbhandari et al., arXiv 1910.02054), what each layer saves for its
backward pass times the micro-batches in flight, what is there only for a moment, and buffers. Where
the order of frees is not known the larger figure counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

from motley.model.config import ModelConfig
from motley.model.stream import FIRST_INPUT, FIRST_VALUES, carried, stream_width
from motley.model.table_counts import table_gradient_bytes, table_state_bytes
from motley.plan.layout import Layout
from motley.plan.memory import update
from motley.plan.memory.footprint import CONTEXT_BYTES, communicator_bytes
from motley.plan.memory.held import Held, held_in_stage, largest_group
from motley.plan.memory.layer_memory import Transient, last_exchange, layer_memory
from motley.plan.memory.peak import StageMemory, StageNeeds
from motley.plan.memory.state_memory import gradient_bytes, state_bytes, step_bytes
from motley.plan.stack import MOTLEY, Stack
from motley.plan.timing.sync import BUCKET_BYTES, GRADIENT_BYTES
from motley.recipe import Recipe
from motley.units import BYTES_PER_ELEMENT, Precision

ONE_CHIP = Layout()

NVLINK_BYTES_PER_S = 300e9
"""The link inside a node if nothing else is known of other software's chips (NVLink 3)."""


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
    link_bytes_per_s: float | None = None,
    recipe: Recipe | None = None,
) -> StageMemory:
    """Peak memory of the layers [first, last) with `num_in_flight` micro-batches kept.

    `micro_batch_size` counts the samples of the whole group. Without `accumulates` a step has one
    micro-batch. `link_bytes_per_s` is that between the group's chips, where these have a collective
    library. The update is that of `recipe`, or AdamW's.
    """
    needs = stage_needs(
        config,
        sequence_length,
        precision,
        layers,
        layout=layout,
        stack=stack,
        accumulates=accumulates,
        link_bytes_per_s=link_bytes_per_s,
        recipe=recipe,
    )
    return needs.peak(num_in_flight, layout.member_samples(micro_batch_size))


def stage_needs(
    config: ModelConfig,
    sequence_length: int,
    precision: Precision,
    layers: tuple[int, int],
    *,
    layout: Layout,
    stack: Stack,
    accumulates: bool = True,
    link_bytes_per_s: float | None = None,
    recipe: Recipe | None = None,
) -> StageNeeds:
    """What `stage_memory` follows from, whatever the micro-batches and their number."""
    first, last = layers
    sums = _sums(config, sequence_length, precision, first, last, layout, stack)
    taken = step_bytes(sums.held, layout, stack)
    if recipe:
        taken += update.step_bytes(recipe, first, last)
    moments = update.moment_bytes(recipe, first, last) if recipe else update.MOMENT_BYTES
    gradients = gradient_bytes(sums.held, layout, stack)
    stays = accumulates or stack.footprint.gradients_stay
    has_tables = first == 0 and config.tables is not None
    return StageNeeds(
        state_bytes=state_bytes(sums.held, precision, layout, moments) + gradients * stays,
        table_bytes=partial(_table_bytes, config, sequence_length, recipe) if has_tables else None,
        kept_bytes=sums.kept_bytes,
        transients=sums.transients,
        taken_bytes=taken,
        last_exchange=last_exchange(config, sequence_length, precision, layers, layout, stack),
        late_gradient_bytes=gradients * (not stays),
        edge_bytes=_edge_bytes(config, sequence_length, layers, layout, stack),
        buffer_bytes=_bucket_bytes(sums, layout, stack)
        + _root_bytes(config, precision, layers, layout, stack),
        context_bytes=context_bytes(
            layout, stack, first > 0 or last < config.num_layers, link_bytes_per_s
        ),
        cached_bytes=sums.cached_bytes,
        cached_share=stack.footprint.cached_share,
        margin=stack.footprint.margin,
    )


def _table_bytes(
    config: ModelConfig, sequence_length: int, recipe: Recipe | None, samples: int
) -> float:
    """Tables in memory and their gradients, with so many samples of a micro-batch on the chip."""
    at_once = samples * sequence_length
    in_step = recipe.tokens_per_step if recipe else at_once
    return table_state_bytes(config) + table_gradient_bytes(config, in_step, at_once)


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
    layout: Layout,
    stack: Stack,
) -> float:
    """Messages of one sample from and to the stages before and behind."""
    edges = (layers[0] > 0) + (layers[1] < config.num_layers)
    split = layout.tensor if stack.sequence_parallel else 1
    width = stream_width(config)
    return edges * stack.footprint.edge_bytes * sequence_length * width / split


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


def context_bytes(
    layout: Layout, stack: Stack, in_pipeline: bool, link_bytes_per_s: float | None
) -> int:
    """Outside the framework's allocator. Tensor, data and pipeline groups have a communicator each.

    motley's chips have theirs where a library joins a group's: what the probe found free, or the
    catalog quotes, is without them.
    """
    groups = (layout.tensor > 1) + (layout.data > 1) + in_pipeline
    if stack.footprint.has_context:
        return round(
            CONTEXT_BYTES + communicator_bytes(groups, link_bytes_per_s or NVLINK_BYTES_PER_S)
        )
    if link_bytes_per_s is None or layout.num_chips == 1:
        return 0
    return round(communicator_bytes(groups, link_bytes_per_s))

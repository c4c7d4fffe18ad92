"""How much memory a stage needs at its peak; a hard limit for every plan.

The parts follow what the trainer keeps: training state per parameter, what each layer saves for its
backward times the micro-batches in flight, and what is there only for a moment. Where the order of
frees is not known the larger figure counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from motley.model.config import ModelConfig
from motley.model.counts import ParameterGroup, parameter_groups
from motley.plan.cost import counts_of
from motley.plan.sync import BUCKET_BYTES, GRADIENT_BYTES
from motley.units import BYTES_PER_ELEMENT, Precision

MARGIN = 0.03
"""Added to every prediction: allocators round up and fragment."""

STATE_BYTES_PER_PARAMETER: dict[Precision, int] = {"fp32": 16, "bf16": 18, "fp16": 18}
"""fp32 master, gradient and two AdamW moments; 16-bit chips hold a compute copy besides."""

TOKEN_BYTES = 8
"""Token ids are int64."""

BUFFERS_PER_DIRECTION = 2
"""Messages of a boundary that may be under way at once in one direction."""


@dataclass(frozen=True)
class StageMemory:
    """Predicted peak of one stage, by part, in bytes; `total_bytes` has the margin."""

    state_bytes: int
    activation_bytes: int
    transient_bytes: int
    buffer_bytes: int

    @property
    def total_bytes(self) -> int:
        parts = self.state_bytes + self.activation_bytes + self.transient_bytes + self.buffer_bytes
        return math.ceil(parts * (1 + MARGIN))


@dataclass(frozen=True)
class _Layers:
    """Sums over the layers of one stage; bytes are per sample."""

    parameters: int
    largest_group_parameters: int
    saved_bytes: int
    input_bytes: int
    output_bytes: int
    transients: tuple[tuple[int, int], ...]
    """Each layer's temporary bytes while it runs: per sample, and fixed."""
    recomputed_transients: tuple[tuple[int, int], ...]
    """The same with all that the layer saves, which a recomputed one holds only then."""


def held_parameters(config: ModelConfig, first_layer: int, last_layer: int) -> int:
    """Parameters that a stage holds; one that two of its layers share counts once."""
    return sum(
        group.num_parameters
        for group in groups_of(config)
        if any(first_layer <= layer < last_layer for layer in group.layers)
    )


def stage_memory(
    config: ModelConfig,
    sequence_length: int,
    precision: Precision,
    layers: tuple[int, int],
    *,
    num_in_flight: int,
    micro_batch_size: int,
    recompute: bool,
) -> StageMemory:
    """Peak memory of the layers [first, last) with `num_in_flight` micro-batches kept."""
    first, last = layers
    sums = _sums(config, sequence_length, precision, first, last)
    kept = (sums.input_bytes if recompute else sums.saved_bytes) + sums.output_bytes
    transients = sums.recomputed_transients if recompute else sums.transients
    edges = (first > 0) + (last < config.num_layers)
    edge_bytes = sequence_length * config.width * BYTES_PER_ELEMENT["fp32"]
    bucket = max(BUCKET_BYTES, GRADIENT_BYTES * sums.largest_group_parameters)
    return StageMemory(
        state_bytes=STATE_BYTES_PER_PARAMETER[precision] * sums.parameters,
        activation_bytes=num_in_flight * micro_batch_size * kept,
        transient_bytes=max(micro_batch_size * grows + fixed for grows, fixed in transients),
        buffer_bytes=edges * 2 * BUFFERS_PER_DIRECTION * micro_batch_size * edge_bytes
        + min(bucket, GRADIENT_BYTES * sums.parameters),
    )


@lru_cache(maxsize=64)
def groups_of(config: ModelConfig) -> tuple[ParameterGroup, ...]:
    """`parameter_groups`, remembered."""
    return parameter_groups(config)


@lru_cache(maxsize=65536)
def _sums(
    config: ModelConfig, sequence_length: int, precision: Precision, first: int, last: int
) -> _Layers:
    held = [
        group for group in groups_of(config) if any(first <= layer < last for layer in group.layers)
    ]
    counts = [counts_of(config, layer, sequence_length, precision) for layer in range(first, last)]
    before = counts_of(config, first - 1, sequence_length, precision) if first else None
    first_input = before.output_bytes if before else TOKEN_BYTES * sequence_length
    return _Layers(
        parameters=sum(group.num_parameters for group in held),
        largest_group_parameters=max((group.num_parameters for group in held), default=0),
        saved_bytes=sum(count.activation_bytes for count in counts),
        input_bytes=first_input + sum(count.output_bytes for count in counts[:-1]),
        output_bytes=counts[-1].output_bytes,
        transients=tuple({(count.workspace_bytes, count.fixed_bytes) for count in counts}),
        recomputed_transients=tuple(
            {
                (count.workspace_bytes + count.activation_bytes, count.fixed_bytes)
                for count in counts
            }
        ),
    )

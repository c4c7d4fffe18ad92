"""What work costs on a chip: FLOPs and bytes of layers, optimizer and edges, and their seconds.

Every time in the package comes from here: the planner predicts with these functions and the
emulated chips are paced by them, so a better time model has one place to go. Layers are charged
their matmul FLOPs at the chip's training rate; the optimizer is charged its memory traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from motley.chips.chip import Chip
from motley.model.config import ModelConfig
from motley.model.counts import LayerCounts, layer_counts
from motley.units import BYTES_PER_ELEMENT, Precision

OPTIMIZER_BYTES_PER_PARAMETER = 30
"""AdamW reads gradient, master and two moments (16), writes master and moments (12) and the 2-byte
compute copy (2)."""


@dataclass(frozen=True)
class LayerCost:
    """FLOPs of one layer for one sample."""

    forward_flops: float
    backward_flops: float
    """With the repeated forward where the layer is recomputed."""


@lru_cache(maxsize=4096)
def counts_of(
    config: ModelConfig, layer: int, sequence_length: int, precision: Precision
) -> LayerCounts:
    """`layer_counts`, remembered: the search asks for the same few over and over."""
    return layer_counts(config, layer, sequence_length, precision)


def forward_flops(
    config: ModelConfig, layer: int, sequence_length: int, precision: Precision
) -> float:
    """FLOPs of one sample's forward pass through one layer."""
    return counts_of(config, layer, sequence_length, precision).forward_flops


def backward_flops(
    config: ModelConfig, layer: int, sequence_length: int, precision: Precision, recompute: bool
) -> float:
    """FLOPs of one sample's backward pass; recompute runs the forward again (arXiv 1604.06174)."""
    counts = counts_of(config, layer, sequence_length, precision)
    return counts.backward_flops + (counts.forward_flops if recompute else 0.0)


def layer_cost(
    config: ModelConfig, layer: int, sequence_length: int, precision: Precision, recompute: bool
) -> LayerCost:
    """Both passes of one layer, per sample."""
    return LayerCost(
        forward_flops=forward_flops(config, layer, sequence_length, precision),
        backward_flops=backward_flops(config, layer, sequence_length, precision, recompute),
    )


def forward_seconds(
    chip: Chip, config: ModelConfig, layer: int, sequence_length: int, num_samples: int
) -> float:
    """Time of one layer's forward pass on `num_samples` samples."""
    flops = forward_flops(config, layer, sequence_length, chip.precision)
    return chip.seconds(num_samples * flops)


def backward_seconds(
    chip: Chip,
    config: ModelConfig,
    layer: int,
    sequence_length: int,
    num_samples: int,
    recompute: bool,
) -> float:
    """Time of one layer's backward pass on `num_samples` samples."""
    flops = backward_flops(config, layer, sequence_length, chip.precision, recompute)
    return chip.seconds(num_samples * flops)


def optimizer_seconds(chip: Chip, num_parameters: int) -> float:
    """Time of one AdamW update of the parameters that the chip holds."""
    return chip.seconds(0.0, OPTIMIZER_BYTES_PER_PARAMETER * num_parameters)


def boundary_bytes(
    config: ModelConfig,
    sequence_length: int,
    num_samples: int,
    first: Precision,
    second: Precision,
) -> int:
    """Size of the activations (or their gradients) that pass between two stages.

    They travel in the format of both chips where it is the same one, else in fp32.
    """
    bytes_per_element = BYTES_PER_ELEMENT[first if first == second else "fp32"]
    return num_samples * sequence_length * config.width * bytes_per_element

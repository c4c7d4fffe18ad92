"""What work costs on a chip: FLOPs and bytes of layers, optimizer and edges, and their seconds.

Every time in the package comes from here: the planner predicts with these functions and the
emulated chips are paced by them, so a better time model has one place to go. A chip whose layers
were measured, or that is emulated, is charged counted FLOPs at its training rate. A catalog chip
has an `Efficiency` and is charged what its kernels do (`motley.plan.timing.work`): each matrix
product by its shape, attention, passes over memory, and the launch of every kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from motley.chips.chip import Chip
from motley.model.config import ModelConfig
from motley.model.counts import LayerCounts, layer_counts
from motley.model.products import attention_core
from motley.model.stream import carried_width, stream_width
from motley.plan.layout import Layout
from motley.plan.stack import MOTLEY, Stack
from motley.plan.timing.kernels import Engine, engine_of, pass_seconds
from motley.plan.timing.messages import Place, messages_of, sends
from motley.plan.timing.work import LayerWork, Work, layer_work
from motley.units import BYTES_PER_ELEMENT, Precision

if TYPE_CHECKING:
    from motley.cluster import Spread


ALONE = Layout()
"""One chip."""


class LayerTime(NamedTuple):
    """Seconds of one layer for one micro-batch of the whole group."""

    forward_s: float
    backward_s: float
    """All of it, with what recompute repeats and with exposed communication."""
    weight_s: float
    """The part of `backward_s` that makes the gradients of the parameters: zero-bubble schedules
    may delay it."""


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


def layer_time(
    chip: Chip,
    config: ModelConfig,
    layer: int,
    sequence_length: int,
    num_samples: int,
    layout: Layout,
    spread: Spread,
    stack: Stack = MOTLEY,
) -> LayerTime:
    """Time of one layer on a group of chips like `chip` for `num_samples` samples together."""
    samples = layout.member_samples(num_samples)
    alone = member_time(chip, config, layer, sequence_length, samples, layout, stack)
    return with_messages(
        alone, chip, Place(config, layer, sequence_length, samples, layout, spread, stack)
    )


def member_time(
    chip: Chip,
    config: ModelConfig,
    layer: int,
    sequence_length: int,
    samples: int,
    layout: Layout,
    stack: Stack = MOTLEY,
) -> LayerTime:
    """The part of `layer_time` that a chip of one member computes, for the member's samples."""
    if chip.efficiency is None:
        return _counted_time(chip, config, layer, sequence_length, samples, layout)
    return _kernel_time(chip, config, layer, sequence_length, samples, layout, stack)


def member_layout(layout: Layout) -> Layout:
    """A layout for which `member_time` is the same: other members change it only by experts."""
    if layout.expert > 1:
        return layout._replace(sharding="none")
    return Layout(tensor=layout.tensor, recompute=layout.recompute)


def with_messages(alone: LayerTime, chip: Chip, place: Place) -> LayerTime:
    """Work and messages together, hidden where the stack hides them."""
    if not sends(place.layout):
        return alone
    messages = messages_of(chip, place)
    return LayerTime(
        messages.beside_forward(alone.forward_s),
        messages.beside_backward(alone.backward_s),
        alone.weight_s,
    )


def _counted_time(
    chip: Chip, config: ModelConfig, layer: int, length: int, samples: int, layout: Layout
) -> LayerTime:
    """Counted FLOPs at the chip's training rate, shared by the chips of a member."""
    counts = counts_of(config, layer, length, chip.precision)
    again = 0.0
    if layout.recompute == "full":
        again = counts.forward_flops
    elif layout.recompute == "selective":
        core = attention_core(config, layer)
        again = core.forward_flops(length) if core else 0.0
    backward = samples * (counts.backward_flops + again)
    return LayerTime(
        chip.seconds(samples * counts.forward_flops / layout.tensor),
        chip.seconds(backward / layout.tensor),
        chip.seconds(samples * counts.backward_flops / 2 / layout.tensor),
    )


def _kernel_time(
    chip: Chip,
    config: ModelConfig,
    layer: int,
    length: int,
    samples: int,
    layout: Layout,
    stack: Stack,
) -> LayerTime:
    """The sum of the layer's kernels on one chip of a member."""
    element_bytes = BYTES_PER_ELEMENT[chip.precision]
    work = layer_work(config, layer, length, samples, layout, stack, element_bytes)
    engine = engine_of(chip, stack)
    forward = pass_seconds(engine, work.forward)
    weight = pass_seconds(engine, work.weight)
    backward = pass_seconds(engine, work.backward) + weight
    backward += _repeated(engine, work, forward, layout, stack)
    scale = chip.time_scale
    return LayerTime(scale * forward, scale * backward, scale * weight)


def _repeated(
    engine: Engine, work: LayerWork, forward_s: float, layout: Layout, stack: Stack
) -> float:
    """What recompute runs again in the backward pass; the embedding and the head never do."""
    if layout.recompute == "none" or work.core == Work():
        return 0.0
    if layout.recompute == "full":
        return pass_seconds(engine, work.again)
    if stack.selective == "half":
        return forward_s / 2
    return pass_seconds(engine, work.core)


def optimizer_seconds(
    chip: Chip, num_parameters: float, layout: Layout = ALONE, stack: Stack = MOTLEY
) -> float:
    """Time of one update of `num_parameters` that a stage holds, on each chip of its group."""
    shared = layout.tensor * (layout.data if layout.sharding != "none" else 1)
    num_bytes = stack.optimizer_bytes * num_parameters / shared
    if chip.efficiency is None:
        return chip.seconds(0.0, num_bytes)
    rate = chip.memory_bandwidth_bytes_per_s * stack.constants.memory_share
    return chip.time_scale * num_bytes / rate


def boundary_bytes(
    config: ModelConfig,
    sequence_length: int,
    num_samples: int,
    first: Precision,
    second: Precision,
    layer: int | None = None,
) -> int:
    """Size of the activations (or their gradients) that pass between two stages.

    They travel in the format of both chips where it is the same one, else in fp32. `layer` is the
    first behind the boundary; unset means the boundary over which most passes.
    """
    width = stream_width(config) if layer is None else carried_width(config, layer)
    bytes_per_element = BYTES_PER_ELEMENT[first if first == second else "fp32"]
    return num_samples * sequence_length * width * bytes_per_element

"""What the chips of a group send each other in one layer, and what hides it.

Tensor parallelism adds up the products of each half of a block (Megatron-LM, arXiv 1909.08053), or
with sequence parallelism gathers before and scatters after it (arXiv 2205.05198), which moves as
much. Experts take the tokens of other chips. Fully-sharded members gather parameters before a layer
and scatter its gradients after (ZeRO-3, arXiv 1910.02054).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from motley.chips.chip import Chip
from motley.model.config import ModelConfig
from motley.model.products import attention_core
from motley.plan.layout import Layout
from motley.plan.stack import Stack
from motley.plan.timing.collectives import (
    all_gather_seconds,
    all_to_all_seconds,
    member_spread,
    reduce_scatter_seconds,
    tensor_spread,
)
from motley.plan.timing.work import layer_work
from motley.units import BYTES_PER_ELEMENT

if TYPE_CHECKING:
    from motley.cluster import Spread

FP8_BYTES = 1


class Place(NamedTuple):
    """One layer of a model on a group of chips."""

    config: ModelConfig
    layer: int
    sequence_length: int
    num_samples: int
    """Of one member."""
    layout: Layout
    spread: Spread
    stack: Stack


class Messages(NamedTuple):
    """Seconds of a layer's collectives for one micro-batch."""

    tensor_forward_s: float
    """Exposed: nothing else happens meanwhile."""
    tensor_backward_s: float
    data_forward_s: float
    """Of sharded parameters, which may travel while layers compute."""
    data_backward_s: float
    overlap_data: bool
    slowdown: float
    """Share of hidden messages' time by which the work that hides them grows: collectives take
    compute units and memory bandwidth (Galvatron measures 0.1 to 0.3)."""

    def beside_forward(self, work_s: float) -> float:
        """The forward pass with its messages."""
        return self._beside(work_s + self.tensor_forward_s, self.data_forward_s)

    def beside_backward(self, work_s: float) -> float:
        """The backward pass with its messages."""
        return self._beside(work_s + self.tensor_backward_s, self.data_backward_s)

    def _beside(self, work_s: float, message_s: float) -> float:
        if not self.overlap_data:
            return work_s + message_s
        return max(work_s, message_s) + self.slowdown * min(work_s, message_s)


def sends(layout: Layout) -> bool:
    """Whether chips laid out so have messages in each layer."""
    sharded = layout.sharding == "full" and layout.data > 1
    return layout.tensor > 1 or layout.expert > 1 or sharded


def messages_of(chip: Chip, place: Place) -> Messages:
    """The messages of one layer on chips like `chip`."""
    layout, stack = place.layout, place.stack
    forward, backward = 0.0, 0.0
    if layout.tensor > 1:
        forward, backward = _tensor_seconds(chip, place)
    if layout.expert > 1:
        dispatch = _dispatch_seconds(chip, place)
        forward += dispatch
        backward += dispatch * (2 if layout.recompute == "full" else 1)
    data = (0.0, 0.0)
    if layout.sharding == "full" and layout.data > 1:
        data = _sharded_seconds(chip, place)
    return Messages(
        tensor_forward_s=forward,
        tensor_backward_s=backward,
        data_forward_s=data[0],
        data_backward_s=data[1],
        overlap_data=stack.overlap_data,
        slowdown=0.0 if chip.efficiency is None else stack.constants.overlap_slowdown,
    )


def _stream_bytes(chip: Chip, place: Place) -> float:
    """The residual stream of one member's micro-batch."""
    elements = place.num_samples * place.sequence_length * place.config.width
    return float(elements * BYTES_PER_ELEMENT[chip.precision])


def _tensor_seconds(chip: Chip, place: Place) -> tuple[float, float]:
    """A gather before and a scatter after each half of a block, forward and backward."""
    layout, stack = place.layout, place.stack
    members = tensor_spread(place.spread, layout.tensor)
    stream_bytes = _stream_bytes(chip, place)
    scatter = reduce_scatter_seconds(stream_bytes, members, constants=stack.constants)
    gather = scatter
    if chip.precision == "fp8" and stack.sequence_parallel and stack.fp8_scaling != "row":
        # The gathered inputs go into fp8 products, so they travel in fp8.
        share = FP8_BYTES / BYTES_PER_ELEMENT[chip.precision]
        gather = all_gather_seconds(share * stream_bytes, members, constants=stack.constants)
    halves, again = 1, 0.0
    if attention_core(place.config, place.layer) is not None:
        halves = 2
        if stack.sequence_parallel:
            # Inputs that were split along the sequence are gathered again for the gradients by
            # the parameters.
            again += 2 * gather
        if layout.recompute == "full":
            # A repeat that stops early leaves out the last scatter.
            again += 2 * gather + (1 if stack.stops_early else 2) * scatter
    once = halves * (gather + scatter)
    exposed = _exposed_share(stack, layout)
    return exposed * once, exposed * (once + again)


def _exposed_share(stack: Stack, layout: Layout) -> float:
    """Of the messages of tensor parallelism, what no product hides."""
    return {
        "none": 1.0,
        "async": 1.0 - stack.constants.tensor_hidden,
        "ring": 1.0 / layout.tensor,
    }[stack.overlap_tensor]


def _dispatch_seconds(chip: Chip, place: Place) -> float:
    """Tokens to their experts and back: two all-to-alls of what each token sends."""
    layout, spread, mixture = place.layout, place.spread, place.config.mixture
    if mixture is None or not place.config.has_experts(place.layer):
        return 0.0
    width = max(1, min(layout.tensor, layout.num_chips // layout.expert))
    members = spread._replace(
        num_chips=layout.expert, per_node=max(1, min(layout.expert, spread.per_node // width))
    )
    # With tensor parallelism each chip sends its share of the member's tokens.
    sent = _stream_bytes(chip, place) * mixture.experts_per_token / layout.tensor
    return 2 * all_to_all_seconds(sent, members, groups=width, constants=place.stack.constants)


def _sharded_seconds(chip: Chip, place: Place) -> tuple[float, float]:
    """Parameters gathered for each pass, gradients scattered after the backward pass."""
    layout, stack = place.layout, place.stack
    element_bytes = BYTES_PER_ELEMENT[chip.precision]
    work = layer_work(
        place.config, place.layer, place.sequence_length, 1, layout, stack, element_bytes
    )
    members = member_spread(place.spread, layout.tensor, layout.data)
    gather = all_gather_seconds(
        work.parameters * element_bytes, members, groups=layout.tensor, constants=stack.constants
    )
    scatter = reduce_scatter_seconds(
        work.parameters * stack.exchange_bytes,
        members,
        groups=layout.tensor,
        constants=stack.constants,
    )
    return gather, gather + scatter

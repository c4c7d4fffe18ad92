"""What one layer keeps between its passes, and what it needs while it runs, on one chip of a group.

The kept tensors are those of `motley.model.activations`, changed by what the framework does
otherwise (scores of unfused attention, dropout masks, copies) and split as Megatron-LM splits them:
by tensor parallelism inside attention and MLP, outside of them only with sequence parallelism
(Korthikanti et al., arXiv 2205.05198, whose 34 + 5as/h bytes per token and width this gives for GPT
in 16 bits).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from motley.model.activations import FP32_BYTES, INT64_BYTES, Kept, layer_activations
from motley.model.config import ModelConfig
from motley.model.counts import LayerCounts
from motley.model.products import layer_products
from motley.plan.layout import Layout
from motley.plan.memory.held import held_in_layer
from motley.plan.stack import Stack
from motley.plan.timing.cost import counts_of
from motley.units import BYTES_PER_ELEMENT, Precision

MASK_BYTES = 1
"""A dropout mask is a boolean per element."""

LATE_LOGIT_BYTES = 2
"""Per logit: what the loss's peak in the backward pass has over the one in the forward pass."""

SCORE_GRADIENTS = 2
"""Unfused attention's backward pass has the gradients of the softmax's output and input at once."""


class Transient(NamedTuple):
    """Bytes that are there for a moment: for each sample that the chip computes, and regardless."""

    per_sample_bytes: float
    fixed_bytes: float

    def of(self, samples: int) -> float:
        return samples * self.per_sample_bytes + self.fixed_bytes


@dataclass(frozen=True)
class LayerMemory:
    """Bytes of one layer for one sample that the chip computes."""

    saved_bytes: float
    """From forward to backward, with the layout's recompute; the layer's input is in it."""
    output_bytes: float
    transients: tuple[Transient, ...]
    """Peaks at different moments, of which the largest counts."""
    cached_bytes: float
    """Freed, but still held by a caching allocator."""


class _Saved(NamedTuple):
    """One kept tensor of one sample on one chip."""

    num_bytes: float
    is_scores: bool = False


@lru_cache(maxsize=16384)
def layer_memory(
    config: ModelConfig,
    layer: int,
    sequence_length: int,
    precision: Precision,
    layout: Layout,
    stack: Stack,
) -> LayerMemory:
    """The memory of one layer on one chip of a group laid out so, without what it always holds."""
    view = _View(config, layer, sequence_length, precision, layout, stack)
    everything = sum(saved.num_bytes for saved in view.saved())
    kept = view.kept(everything)
    repeated = 0.0 if kept == everything else everything
    return LayerMemory(
        saved_bytes=kept,
        output_bytes=view.stream(view.counts.output_bytes),
        transients=tuple(view.transients(repeated, kept)),
        cached_bytes=view.cached(),
    )


@dataclass(frozen=True)
class _View:
    """One layer as one chip sees it."""

    config: ModelConfig
    layer: int
    length: int
    precision: Precision
    layout: Layout
    stack: Stack

    @property
    def counts(self) -> LayerCounts:
        return counts_of(self.config, self.layer, self.length, self.precision)

    @property
    def element_bytes(self) -> int:
        return BYTES_PER_ELEMENT[self.precision]

    @property
    def is_block(self) -> bool:
        return 0 < self.layer < self.config.num_layers - 1

    @property
    def is_head(self) -> bool:
        return self.layer == self.config.num_layers - 1

    def stream(self, num_bytes: float) -> float:
        """The chip's part of what is as wide as the residual stream."""
        return num_bytes / (self.layout.tensor if self.stack.sequence_parallel else 1)

    def inside(self, num_bytes: float) -> float:
        """Its part of what tensor parallelism splits."""
        return num_bytes / self.layout.tensor

    def score_bytes(self) -> float:
        """One format's worth of attention scores [heads, sequence, sequence] of a sample."""
        numbers = self.config.heads * self.length * self.length
        return self.inside(float(numbers * self.element_bytes))

    def saved(self) -> Iterator[_Saved]:
        """All that autograd keeps without recompute."""
        unfused = self.stack.attention == "unfused" and self.is_block
        for kept in layer_activations(self.config, self.layer):
            if unfused and kept.name == "log sum exp":
                continue
            num_bytes = self.length * self._numbers(kept) * self._size(kept)
            split = self.inside if kept.sharded_by_tensor else self.stream
            yield _Saved(split(num_bytes))
        if unfused:
            yield from self._scores()
        if self.stack.dropout and not self.is_head:
            masks = 2 if self.is_block else 1
            yield _Saved(self.stream(masks * self.length * self.config.width * MASK_BYTES))

    def _numbers(self, kept: Kept) -> float:
        """Per token, with the framework's copies."""
        footprint, config = self.stack.footprint, self.config
        if kept.name == "key and value" and footprint.expands_key_values:
            return kept.numbers * config.heads / config.num_key_value_heads
        gated = kept.name.endswith(" hidden") and config.activation == "swiglu"
        if gated and not footprint.repeats_gate:
            return kept.numbers * 4 / 3
        return kept.numbers

    def _size(self, kept: Kept) -> float:
        if self.stack.footprint.wide_stream and kept.name.endswith("stream"):
            return FP32_BYTES
        return kept.bytes_per_token(self.element_bytes) / kept.numbers

    def _scores(self) -> Iterator[_Saved]:
        """The softmax's output; with dropout its mask and its result too."""
        yield _Saved(self.score_bytes(), is_scores=True)
        if self.stack.dropout:
            masks = self.score_bytes() * MASK_BYTES / self.element_bytes
            yield _Saved(self.score_bytes() + masks, is_scores=True)

    def kept(self, everything: float) -> float:
        """What is left of `everything` with the layout's recompute."""
        recompute = self.layout.recompute
        own_trainer = self.stack.footprint.chunked_loss
        if recompute == "none" or not (self.is_block or (own_trainer and recompute == "full")):
            return everything
        if recompute == "full":
            return self._input_bytes()
        if self.stack.selective == "half":
            return self._half()
        return everything - sum(each.num_bytes for each in self.saved() if each.is_scores)

    def _input_bytes(self) -> float:
        if self.layer == 0:
            return self.stream(self.length * INT64_BYTES)
        before = counts_of(self.config, self.layer - 1, self.length, self.precision)
        return self.stream(before.output_bytes) * (2 if self._is_wide else 1)

    @property
    def _is_wide(self) -> bool:
        return self.stack.footprint.wide_stream and self.element_bytes < FP32_BYTES

    def _half(self) -> float:
        """The input, the attention's result and that of every second product, as torchtitan's
        selective recompute of operations saves them."""
        tensors = layer_activations(self.config, self.layer)
        of_attention = sum(
            kept.bytes_per_token(self.element_bytes)
            for kept in tensors
            if kept.name in ("mixed", "log sum exp")
        )
        total = self._input_bytes() + self.inside(self.length * of_attention)
        for product in layer_products(self.config, self.layer)[::2]:
            numbers = product.out_width * product.experts_per_token * self.length
            split = self.inside if product.sharded_by_tensor == "column" else self.stream
            total += split(numbers * self.element_bytes)
        return total

    def transients(self, repeated: float, kept: float) -> Iterator[Transient]:
        """While the layer runs backward, and then while its gradients are shared out.

        With recompute it has made `repeated` bytes again; what it `kept` is free in the end.
        """
        fixed = self.inside(self.counts.fixed_bytes)
        if self.layout.sharding == "full" and self.layer:
            behind = self.gathered() if self.is_block else 0.0
            yield Transient(self._workspace() + repeated, fixed + self.gathered() + behind)
            exchanged = exchanged_bytes(
                self.config, self.layer, self.precision, self.layout, self.stack
            )
            yield Transient(self.leaving() - kept, exchanged + behind)
        else:
            yield Transient(self._workspace() + repeated, fixed)
        if self.is_head and not self.stack.footprint.chunked_loss:
            yield Transient(self._logits(self._logit_bytes), self.gathered())
            # In the forward pass the gathered buffer is still there beside the parameters.
            before = max(self._logit_bytes - LATE_LOGIT_BYTES, 0.0)
            yield Transient(self._logits(before), 2 * self.gathered())

    @property
    def _logit_bytes(self) -> float:
        footprint = self.stack.footprint
        return footprint.logit_bytes if self.layout.tensor == 1 else footprint.split_logit_bytes

    def _logits(self, bytes_each: float) -> float:
        return self.inside(self.length * self.config.vocabulary * bytes_each)

    def cached(self) -> float:
        """Freed before the loss's peak, but with the allocator still."""
        if not self.is_head or self.stack.footprint.chunked_loss:
            return 0.0
        return self._logits(self.stack.footprint.freed_logit_bytes)

    def _workspace(self) -> float:
        """Gradients that are alive at once."""
        counts, stream = self.counts, 0.0
        if self.is_block:
            stream = float(self.length * self.config.width * self.element_bytes)
        within = self.inside(counts.workspace_bytes - stream)
        if self.is_block and self.stack.attention == "unfused":
            within = max(within, SCORE_GRADIENTS * self.score_bytes())
        return self.stream(stream) + within

    def leaving(self) -> float:
        """The gradients that come in and go out, and those of the norm in fp32."""
        return self.stream(
            2.0 * self.length * self.config.width * (self.element_bytes + FP32_BYTES)
        )

    def gathered(self) -> float:
        """Fully-sharded: the layer's parameters in the format of its products."""
        if self.layout.sharding != "full":
            return 0.0
        return self.element_bytes * held_in_layer(self.config, self.layer).on_chip(self.layout)


def exchanged_bytes(
    config: ModelConfig, layer: int, precision: Precision, layout: Layout, stack: Stack
) -> float:
    """A fully-sharded layer's parameters, their gradients, and the buffer that those travel in;
    nobody needs an embedding's parameters backward."""
    copies = 2 if layer else 1
    each = copies * BYTES_PER_ELEMENT[precision] + stack.exchange_bytes
    return each * held_in_layer(config, layer).on_chip(layout)


def last_exchange(
    config: ModelConfig,
    sequence_length: int,
    precision: Precision,
    layers: tuple[int, int],
    layout: Layout,
    stack: Stack,
) -> Transient:
    """Fully-sharded: the end of a backward pass, when activations are gone. The second layer's
    gradients are shared out while the first one is gathered, then the first one's."""
    if layout.sharding != "full":
        return Transient(0.0, 0.0)
    first, last = layers
    of_first = exchanged_bytes(config, first, precision, layout, stack)
    if last - first == 1:
        return Transient(0.0, of_first)
    view = _View(config, first, sequence_length, precision, layout, stack)
    of_second = exchanged_bytes(config, first + 1, precision, layout, stack)
    return max(
        Transient(view.leaving(), of_second + view.gathered()),
        Transient(0.0, of_first),
        key=lambda each: each.fixed_bytes,
    )

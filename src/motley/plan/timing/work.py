"""What one chip does in one layer: matrix products, attention, passes over memory, kernels.

Counts follow the layer's products (`motley.model.products`) as Megatron-LM's tensor parallelism
splits them. Passes over memory are counted in elements that pointwise operations read or write;
they are what eager or compiled PyTorch runs, read off the frameworks' layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from motley.model.config import ModelConfig
from motley.model.products import AttentionCore, Product, attention_core, layer_products
from motley.plan.layout import Layout
from motley.plan.stack import Stack

FLASH_BACKWARD = 2.5
"""FLOPs of flash attention's backward pass over its forward pass: it computes the scores again,
five products instead of two (arXiv 2205.14135)."""

SOFTMAX_ELEMENTS = {"fused": (2.0, 3.0), "eager": (6.5, 7.0), "eager-fp32": (16.0, 14.0)}
"""16-bit elements read and written for scale, mask and softmax per score, forward and backward: one
kernel (Megatron-LM's scaled_upper_triang_masked_softmax), one for each, or those in fp32 between
two casts (Hugging Face's models)."""

SOFTMAX_KERNELS = {"fused": 6.0, "eager": 9.0, "eager-fp32": 12.0}
"""Launched for the whole core of unfused attention, forward."""

MIX_ELEMENTS = 5.0
"""Read and written for a mix of two tensors: one is scaled, the other scaled and added to it."""

LOGIT_BYTES_FORWARD = 22
"""Per logit: written in 16 bits, read and widened to fp32, log-softmax reads and writes."""

LOGIT_BYTES_BACKWARD = 22
"""Per logit: the softmax's gradient in fp32, narrowed, read."""

CAP_BYTES = 24
"""Per logit that is capped, in fp32: its hyperbolic tangent, the slope, scaled, and its gradient
multiplied by the slope, less the search for the largest, which is not needed."""

LOGIT_BYTES_FUSED = 8
"""The same in one pass each way, as a compiled or a chunked loss does it."""


class Matmul(NamedTuple):
    """`copies` products [rows, inner] x [inner, columns]."""

    rows: float
    inner: float
    columns: float
    copies: float = 1.0
    linear: bool = True
    """By parameters, so that an fp8 training runs it in fp8; the attention's are not."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One pass of one layer on one chip."""

    matmuls: tuple[Matmul, ...] = ()
    flash_flops: float = 0.0
    """In a fused attention kernel."""
    moved_bytes: float = 0.0
    """By passes over memory."""
    kernels: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """All passes of one layer for one micro-batch on one chip."""

    forward: Work
    core: Work
    """The part of `forward` that is the attention's core: what selective recompute repeats."""
    again: Work
    """The part of `forward` that full recompute repeats."""
    backward: Work
    """Without `weight`, and without anything repeated."""
    weight: Work
    """Gradients by the parameters, added to those of earlier micro-batches."""
    parameters: float
    """That the chip reads, before any sharding among the data-parallel members."""


@lru_cache(maxsize=8192)
def layer_work(
    config: ModelConfig,
    layer: int,
    sequence_length: int,
    num_samples: int,
    layout: Layout,
    stack: Stack,
    element_bytes: int,
) -> LayerWork:
    """The work of one member's chip for `num_samples` samples of its own."""
    tokens = float(num_samples * sequence_length)
    products = layer_products(config, layer)
    core = attention_core(config, layer)
    matmuls = _merged(products, tokens, layout)
    attention = _core_work(core, sequence_length, num_samples, layout, stack, element_bytes)
    passes = _Passes(config, products, core, tokens, layout, stack)
    parameters = sum(_held(product, layout) for product in products)
    accumulate = (2 * stack.gradient_bytes + element_bytes) * parameters
    if layer == 0:
        return _embedding_work(config, tokens, layout, stack, element_bytes)
    head_bytes = passes.logits() if layer == config.num_layers - 1 else (0.0, 0.0)
    forward = Work(
        matmuls=(*attention[0].matmuls, *matmuls),
        flash_flops=attention[0].flash_flops,
        moved_bytes=element_bytes * passes.elements() + attention[0].moved_bytes + head_bytes[0],
        kernels=passes.kernels() + attention[0].kernels,
    )
    return LayerWork(
        forward=forward,
        core=attention[0],
        again=replace(forward, matmuls=forward.matmuls[:-1]) if stack.stops_early else forward,
        backward=Work(
            matmuls=(*(_transposed(each) for each in matmuls), *attention[1].matmuls),
            flash_flops=attention[1].flash_flops,
            moved_bytes=2 * element_bytes * passes.elements()
            + attention[1].moved_bytes
            + head_bytes[1],
            kernels=1.5 * passes.kernels() + attention[1].kernels,
        ),
        weight=Work(
            matmuls=tuple(_by_weight(each) for each in matmuls),
            moved_bytes=accumulate,
            kernels=2.0 * len(matmuls),
        ),
        parameters=parameters,
    )


def _held(product: Product, layout: Layout) -> float:
    """Parameters of a product on each chip."""
    if product.experts > 1:
        return product.parameters / (_expert_width(layout) * layout.expert)
    return product.parameters / (1 if product.sharded_by_tensor == "none" else layout.tensor)


def _expert_width(layout: Layout) -> int:
    """Chips over which each expert is split: fewer than the tensor degree where the experts are
    spread over so many chips that they take from it."""
    return max(1, min(layout.tensor, layout.num_chips // layout.expert))


def _merged(products: tuple[Product, ...], tokens: float, layout: Layout) -> tuple[Matmul, ...]:
    """The products of one pass; those that read the same are one."""
    merged: dict[tuple[str, str], Matmul] = {}
    for product in products:
        split = 1 if product.sharded_by_tensor == "none" else layout.tensor
        rows, copies = tokens, 1.0
        if product.experts > 1:
            split = _expert_width(layout)
            # Tokens of all members whose experts are spread over the same chips come together.
            members = layout.expert * split / layout.tensor
            rows = tokens * members * product.experts_per_token / product.experts
            copies = product.experts / layout.expert
        inner, columns = float(product.in_width), float(product.columns)
        if product.sharded_by_tensor == "row":
            inner /= split
        else:
            columns /= split
        key = (product.reads, product.sharded_by_tensor)
        known = merged.get(key)
        if known is not None:
            columns += known.columns
        merged[key] = Matmul(rows, inner, columns, copies)
    return tuple(merged.values())


def _transposed(forward: Matmul) -> Matmul:
    """The gradient by the input."""
    return forward._replace(inner=forward.columns, columns=forward.inner)


def _by_weight(forward: Matmul) -> Matmul:
    """The gradient by the parameters."""
    return forward._replace(rows=forward.inner, inner=forward.rows)


def _core_work(
    core: AttentionCore | None,
    length: int,
    num_samples: int,
    layout: Layout,
    stack: Stack,
    element_bytes: int,
) -> tuple[Work, Work]:
    """Forward and backward of the attention between projections."""
    if core is None:
        return Work(), Work()
    heads = core.query_heads * num_samples / layout.tensor
    if stack.attention == "flash":
        flops = core.forward_flops(length) * num_samples / layout.tensor
        return (
            Work(flash_flops=flops, kernels=2.0),
            Work(flash_flops=FLASH_BACKWARD * flops, kernels=3.0),
        )
    scores = Matmul(length, core.query_key_size, length, heads, False)
    mixed = Matmul(length, length, core.value_size, heads, False)
    forward, backward = SOFTMAX_ELEMENTS[stack.softmax]
    if stack.dropout:
        forward, backward = forward + 2.5, backward + 2.5
    score_bytes = heads * float(length) * length * element_bytes
    few = SOFTMAX_KERNELS[stack.softmax]
    return (
        Work(matmuls=(scores, mixed), moved_bytes=forward * score_bytes, kernels=few),
        Work(
            matmuls=(
                _transposed(scores),
                _by_weight(scores),
                _transposed(mixed),
                _by_weight(mixed),
            ),
            moved_bytes=backward * score_bytes,
            kernels=1.5 * few,
        ),
    )


class _Passes(NamedTuple):
    """Pointwise operations of one layer's forward pass."""

    config: ModelConfig
    products: tuple[Product, ...]
    core: AttentionCore | None
    tokens: float
    layout: Layout
    stack: Stack

    def elements(self) -> float:
        """Read or written, on one chip."""
        stack, tensor = self.stack, self.layout.tensor
        stream = self.tokens * self.config.width / (tensor if stack.sequence_parallel else 1)
        if self.core is None:
            return stream * (2 if stack.fused else 4)
        # Two norms (read, write) and two residual sums (read both, write): fused, a sum and the
        # norm behind it read once. An eager RMSNorm is many operations, some of them in fp32.
        # Dropout reads, writes, and keeps a mask.
        eager = 10.0 if self.config.norm == "layernorm" else 18.0
        per_element = 8.0 if stack.fused else eager
        if stack.dropout:
            per_element += 1.0 if stack.fused else 5.0
        per_element += MIX_ELEMENTS * self.config.input_residual
        queries = self.core.query_heads * self.core.query_key_size
        keys = self.core.key_value_heads * (self.core.query_key_size + self.core.value_size)
        # Copies of queries, keys and values from one layout to another, or their rotation.
        eager = 6.0 if self.config.positions == "rotary" else 3.0
        mixed = (queries + keys) / tensor * self.tokens * (2.0 if stack.fused else eager)
        if self.config.value_residual:
            values = self.core.key_value_heads * self.core.value_size
            mixed += MIX_ELEMENTS * values / tensor * self.tokens
        return stream * per_element + mixed + self._hidden()

    def _hidden(self) -> float:
        """Of the MLP's activation: reads what the first products made, writes what the last reads;
        eager multiplies by the gate in a pass of its own."""
        gated = 3.0 if self.stack.fused else 5.0
        per_element = gated if self.config.gated else 2.0
        wide = sum(
            product.in_width * product.experts_per_token
            for product in self.products
            if product.sharded_by_tensor == "row" and product.reads != "mixed"
        )
        return self.tokens * wide / self.layout.tensor * per_element

    def logits(self) -> tuple[float, float]:
        """Bytes moved by the loss, forward and backward."""
        count = self.tokens * self.products[-1].columns / self.layout.tensor
        capped = CAP_BYTES * count if self.config.logit_softcap is not None else 0.0
        if self.stack.fused_loss:
            return LOGIT_BYTES_FUSED * count + capped, LOGIT_BYTES_FUSED * count
        return LOGIT_BYTES_FORWARD * count + capped, LOGIT_BYTES_BACKWARD * count

    def kernels(self) -> float:
        """Launched by the host."""
        products = float(len(self.products))
        if self.core is None:
            return products + 10.0
        return products + (8.0 if self.stack.fused else 20.0)


def _embedding_work(
    config: ModelConfig, tokens: float, layout: Layout, stack: Stack, element_bytes: int
) -> LayerWork:
    """The look-up copies rows; its gradient is a whole matrix, cleared, filled and added up."""
    rows = tokens * config.width * element_bytes
    matrix = config.vocabulary * config.width / layout.tensor
    return LayerWork(
        forward=Work(moved_bytes=4 * rows, kernels=8.0),
        core=Work(),
        again=Work(),
        backward=Work(),
        weight=Work(
            moved_bytes=4 * rows + matrix * (2 * element_bytes + 2 * stack.gradient_bytes),
            kernels=8.0,
        ),
        parameters=matrix,
    )

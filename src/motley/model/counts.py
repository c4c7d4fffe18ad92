"""Parameters, FLOPs and bytes of every layer, exactly, without importing torch.

A FLOP count is that of the matrix products (one multiply-add is 2 FLOPs): the projections, and the
attention of each token to itself and the tokens before it. Norms, activations, rotations, the
softmax and the embedding's look-up are not counted, nor is what an implementation repeats (flash
attention's backward pass, recomputed activations). These are the model's FLOPs, as MFU needs them.

Byte counts are those of `motley.model.layers` in eager mode, where all tensors of a layer have the
precision's format; a test compares them with what autograd really keeps. The matrices come from
`motley.model.products`, the kept tensors from `motley.model.activations`.
"""

from __future__ import annotations

from dataclasses import dataclass

from motley.model.activations import FP32_BYTES, layer_activations
from motley.model.config import ModelConfig
from motley.model.products import Product, attention_core, layer_products
from motley.model.stream import TABLE_VALUES, reads
from motley.model.table_counts import table_parameters
from motley.units import BYTES_PER_ELEMENT, Precision

MATMUL_SCRATCH_BYTES = 2**19
"""What oneDNN's bf16 matmuls take to repack tiles: 0.03 to 0.3 MB, measured on two cores."""
SAMPLED_CHUNK_TOKENS = 512
"""Tokens whose logits against sampled targets are computed at once."""
SUM_ROWS = 4096
"""Rows of the head's gradient that are added in fp32 at once, when products have less precision."""


@dataclass(frozen=True)
class LayerCounts:
    """What one layer costs for one sample (one sequence)."""

    parameters: int
    """Numbers that the layer computes with, without memory tables. The matrix of a tied head counts
    in both layers."""
    forward_flops: float
    backward_flops: float
    """Twice the forward's: gradients by the input and by the parameters."""
    activation_bytes: int
    """What autograd keeps from the forward to the backward pass: the layer's input too, but neither
    parameters nor what does not grow with the batch (rotary tables)."""
    workspace_bytes: int
    """The most that either pass needs beyond that at any moment; an upper bound, tested on a CPU.
    The gradients that come in and go out are not in it."""
    output_bytes: int
    """What goes to the next layer; the head's loss is one fp32 number per micro-batch."""
    fixed_bytes: int = 0
    """The most of what does not grow with the batch: the gradient of the largest parameter, before
    it is added to those of earlier micro-batches; in the head the gradient of its matrix, which the
    forward pass makes and keeps for the backward pass, and one chunk of logits."""


@dataclass(frozen=True)
class ModelCounts:
    """Totals of a model; a tied matrix counts once."""

    parameters: int
    active_parameters: int
    """Those that one token passes: fewer than all in a mixture of experts, and none of tables."""
    table_parameters: int
    """Those of memory tables, of which a token reads a row each; they are in `parameters`."""
    flops_per_token: float
    """Forward and backward, averaged over the positions of a sequence."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that live together, and the layers that use them."""

    name: str
    layers: tuple[int, ...]
    num_parameters: int


def layer_counts(
    config: ModelConfig, layer: int, sequence_length: int, precision: Precision
) -> LayerCounts:
    """Counts of one layer for one sequence; layer 0 is the embedding, the last one the head."""
    element_bytes = BYTES_PER_ELEMENT[precision]
    if layer == 0:
        return _embedding_counts(config, sequence_length, element_bytes)
    if layer == config.num_layers - 1:
        return _head_counts(config, sequence_length, element_bytes)
    if 0 < layer < config.num_layers - 1:
        return _block_counts(config, layer, sequence_length, element_bytes)
    raise IndexError(f"layer {layer}: the model has layers 0 to {config.num_layers - 1}")


def model_counts(config: ModelConfig, sequence_length: int) -> ModelCounts:
    """Parameters of the whole model, and FLOPs per token of forward and backward."""
    layers = [layer_counts(config, i, sequence_length, "fp32") for i in range(config.num_layers)]
    flops = sum(counts.forward_flops + counts.backward_flops for counts in layers)
    parameters = sum(group.num_parameters for group in parameter_groups(config))
    in_tables = table_parameters(config)
    return ModelCounts(
        parameters=parameters + in_tables,
        active_parameters=parameters - sum(map(_idle_parameters, _all_products(config))),
        table_parameters=in_tables,
        flops_per_token=flops / sequence_length,
    )


def _all_products(config: ModelConfig) -> list[Product]:
    layers = range(config.num_layers)
    return [product for layer in layers for product in layer_products(config, layer)]


def _idle_parameters(product: Product) -> int:
    """Those of the experts that a token does not pass."""
    return product.parameters - product.active_parameters


def parameter_groups(config: ModelConfig) -> tuple[ParameterGroup, ...]:
    """One group per layer with its own parameters, and one for the matrix of a tied head.

    The groups part the parameters outside of memory tables: each is in exactly one.
    """
    last = config.num_layers - 1
    matrix = config.vocabulary * config.embedding_size
    shared = {0: matrix, last: matrix} if config.tied_head else {}
    groups = [ParameterGroup("token embedding", (0, last), matrix)] if config.tied_head else []
    for layer in range(config.num_layers):
        own = layer_counts(config, layer, 1, "fp32").parameters - shared.get(layer, 0)
        if own:
            groups.append(ParameterGroup(f"layer {layer}", (layer,), own))
    return tuple(groups)


def loss_chunk_tokens(width: int) -> int:
    """Tokens whose logits the loss computes at once: their logits take at most the memory of the
    head's gradient, unless the model is very narrow, and enough of them keep the matmul busy."""
    return min(max(width, 128), 1024)


def _embedding_counts(config: ModelConfig, length: int, element_bytes: int) -> LayerCounts:
    learned = config.positions == "learned"
    positions = (config.context + config.position_offset) * config.width if learned else 0
    norm = _norm_parameters(config) if config.embedding_norm else 0
    matrix = config.vocabulary * config.embedding_size
    products = layer_products(config, 0)
    projection = sum(product.parameters for product in products)
    forward_flops = length * sum(product.flops_per_token for product in products)
    output_bytes = length * config.width * element_bytes
    changed = positions or projection or config.tables
    workspace_bytes = output_bytes if changed else 0
    if norm:
        workspace_bytes += length * _norm_workspace_per_token(config, element_bytes)
    return LayerCounts(
        parameters=matrix + positions + projection + norm,
        forward_flops=forward_flops,
        backward_flops=2 * forward_flops,
        activation_bytes=length * _kept_bytes_per_token(config, 0, element_bytes),
        workspace_bytes=workspace_bytes,
        output_bytes=output_bytes,
        fixed_bytes=matrix * element_bytes,
    )


def _block_counts(config: ModelConfig, layer: int, length: int, element_bytes: int) -> LayerCounts:
    products = layer_products(config, layer)
    norms = config.num_block_norms * _norm_parameters(config) + _inner_norm_parameters(config)
    core = attention_core(config, layer)
    attention_flops = core.forward_flops(length) if core else 0.0
    forward_flops = length * sum(product.flops_per_token for product in products) + attention_flops
    mixes = config.input_residual + config.value_residual + (TABLE_VALUES in reads(config, layer))
    largest = max(product.in_width * product.out_width for product in products)
    return LayerCounts(
        parameters=sum(product.parameters for product in products) + norms + 2 * mixes,
        forward_flops=forward_flops,
        backward_flops=2 * forward_flops,
        activation_bytes=length * _kept_bytes_per_token(config, layer, element_bytes),
        workspace_bytes=length * element_bytes * _block_workspace_per_token(config, products),
        output_bytes=length * config.width * element_bytes,
        fixed_bytes=largest * element_bytes + _matmul_scratch(element_bytes),
    )


def _kept_bytes_per_token(config: ModelConfig, layer: int, element_bytes: int) -> int:
    return sum(kept.bytes_per_token(element_bytes) for kept in layer_activations(config, layer))


def _block_workspace_per_token(config: ModelConfig, products: tuple[Product, ...]) -> int:
    """Elements of the gradients that are alive at once in the backward pass.

    Either those in the MLP, or those in the attention less what the MLP has freed by then.
    """
    queries = config.heads * config.head_size
    keys = config.num_key_value_heads * config.head_size
    hidden = sum(
        product.in_width * product.experts_per_token
        for product in products
        if product.name.endswith(".down")
    )
    mlp = hidden * {"relu2": 3, "swiglu": 2, "geglu": 3}.get(config.activation, 1)
    attention = 3 * queries + 4 * keys - (1 if config.activation == "relu" else 2) * hidden
    return config.width + max(mlp, attention)


def _matmul_scratch(element_bytes: int) -> int:
    return MATMUL_SCRATCH_BYTES if element_bytes < FP32_BYTES else 0


def _head_counts(config: ModelConfig, length: int, element_bytes: int) -> LayerCounts:
    layer = config.num_layers - 1
    products = layer_products(config, layer)
    norm = _norm_parameters(config) if config.arrangement != "post_norm" else 0
    forward_flops = length * sum(product.flops_per_token for product in products)
    hidden_bytes = config.width * element_bytes
    if config.sampled_targets is not None:  # and two copies of each target's row
        hidden_bytes *= 3
    return LayerCounts(
        parameters=sum(product.parameters for product in products) + norm,
        forward_flops=forward_flops,
        backward_flops=2 * forward_flops,
        activation_bytes=length * _kept_bytes_per_token(config, layer, element_bytes),
        workspace_bytes=length * (hidden_bytes + _norm_workspace_per_token(config, element_bytes)),
        output_bytes=0,
        fixed_bytes=_head_fixed_bytes(config, element_bytes),
    )


def _head_fixed_bytes(config: ModelConfig, element_bytes: int) -> int:
    """The gradient in fp32, and one chunk of logits (with the slopes of their cap) or, in the end,
    the gradient's cast. A second prediction has a gradient of its own, and their sum is a third."""
    width = config.embedding_size
    if config.sampled_targets is not None:
        return _sampled_fixed_bytes(config, config.sampled_targets, element_bytes)
    gradient = config.vocabulary * width
    logits = config.vocabulary * loss_chunk_tokens(width)
    more_bytes = logits * FP32_BYTES if config.logit_softcap is not None else 0
    if config.lookahead_weight is not None:
        more_bytes += 2 * gradient * FP32_BYTES
    if element_bytes == FP32_BYTES:
        return (gradient + logits) * FP32_BYTES + more_bytes
    both_bytes = FP32_BYTES + element_bytes
    sums = min(config.vocabulary, SUM_ROWS) * width
    chunk_bytes = (logits + sums) * both_bytes + more_bytes
    return gradient * FP32_BYTES + max(gradient * element_bytes, chunk_bytes)


def _sampled_fixed_bytes(config: ModelConfig, size: int, element_bytes: int) -> int:
    """The sampled rows, their gradient in fp32 and its cast, and one chunk of their logits, with
    as much again while they become gradients; or the logits of one exact chunk."""
    size = min(size, config.vocabulary)
    rows_bytes = size * config.embedding_size * (2 * element_bytes + 2 * FP32_BYTES)
    chunk_bytes = SAMPLED_CHUNK_TOKENS * size * FP32_BYTES
    exact = config.vocabulary * loss_chunk_tokens(config.embedding_size) * FP32_BYTES
    return max(rows_bytes + 4 * chunk_bytes, 2 * exact)


def _norm_parameters(config: ModelConfig) -> int:
    return config.width * (2 if config.has_norm_bias else 1)


def _inner_norm_parameters(config: ModelConfig) -> int:
    """Of the norms inside the attention, which have no biases."""
    if config.latent is not None:
        return config.latent.key_value_rank + (config.latent.query_rank or 0)
    return 2 * config.head_size if config.qk_norm else 0


def _norm_workspace_per_token(config: ModelConfig, element_bytes: int) -> int:
    """RMSNorm computes its gradient in fp32, in two tensors."""
    return config.width * (element_bytes if config.norm == "layernorm" else 2 * FP32_BYTES)

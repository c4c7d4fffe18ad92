"""Parameters, FLOPs and bytes of every layer, exactly, without importing torch.

A FLOP count is that of the matrix products (one multiply-add is 2 FLOPs): the projections, and the
attention of each token to itself and the tokens before it. Norms, activations, rotations, the
softmax and the embedding's look-up are not counted, nor is what an implementation repeats (flash
attention's backward pass, recomputed activations). These are the model's FLOPs, as MFU needs them.

Byte counts are those of `motley.model.layers` in eager mode, where all tensors of a layer have the
precision's format; a test compares them with what autograd really keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

from motley.model.config import ModelConfig
from motley.units import BYTES_PER_ELEMENT, Precision

FP32_BYTES = 4
INT64_BYTES = 8
MATMUL_SCRATCH_BYTES = 2**19
"""What oneDNN's bf16 matmuls take to repack tiles: 0.03 to 0.3 MB, measured on two cores."""
SUM_ROWS = 4096
"""Rows of the head's gradient that are added in fp32 at once, when products have less precision."""


@dataclass(frozen=True)
class LayerCounts:
    """What one layer costs for one sample (one sequence)."""

    parameters: int
    """Numbers that the layer computes with. The matrix of a tied head counts in both layers."""
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
        return _block_counts(config, sequence_length, element_bytes)
    raise IndexError(f"layer {layer}: the model has layers 0 to {config.num_layers - 1}")


def model_counts(config: ModelConfig, sequence_length: int) -> ModelCounts:
    """Parameters of the whole model, and FLOPs per token of forward and backward."""
    layers = [layer_counts(config, i, sequence_length, "fp32") for i in range(config.num_layers)]
    flops = sum(counts.forward_flops + counts.backward_flops for counts in layers)
    return ModelCounts(
        parameters=sum(group.num_parameters for group in parameter_groups(config)),
        flops_per_token=flops / sequence_length,
    )


def parameter_groups(config: ModelConfig) -> tuple[ParameterGroup, ...]:
    """One group per layer with its own parameters, and one for the matrix of a tied head.

    The groups part the parameters: each is in exactly one.
    """
    last = config.num_layers - 1
    matrix = config.vocabulary * config.width
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
    learned = config.context * config.width if config.positions == "learned" else 0
    matrix = config.vocabulary * config.width
    output_bytes = length * config.width * element_bytes
    return LayerCounts(
        parameters=matrix + learned,
        forward_flops=0.0,
        backward_flops=0.0,
        activation_bytes=length * INT64_BYTES,
        workspace_bytes=output_bytes if learned else 0,
        output_bytes=output_bytes,
        fixed_bytes=matrix * element_bytes,
    )


def _block_counts(config: ModelConfig, length: int, element_bytes: int) -> LayerCounts:
    width, mlp = config.width, config.mlp_size
    queries = config.heads * config.head_size
    keys = config.num_key_value_heads * config.head_size
    num_up = 2 if config.activation == "swiglu" else 1
    matrices = width * (2 * queries + 2 * keys) + width * mlp * (num_up + 1)
    biases = (queries + 2 * keys + width + mlp * num_up + width) if config.bias else 0
    qk_norms = 2 * config.head_size if config.qk_norm else 0
    attention_flops = 2.0 * queries * length * (length + 1)
    forward_flops = 2.0 * length * matrices + attention_flops
    return LayerCounts(
        parameters=matrices + biases + qk_norms + 2 * _norm_parameters(config),
        forward_flops=forward_flops,
        backward_flops=2 * forward_flops,
        activation_bytes=length * _block_bytes_per_token(config, element_bytes),
        workspace_bytes=length * element_bytes * _block_workspace_per_token(config),
        output_bytes=length * width * element_bytes,
        fixed_bytes=width * max(mlp, queries) * element_bytes + _matmul_scratch(element_bytes),
    )


def _block_bytes_per_token(config: ModelConfig, element_bytes: int) -> int:
    queries = config.heads * config.head_size
    keys = config.num_key_value_heads * config.head_size
    # Per norm its input and output; the attention's inputs and output; the MLP's.
    residual = 4 * config.width
    attention = 2 * queries + 2 * keys
    mlp = config.mlp_size * (3 if config.activation == "swiglu" else 2)
    statistics = 2 * _norm_statistics_bytes(config, element_bytes)
    log_sum_exp = config.heads * FP32_BYTES
    if config.qk_norm:
        attention += queries + keys
        statistics += (config.heads + config.num_key_value_heads) * FP32_BYTES
    return (residual + attention + mlp) * element_bytes + statistics + log_sum_exp


def _block_workspace_per_token(config: ModelConfig) -> int:
    """Elements of the gradients that are alive at once in the backward pass.

    Either those in the MLP, or those in the attention less what the MLP has freed by then.
    """
    queries = config.heads * config.head_size
    keys = config.num_key_value_heads * config.head_size
    mlp = config.mlp_size * {"gelu": 1, "relu2": 3, "swiglu": 2}[config.activation]
    attention = 3 * queries + 4 * keys - 2 * config.mlp_size
    return config.width + max(mlp, attention)


def _matmul_scratch(element_bytes: int) -> int:
    return MATMUL_SCRATCH_BYTES if element_bytes < FP32_BYTES else 0


def _head_counts(config: ModelConfig, length: int, element_bytes: int) -> LayerCounts:
    matrix = config.vocabulary * config.width
    forward_flops = 2.0 * length * matrix
    hidden_bytes = config.width * element_bytes
    # The input and, as gradients are made in the forward pass, the gradient of the normed input.
    kept = 2 * hidden_bytes + _norm_statistics_bytes(config, element_bytes)
    return LayerCounts(
        parameters=matrix + _norm_parameters(config),
        forward_flops=forward_flops,
        backward_flops=2 * forward_flops,
        activation_bytes=length * kept,
        workspace_bytes=length * (hidden_bytes + _norm_workspace_per_token(config, element_bytes)),
        output_bytes=0,
        fixed_bytes=_head_fixed_bytes(config, element_bytes),
    )


def _head_fixed_bytes(config: ModelConfig, element_bytes: int) -> int:
    """The gradient in fp32, and one chunk of logits or, in the end, the gradient's cast."""
    gradient = config.vocabulary * config.width
    logits = config.vocabulary * loss_chunk_tokens(config.width)
    if element_bytes == FP32_BYTES:
        return (gradient + logits) * FP32_BYTES
    both_bytes = FP32_BYTES + element_bytes
    sums = min(config.vocabulary, SUM_ROWS) * config.width
    return gradient * FP32_BYTES + max(gradient * element_bytes, (logits + sums) * both_bytes)


def _norm_parameters(config: ModelConfig) -> int:
    has_bias = config.norm == "layernorm" and config.bias
    return config.width * (2 if has_bias else 1)


def _norm_workspace_per_token(config: ModelConfig, element_bytes: int) -> int:
    """RMSNorm computes its gradient in fp32, in two tensors."""
    return config.width * (element_bytes if config.norm == "layernorm" else 2 * FP32_BYTES)


def _norm_statistics_bytes(config: ModelConfig, element_bytes: int) -> int:
    """Per token: LayerNorm keeps mean and deviation in the input's format, RMSNorm one in fp32."""
    return 2 * element_bytes if config.norm == "layernorm" else FP32_BYTES

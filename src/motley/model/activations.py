"""What each layer keeps from its forward to its backward pass, tensor by tensor.

These are the tensors of `motley.model.layers` (a test compares them with what autograd keeps), and
for models that can only be planned those that such layers would keep: nothing twice, attention
without its scores (arXiv 2205.14135), SwiGLU by its two inputs and its result, no dropout. Experts
keep the tokens that were sent to them and their outputs, which the router's gradient needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from motley.model.config import LatentAttention, MixtureOfExperts, ModelConfig
from motley.model.stream import TABLE_VALUES, reads
from motley.model.table_counts import projected_width

FP32_BYTES = 4
INT64_BYTES = 8


class Kept(NamedTuple):
    """One kept tensor; numbers are per token of the whole layer, before any split."""

    name: str
    numbers: int
    format: Literal["own", "fp32", "int64"] = "own"
    """ "own" is the precision that the layer computes in."""
    sharded_by_tensor: bool = False
    """Tensor parallelism alone splits it; the others need sequence parallelism too."""
    in_attention: bool = False
    """Between the projections before the attention and the one after it: what selective
    recomputation drops (arXiv 2205.05198), but for the input of the output projection."""

    def bytes_per_token(self, element_bytes: int) -> int:
        size = {"own": element_bytes, "fp32": FP32_BYTES, "int64": INT64_BYTES}
        return self.numbers * size[self.format]


def layer_activations(config: ModelConfig, layer: int) -> tuple[Kept, ...]:
    """What one layer keeps, its input too; layer 0 is the embedding, the last one the head.

    The first block's input and values, which all blocks read, count in the first block alone, and
    rows of the value table in none.
    """
    if layer == 0:
        return tuple(_embedding(config))
    if layer == config.num_layers - 1:
        return tuple(_head(config))
    if not 0 < layer < config.num_layers - 1:
        raise IndexError(f"layer {layer}: the model has layers 0 to {config.num_layers - 1}")
    attention = _latent(config, config.latent) if config.latent else _attention(config, layer)
    has_experts = config.mixture is not None and config.has_experts(layer)
    mlp = (
        _mixture(config, config.mixture)
        if config.mixture is not None and has_experts
        else _mlp(config, "mlp", config.mlp_size)
    )
    return (*_stream(config), *attention, *mlp)


def _embedding(config: ModelConfig) -> Iterator[Kept]:
    yield Kept("tokens", 1, "int64")
    if config.embedding_width is not None:
        yield Kept("embedded", config.embedding_width)
    if config.embedding_norm:
        yield Kept("unnormed", config.width)
        yield _statistics(config, "norm statistics")
    if config.tables is not None and config.tables.ngrams:
        yield Kept("ngram rows", len(config.tables.ngrams), "int64")
    if ngrams := projected_width(config):
        yield Kept("ngrams", ngrams)


def _head(config: ModelConfig) -> Iterator[Kept]:
    """The input and, as gradients are made in the forward pass, that of the normed input."""
    yield Kept("stream", config.width)
    yield Kept("gradient", config.embedding_size)
    if config.sampled_targets is not None:
        yield Kept("gradient of targets' rows", config.embedding_size)
        yield Kept("targets", 1, "int64")
    if config.embedding_width is not None:
        yield Kept("projected", config.embedding_width)
    if config.arrangement != "post_norm":
        yield _statistics(config, "norm statistics")
    if config.lookahead_weight is not None:
        yield Kept("normed", config.width)
        yield Kept("gradient ahead", config.embedding_size)
    if config.mixture is not None:
        yield Kept("balance", 1)


def _stream(config: ModelConfig) -> Iterator[Kept]:
    """Inputs and outputs of the norms, with the layer's input among them."""
    yield Kept("stream", config.width)
    if config.input_residual:
        yield Kept("mixed stream", config.width)
    if config.arrangement in ("pre_norm", "post_norm"):
        yield Kept("middle stream", config.width)
    for number in range(config.num_block_norms):
        yield Kept(f"normed {number}", config.width)
        yield _statistics(config, f"norm {number} statistics")


def _attention(config: ModelConfig, layer: int) -> Iterator[Kept]:
    queries = config.heads * config.head_size
    keys = config.num_key_value_heads * config.head_size
    if config.qk_norm:
        heads = config.heads + config.num_key_value_heads
        yield Kept("unnormed query and key", queries + keys, "own", True, True)
        yield Kept("query and key statistics", heads, "fp32", True, True)
    if num_mixes := config.value_residual + (TABLE_VALUES in reads(config, layer)):
        yield Kept("unmixed values", num_mixes * keys, "own", True, True)
    yield Kept("query", queries, "own", True, True)
    yield Kept("key and value", 2 * keys, "own", True, True)
    yield Kept("mixed", queries, "own", True)
    yield Kept("log sum exp", config.heads, "fp32", True, True)


def _latent(config: ModelConfig, latent: LatentAttention) -> Iterator[Kept]:
    """Each latent vector before and after its norm; from there on as in full attention."""
    for name, rank in (("query", latent.query_rank), ("key value", latent.key_value_rank)):
        if rank is not None:
            yield Kept(f"{name} latent and its norm", 2 * rank)
            yield Kept(f"{name} latent statistics", 1, "fp32")
    yield Kept("query and key", 2 * config.heads * config.head_size, "own", True, True)
    yield Kept("value", config.heads * latent.value_width, "own", True, True)
    yield Kept("mixed", config.heads * latent.value_width, "own", True)
    yield Kept("log sum exp", config.heads, "fp32", True, True)


def _mixture(config: ModelConfig, mixture: MixtureOfExperts) -> Iterator[Kept]:
    chosen = mixture.experts_per_token
    yield Kept("balance", 1)
    yield Kept("router scores", mixture.experts, "fp32")
    if chosen > 1:
        yield Kept("chosen scores and their sum", chosen + 1, "fp32")
    yield Kept("chosen weights", chosen)
    yield Kept("chosen experts and their order", 2 * chosen, "int64")
    yield Kept("sent", chosen * config.width)
    yield from _mlp(config, "experts", chosen * mixture.expert_width)
    yield Kept("expert outputs", chosen * config.width)
    if mixture.shared_width is not None:
        yield from _mlp(config, "shared", mixture.shared_width)
    if mixture.shared_gate:
        yield Kept("shared output and its gate", config.width + 1)


def _mlp(config: ModelConfig, name: str, hidden: int) -> Iterator[Kept]:
    """Up to the input of the last product: ReLU's gradient needs no more than its result."""
    tensors = {"swiglu": 3, "geglu": 4, "relu": 1}.get(config.activation, 2)
    yield Kept(f"{name} hidden", tensors * hidden, "own", True)


def _statistics(config: ModelConfig, name: str) -> Kept:
    """LayerNorm keeps mean and deviation in the input's format, RMSNorm one number in fp32."""
    return Kept(name, 2) if config.norm == "layernorm" else Kept(name, 1, "fp32")

"""The matrix products of every layer and its attention, as a model of time or of memory needs them.

Whoever goes by these need not know families of models: dense or mixture of experts, full or latent
attention are all lists of products. Their widths are those of the whole layer, before any split.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from motley.model.config import LatentAttention, MixtureOfExperts, ModelConfig
from motley.model.table_counts import projected_width

Sharding = Literal["column", "row", "none"]
"""How tensor parallelism splits a matrix: its outputs ("column"), its inputs ("row"), or not at all
(Megatron-LM, arXiv 1909.08053)."""

FIRST_EXPERT = "mlp.experts.0"


class Product(NamedTuple):
    """[tokens, in_width] times [in_width, out_width]: one multiply-add is 2 FLOPs."""

    name: str
    """As the layer's parameter is called, where motley's layers have it; of experts the first."""
    reads: str
    """What it reads; products that read the same may be computed as one."""
    in_width: int
    out_width: int
    sharded_by_tensor: Sharding
    experts: int = 1
    """Matrices of this shape; each token passes `experts_per_token` of them."""
    experts_per_token: int = 1
    bias: bool = False
    computed_width: int | None = None
    """Outputs that training computes, on average, if not all."""
    is_repeated: bool = False
    """The matrix is that of a product before it."""

    @property
    def names(self) -> tuple[str, ...]:
        """As the layer's parameters are called: each expert has its own."""
        _, is_expert, part = self.name.partition(f"{FIRST_EXPERT}.")
        if not is_expert:
            return (self.name,)
        stem = FIRST_EXPERT.removesuffix("0")
        return tuple(f"{stem}{expert}.{part}" for expert in range(self.experts))

    @property
    def parameters(self) -> int:
        """Of all experts, with biases."""
        return self._size * self.experts

    @property
    def active_parameters(self) -> int:
        """Those that one token passes."""
        return self._size * self.experts_per_token

    @property
    def _size(self) -> int:
        return 0 if self.is_repeated else (self.in_width + self.bias) * self.out_width

    @property
    def flops_per_token(self) -> float:
        """Of the forward pass; the backward pass takes twice that."""
        return 2.0 * self.in_width * self.columns * self.experts_per_token

    @property
    def columns(self) -> int:
        """Outputs that training computes."""
        return self.out_width if self.computed_width is None else self.computed_width


class AttentionCore(NamedTuple):
    """softmax(QK')V of one block: causal, each token to itself and the tokens before it."""

    query_heads: int
    key_value_heads: int
    query_key_size: int
    """Size of a query or key head."""
    value_size: int
    window: int | None
    """Tokens that a token attends to at most."""

    def pairs(self, sequence_length: int) -> float:
        """Pairs of a token and one that it attends to, in one sequence."""
        window = min(self.window or sequence_length, sequence_length)
        return window * (window + 1) / 2 + (sequence_length - window) * float(window)

    def forward_flops(self, sequence_length: int) -> float:
        """Both products of one sequence, over the pairs that causality leaves."""
        sizes = self.query_key_size + self.value_size
        return 2.0 * self.query_heads * sizes * self.pairs(sequence_length)


def layer_products(config: ModelConfig, layer: int) -> tuple[Product, ...]:
    """The products of one layer in order; layer 0 is the embedding, the last one the head."""
    if layer == 0:
        return _embedding_products(config)
    if layer == config.num_layers - 1:
        return _head_products(config)
    if not 0 < layer < config.num_layers - 1:
        raise IndexError(f"layer {layer}: the model has layers 0 to {config.num_layers - 1}")
    attention = _latent(config, config.latent) if config.latent else _attention(config)
    if config.mixture is not None and config.has_experts(layer):
        return attention + _mixture(config, config.mixture)
    return attention + _mlp(config, "mlp", config.mlp_size)


def attention_core(config: ModelConfig, layer: int) -> AttentionCore | None:
    """The attention of a block; None for the embedding and the head."""
    if not 0 < layer < config.num_layers - 1:
        return None
    return AttentionCore(
        config.heads,
        config.num_key_value_heads,
        config.head_size,
        config.value_size,
        config.attention_window,
    )


def _embedding_products(config: ModelConfig) -> tuple[Product, ...]:
    """The look-up is no product."""
    products = []
    if config.embedding_width is not None:
        width = config.embedding_width
        products.append(Product("projection", "token", width, config.width, "none"))
    if ngrams := projected_width(config):
        products.append(Product("ngram_projection", "ngrams", ngrams, config.width, "none"))
    return tuple(products)


def _head_products(config: ModelConfig) -> tuple[Product, ...]:
    size = config.embedding_size
    output = Product("output", "head", size, config.vocabulary, "column")
    if config.sampled_targets is not None and config.sampled_targets < config.vocabulary:
        output = output._replace(computed_width=config.sampled_targets)
    products = [output]
    if config.embedding_width is not None:
        products.insert(0, Product("projection", "stream", config.width, size, "none"))
    if config.lookahead_weight is not None:
        products.append(Product("ahead", "hidden", size, size, "none"))
        products.append(output._replace(reads="ahead", is_repeated=True))
    return tuple(products)


def _attention(config: ModelConfig) -> tuple[Product, ...]:
    width, queries = config.width, config.heads * config.head_size
    keys = config.num_key_value_heads * config.head_size
    bias = config.has_query_key_value_bias
    return (
        Product("attention.query", "attention", width, queries, "column", bias=bias),
        Product("attention.key", "attention", width, keys, "column", bias=bias),
        Product("attention.value", "attention", width, keys, "column", bias=bias),
        Product("attention.output", "mixed", queries, width, "row", bias=config.bias),
    )


def _latent(config: ModelConfig, latent: LatentAttention) -> tuple[Product, ...]:
    """The narrow products are not worth a split: all chips of a group compute them. Biases of what
    comes before the attention are not known in any public model."""
    width, heads = config.width, config.heads
    queries = heads * config.head_size
    keys_values = heads * (latent.plain_width + latent.value_width)
    rank, narrow = latent.key_value_rank, latent.key_value_rank + latent.rotary_width
    down, up = "attention.key_value_down", "attention.key_value_up"
    query: tuple[Product, ...]
    if latent.query_rank is None:
        query = (Product("attention.query", "attention", width, queries, "column"),)
    else:
        query = (
            Product("attention.query_down", "attention", width, latent.query_rank, "none"),
            Product("attention.query_up", "query latent", latent.query_rank, queries, "column"),
        )
    return (
        *query,
        Product(down, "attention", width, narrow, "none"),
        Product(up, "key value latent", rank, keys_values, "column"),
        Product(
            "attention.output", "mixed", heads * latent.value_width, width, "row", bias=config.bias
        ),
    )


def _mixture(config: ModelConfig, mixture: MixtureOfExperts) -> tuple[Product, ...]:
    experts = tuple(
        product._replace(experts=mixture.experts, experts_per_token=mixture.experts_per_token)
        for product in _mlp(config, FIRST_EXPERT, mixture.expert_width)
    )
    shared = _mlp(config, "mlp.shared", mixture.shared_width) if mixture.shared_width else ()
    router = Product("mlp.router", "mlp", config.width, mixture.experts, "none")
    gate = (router._replace(name="mlp.shared_router", out_width=1),) if mixture.shared_gate else ()
    return (router, *experts, *shared, *gate)


def _mlp(config: ModelConfig, name: str, hidden: int) -> tuple[Product, ...]:
    """Experts read the tokens that were sent to them; all other MLPs read the same."""
    width, bias = config.width, config.has_mlp_bias
    reads = "sent" if name == FIRST_EXPERT else "mlp"
    up = Product(f"{name}.up", reads, width, hidden, "column", bias=bias)
    down = Product(f"{name}.down", f"{name} hidden", hidden, width, "row", bias=bias)
    return (up._replace(name=f"{name}.gate"), up, down) if config.gated else (up, down)

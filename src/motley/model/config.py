"""The shape of a decoder-only transformer: enough for the families from GPT-2 to DeepSeek-V3.

The planner plans all of them; `motley.model.trainable` says which can be trained.

Layers are counted as the planner sees them: layer 0 is the embedding, layers 1 to `layers` are the
blocks, and the last layer (`layers` + 1) is the head (final norm, output projection and loss).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motley.model.table_config import MemoryTables
from motley.schema import require_at_most, require_positive, switch

BLOCKS = "blocks."
"""How the global names of the blocks' parameters begin."""
MOST_LAYERS = 1000
"""As many as the deepest transformers that were tried (DeepNet, arXiv 2203.00555); the largest
language models have a tenth of that."""
LARGEST_WIDTH = 2**20
LONGEST_SEQUENCE = 2**24
LARGEST_VOCABULARY = 2**22
"""More than any public model has: larger ones are slips, and overflow where numbers have 64
bits."""
STANDARD_DEVIATION = 0.02
"""Of matrices at the start whose model does not say it, as in GPT-2 (Radford et al. 2019)."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of rotary wavelengths (Hugging Face `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def __post_init__(self) -> None:
        require_positive(self, "factor", "low_freq_factor", "high_freq_factor", "original_context")


@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts:
    """MLPs of which each token passes a few that a router chooses (Shazeer et al. 2017)."""

    experts: int
    """MLPs of a block that the router chooses from."""
    experts_per_token: int
    expert_width: int
    """Hidden size of one expert."""
    shared_width: int | None = None
    """Hidden size of the MLP that every token passes besides, all shared experts together; unset
    means none."""
    shared_gate: bool = False
    """A sigmoid of one product weights what the shared MLP adds (Qwen2-MoE)."""
    leading_dense_layers: int = 0
    """The first blocks have one MLP of `mlp_width` instead."""
    balance_weight: float = switch(0.01)
    """Of the auxiliary loss that keeps all experts in use, in nats per token; 0 is allowed."""

    def __post_init__(self) -> None:
        require_positive(self, "experts", "experts_per_token", "expert_width", "shared_width")
        if self.balance_weight < 0:
            raise ValueError(f"balance_weight: must not be negative, found {self.balance_weight}")
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token: {self.experts_per_token} of {self.experts} experts is too many"
            )
        if self.leading_dense_layers < 0:
            raise ValueError(
                f"leading_dense_layers: must not be negative, found {self.leading_dense_layers}"
            )
        if self.shared_gate and not self.shared_width:
            raise ValueError("shared_gate: gates nothing while shared_width is unset")


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Keys and values made from one narrow latent vector per token (DeepSeek-V2, arXiv 2405.04434).

    A query or key head is `plain_width` numbers without and `rotary_width` with positions; the
    rotary part of the key is shared by all heads.
    """

    key_value_rank: int
    """Size of the latent vector that keys and values are made from."""
    query_rank: int | None = None
    """The same for queries; unset means that they are made from the residual stream."""
    plain_width: int
    rotary_width: int
    value_width: int
    """Size of one head's value."""

    def __post_init__(self) -> None:
        require_positive(
            self, "key_value_rank", "query_rank", "plain_width", "rotary_width", "value_width"
        )
        if self.rotary_width % 2:
            raise ValueError(f"rotary_width: must be even, found {self.rotary_width}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that fixes the parameters and the mathematics of the model, except the vocabulary's size
    when it is left to the tokenizer."""

    layers: int
    """Number of transformer blocks."""
    width: int
    """Size of the residual stream."""
    heads: int
    """Query heads."""
    key_value_heads: int | None = None
    """Fewer than `heads` gives grouped-query attention; unset means as many."""
    head_width: int | None = None
    """Unset means width / heads."""
    mlp_width: int | None = None
    """Unset means 4 x width."""
    context: int = 1024
    """The longest sequence; the number of learned positions."""
    vocab_size: int | None = None
    """Unset means the tokenizer's."""
    positions: Literal["learned", "rotary", "alibi", "none"] = "learned"
    """"alibi" is a bias on the attention that grows with distance (arXiv 2108.12409)."""
    position_offset: int = 0
    """Learned positions before the first that is used; 2 in OPT."""
    attention_window: int | None = None
    """Tokens that a token attends to, itself included; unset means all before it."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_epsilon: float = 1e-5
    arrangement: Literal["pre_norm", "post_norm", "parallel", "parallel_two_norms"] = "pre_norm"
    """A block norms before attention and MLP, or after each on the residual stream (then there is
    no final norm). Parallel ones read the same stream through one norm (PaLM) or two (GPT-NeoX)."""
    embedding_norm: bool = False
    """A norm between the embedding and the first block (BLOOM, modded-nanogpt)."""
    embedding_width: int | None = None
    """A token embedding and head of another width than the stream, with projections between (OPT
    350M); unset means `width`."""
    activation: Literal["gelu", "gelu_exact", "relu", "relu2", "swiglu", "geglu"] = "gelu"
    """"gelu" is the tanh form that GPT-2 uses."""
    bias: bool = True
    """Biases of the blocks' projections and of LayerNorms; GPT-2 has them, Llama and Qwen3 none."""
    query_key_value_bias: bool | None = None
    """Of these three projections; Qwen2 has them alone. Unset means as `bias`."""
    mlp_bias: bool | None = None
    """Unset means as `bias`."""
    norm_bias: bool | None = None
    """Of LayerNorms; unset means as `bias`."""
    qk_norm: bool = False
    """RMSNorm over each query and key head (Qwen3)."""
    tied_head: bool = True
    """The head uses the token embedding's matrix."""
    matrix_deviation: float | None = None
    """Standard deviation at the start of the blocks' matrices, and of those of the lookahead and
    of projected n-gram rows; those that add to the residual stream in a block have
    1 / sqrt(2 x layers) of it. Unset means 0.02, as in GPT-2."""
    head_deviation: float | None = None
    """Of an untied head's matrix at the start; 0 is allowed. Unset means 0.02."""
    input_residual: bool = switch(False)
    """Each block begins with a learned mix of the stream and of the first block's input (the x0
    lambdas of modded-nanogpt)."""
    value_residual: bool = switch(False)
    """The values of each attention are a learned mix of its own and the first block's (arXiv
    2410.17897)."""
    zero_init: bool = switch(False)
    """What adds to the residual stream (the last projections of attention and MLP) starts at zero,
    so that every block starts as the identity (modded-nanogpt; muP, arXiv 2203.03466)."""
    logit_softcap: float | None = None
    """Logits z become cap * tanh(z / cap), in training, evaluation and sampling (Gemma 2, arXiv
    2408.00118, with 30); unset means that they stay as they are."""
    lookahead_weight: float | None = None
    """Weight of a second prediction that is trained besides, of the token after the next, by a
    matrix of its own before the head's (arXiv 2404.19737); evaluation and sampling leave it out.
    Unset means none."""
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    mixture: MixtureOfExperts | None = None
    """Unset means one MLP in each block."""
    latent: LatentAttention | None = None
    """Unset means that queries, keys and values are made from the residual stream."""
    sampled_targets: int | None = None
    """Tokens of the vocabulary that stand for all in the softmax of a training step, drawn by their
    frequency and weighted, the same for all samples of the step; evaluation is exact, and so the
    training's loss is a little lower than an exact one. Unset means all."""
    tables: MemoryTables | None = None
    """Rows that tokens look up, beside the token embedding; unset means none."""
    planned_only: tuple[str, ...] = ()
    """What the family computes besides, in words, that adds next to nothing to time and memory and
    that motley's layers do not compute. A model with any can be planned but not trained."""

    def __post_init__(self) -> None:
        require_positive(
            self, "layers", "width", "heads", "key_value_heads", "head_width", "mlp_width",
            "context", "vocab_size", "attention_window", "norm_epsilon",
            "embedding_width", "rope_theta", "sampled_targets", "logit_softcap", "matrix_deviation",
            "lookahead_weight",
        )  # fmt: skip
        require_at_most(
            self, layers=MOST_LAYERS, width=LARGEST_WIDTH, heads=LARGEST_WIDTH,
            head_width=LARGEST_WIDTH, mlp_width=LARGEST_WIDTH, embedding_width=LARGEST_WIDTH,
            context=LONGEST_SEQUENCE, vocab_size=LARGEST_VOCABULARY,
        )  # fmt: skip
        if self.position_offset < 0:
            raise ValueError(f"position_offset: must not be negative, found {self.position_offset}")
        if self.mixture is not None and self.mixture.leading_dense_layers > self.layers:
            raise ValueError(
                f"mixture.leading_dense_layers: {self.mixture.leading_dense_layers} are more than "
                f"the {self.layers} layers"
            )
        self._check_heads()
        self._check_tables()
        if self.head_deviation is not None:
            if self.tied_head:
                raise ValueError("head_deviation: a tied head starts as the token embedding does")
            if self.head_deviation < 0:
                raise ValueError(
                    f"head_deviation: must not be negative, found {self.head_deviation}"
                )

    def _check_tables(self) -> None:
        blocks = self.tables.value_blocks if self.tables is not None else ()
        if blocks and blocks[-1] >= self.layers:
            raise ValueError(
                f"tables.value_blocks: there is no block {blocks[-1]}; {self.layers} layers are "
                f"blocks 0 to {self.layers - 1}"
            )

    def _check_heads(self) -> None:
        if self.latent is not None:
            if self.value_residual:
                raise ValueError("value_residual: not known for latent attention; leave one out")
            if self.num_key_value_heads != self.heads or self.qk_norm:
                raise ValueError("latent: needs as many key_value_heads as heads, and no qk_norm")
            return
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide the width {self.width}")
        if self.heads % self.num_key_value_heads:
            raise ValueError(
                f"key_value_heads: {self.num_key_value_heads} do not divide {self.heads} heads"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(
                f"head_width: rotary positions need an even one, found {self.head_size}"
            )

    @property
    def num_key_value_heads(self) -> int:
        return self.key_value_heads or self.heads

    @property
    def head_size(self) -> int:
        """Size of a query or key head."""
        if self.latent is not None:
            return self.latent.plain_width + self.latent.rotary_width
        return self.head_width or self.width // self.heads

    @property
    def value_size(self) -> int:
        """Size of a value head."""
        return self.latent.value_width if self.latent is not None else self.head_size

    @property
    def mlp_size(self) -> int:
        return self.mlp_width or 4 * self.width

    @property
    def gated(self) -> bool:
        """The MLP has a third matrix, whose activated product gates the others'."""
        return self.activation in ("swiglu", "geglu")

    @property
    def has_query_key_value_bias(self) -> bool:
        return self.bias if self.query_key_value_bias is None else self.query_key_value_bias

    @property
    def has_mlp_bias(self) -> bool:
        return self.bias if self.mlp_bias is None else self.mlp_bias

    @property
    def has_norm_bias(self) -> bool:
        wanted = self.bias if self.norm_bias is None else self.norm_bias
        return wanted and self.norm == "layernorm"

    @property
    def num_block_norms(self) -> int:
        return 1 if self.arrangement == "parallel" else 2

    @property
    def embedding_size(self) -> int:
        """Width of the token embedding and of the head's matrix."""
        return self.embedding_width or self.width

    def has_experts(self, layer: int) -> bool:
        """Whether that layer (1 is the first block) is a block whose MLP is a mixture."""
        mixture = self.mixture
        return mixture is not None and mixture.leading_dense_layers < layer <= self.layers

    @property
    def num_layers(self) -> int:
        """Blocks, the embedding and the head: what a plan splits."""
        return self.layers + 2

    @property
    def vocabulary(self) -> int:
        """The vocabulary's size; `ValueError` while it is left to the tokenizer."""
        if self.vocab_size is None:
            raise ValueError("vocab_size: not known yet; it comes from the tokenizer")
        return self.vocab_size

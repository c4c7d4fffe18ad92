"""The shape of a decoder-only transformer: enough to express GPT-2, Llama 3 and Qwen3 exactly.

Layers are counted as the planner sees them: layer 0 is the embedding, layers 1 to `layers` are the
blocks, and the last layer (`layers` + 1) is the head (final norm, output projection and loss).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motley.schema import require_positive


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
    positions: Literal["learned", "rotary"] = "learned"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_epsilon: float = 1e-5
    activation: Literal["gelu", "swiglu", "relu2"] = "gelu"
    """"gelu" is the tanh form that GPT-2 uses."""
    bias: bool = True
    """Biases of the blocks' projections and of LayerNorms; GPT-2 has them, Llama and Qwen3 none."""
    qk_norm: bool = False
    """RMSNorm over each query and key head (Qwen3)."""
    tied_head: bool = True
    """The head uses the token embedding's matrix."""
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        require_positive(
            self, "layers", "width", "heads", "key_value_heads", "head_width", "mlp_width",
            "context", "vocab_size", "norm_epsilon", "rope_theta",
        )  # fmt: skip
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
        return self.head_width or self.width // self.heads

    @property
    def mlp_size(self) -> int:
        return self.mlp_width or 4 * self.width

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

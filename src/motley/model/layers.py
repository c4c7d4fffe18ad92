"""The model as a list of layers: embedding, blocks, head.

Each layer is a module of its own that is called alone, so any range of layers can live on any chip.
A layer computes in the format of its parameters; norms, softmax and loss use fp32 inside.
Parameters have global names that say nothing of the layout, and a tied head's matrix has the name
of the token embedding, of which it is a copy or alias.

Shapes: b batch, s sequence, w width, h query heads, k key-value heads, d head size, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from motley import kernels
from motley.model.attention import causal_attention, rotary_tables, rotate
from motley.model.config import ModelConfig
from motley.model.loss import cross_entropy_sum, soft_cap
from motley.model.norm import LayerNorm, RMSNorm, build_norm
from motley.model.trainable import require_trainable

TOKEN_EMBEDDING = "embedding.token"
"""Global name of the token embedding, and of a tied head's matrix."""


def build_layer(
    config: ModelConfig,
    layer: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Layer 0 is the `Embedding`, 1 to L the `Block`s, L + 1 the `Head`.

    The parameters hold no values yet: `initialize` or a checkpoint sets them. `RecipeError` for a
    model that can only be planned.
    """
    require_trainable(config)
    if not 0 <= layer < config.num_layers:
        raise IndexError(f"layer {layer}: the model has layers 0 to {config.num_layers - 1}")
    kinds: dict[int, type[Embedding | Head]] = {0: Embedding, config.num_layers - 1: Head}
    with torch.device("meta"):
        module = kinds.get(layer, Block)(config)
    return module.to(dtype).to_empty(device=device)


def parameter_name(config: ModelConfig, layer: int, local_name: str) -> str:
    """The global name of a layer's parameter: "blocks.0.attention.query.weight" for layer 1."""
    if layer == 0:
        return f"embedding.{local_name}"
    if layer < config.num_layers - 1:
        return f"blocks.{layer - 1}.{local_name}"
    return TOKEN_EMBEDDING if local_name == "token" else f"head.{local_name}"


class Linear(nn.Linear):
    """x @ weight.T + bias, through the native kernels where they are on."""

    def forward(self, x: Tensor) -> Tensor:
        return kernels.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """Tokens [b, s] to the residual stream [b, s, w]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.context = config.context
        self.first = config.position_offset
        self.token = nn.Parameter(torch.empty(config.vocabulary, config.width))
        positions = torch.empty(self.first + config.context, config.width)
        self.position = nn.Parameter(positions) if config.positions == "learned" else None

    def forward(self, tokens_bs: Tensor) -> Tensor:
        x_bsw = functional.embedding(tokens_bs, self.token)
        if self.position is None:
            return x_bsw
        return x_bsw + self.position[self.first : self.first + tokens_bs.shape[1]]


class Block(nn.Module):
    """Attention and MLP, each normed before and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = build_norm(config)
        self.mlp = MLP(config)

    def forward(self, x_bsw: Tensor) -> Tensor:
        mixed_bsw = self.attention(self.attention_norm(x_bsw))
        norm = self.mlp_norm
        if isinstance(norm, LayerNorm) and norm.bias is not None:
            x_bsw, normed_bsw = kernels.add_norm(
                x_bsw, mixed_bsw, norm.weight, norm.bias, norm.epsilon
            )
        else:
            x_bsw = x_bsw + mixed_bsw
            normed_bsw = norm(x_bsw)
        out_bsw: Tensor = x_bsw + self.mlp(normed_bsw)
        return out_bsw


class Attention(nn.Module):
    """Causal self-attention with grouped queries."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        size, bias = config.head_size, config.has_query_key_value_bias
        self.query = Linear(config.width, config.heads * size, bias)
        self.key = Linear(config.width, config.num_key_value_heads * size, bias)
        self.value = Linear(config.width, config.num_key_value_heads * size, bias)
        self.output = Linear(config.heads * size, config.width, config.bias)
        self.query_norm = RMSNorm(size, config.norm_epsilon) if config.qk_norm else None
        self.key_norm = RMSNorm(size, config.norm_epsilon) if config.qk_norm else None

    def forward(self, x_bsw: Tensor) -> Tensor:
        is_plain = self.query_norm is None and self.config.positions != "rotary"
        if is_plain and kernels.usable(x_bsw):
            return self._packed(x_bsw)
        heads = (*x_bsw.shape[:2], -1, self.config.head_size)
        q_bshd = self.query(x_bsw).view(heads)
        k_bskd = self.key(x_bsw).view(heads)
        v_bskd = self.value(x_bsw).view(heads)
        if self.query_norm is not None and self.key_norm is not None:
            q_bshd, k_bskd = self.query_norm(q_bshd), self.key_norm(k_bskd)
        if self.config.positions == "rotary":
            tables = rotary_tables(self.config, x_bsw.shape[1], x_bsw.device, x_bsw.dtype)
            q_bshd, k_bskd = rotate(q_bshd, tables), rotate(k_bskd, tables)
        out_bshd = causal_attention(q_bshd, k_bskd, v_bskd)
        projected_bsw: Tensor = self.output(out_bshd.flatten(2))
        return projected_bsw

    def _packed(self, x_bsw: Tensor) -> Tensor:
        """The same with one product for queries, keys and values."""
        parts = (self.query, self.key, self.value)
        joined_bsj = kernels.linear_joined(
            x_bsw, [part.weight for part in parts], [part.bias for part in parts]
        )
        mixed_bsw = kernels.causal_attention_packed(
            joined_bsj, self.config.heads, self.config.num_key_value_heads
        )
        projected_bsw: Tensor = self.output(mixed_bsw)
        return projected_bsw


class MLP(nn.Module):
    """down(activation(up(x))); with SwiGLU down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        width, hidden, bias = config.width, config.mlp_size, config.has_mlp_bias
        self.gate = Linear(width, hidden, bias) if config.gated else None
        self.up = Linear(width, hidden, bias)
        self.down = Linear(hidden, width, bias)

    def forward(self, x_bsw: Tensor) -> Tensor:
        up = self.up(x_bsw)
        if self.gate is not None:
            hidden = _swiglu(self.gate(x_bsw), up)
        else:
            hidden = _UNGATED[self.activation](up)
        out_bsw: Tensor = self.down(hidden)
        return out_bsw


_UNGATED: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": kernels.gelu,
    "gelu_exact": functional.gelu,
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}


class Head(nn.Module):
    """Final norm, output projection and loss. The matrix is `token` if tied, else `output`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.softcap = config.logit_softcap
        self.norm = build_norm(config)
        self.matrix_name = "token" if config.tied_head else "output"
        matrix = nn.Parameter(torch.empty(config.vocabulary, config.width))
        self.register_parameter(self.matrix_name, matrix)

    @property
    def matrix(self) -> Tensor:
        """The output projection [v, w]."""
        return self.get_parameter(self.matrix_name)

    def forward(self, x_bsw: Tensor, targets_bs: Tensor) -> Tensor:
        """The sum of the tokens' losses in nats, fp32; targets of -100 are left out."""
        hidden_bsw: Tensor = self.norm(x_bsw)
        return cross_entropy_sum(
            hidden_bsw.flatten(0, 1), self.matrix, targets_bs.flatten(), softcap=self.softcap
        )

    def logits(self, x_bsw: Tensor) -> Tensor:
        """The next token's scores [b, s, v] after each token."""
        return soft_cap(functional.linear(self.norm(x_bsw), self.matrix), self.softcap)


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up that keeps its two inputs only; silu(gate) is computed again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grad_outputs
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, functional.silu(gate).mul_(grad)


_swiglu: Callable[[Tensor, Tensor], Tensor] = _SwiGLU.apply

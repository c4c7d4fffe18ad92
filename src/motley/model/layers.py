"""The model as a list of layers: embedding, blocks, head.

Each layer is a module of its own that is called alone, so any range of layers can live on any chip.
A layer computes in the format of its parameters; norms, softmax and loss use fp32 inside.
Parameters have global names that say nothing of the layout, and a tied head's matrix has the name
of the token embedding, of which it is a copy or alias.

Shapes: b batch, s sequence, w width, h query heads, k key-value heads, d head size, c all values of
a token (k x d), v vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from motley import kernels
from motley.model.attention import causal_attention, rotary_tables, rotate
from motley.model.config import ModelConfig
from motley.model.loss import also_trained, cross_entropy_sum, further_targets, soft_cap
from motley.model.mix import mix
from motley.model.mixture import Mixture
from motley.model.mlp import MLP, Linear
from motley.model.norm import LayerNorm, RMSNorm, build_norm
from motley.model.sampled_loss import Negatives, sampled_cross_entropy_sum
from motley.model.stream import TABLE_VALUES, reads
from motley.model.table_config import TABLES
from motley.model.table_counts import projected_width
from motley.model.tables import Tables
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
    with torch.device("meta"):
        if 0 < layer < config.num_layers - 1:
            module: nn.Module = Block(config, layer)
        else:
            module = Head(config) if layer else Embedding(config)
    return module.to(dtype).to_empty(device=device)


def parameter_name(config: ModelConfig, layer: int, local_name: str) -> str:
    """The global name of a layer's parameter: "blocks.0.attention.query.weight" for layer 1."""
    if layer == 0:
        return local_name if local_name.startswith(TABLES) else f"embedding.{local_name}"
    if layer < config.num_layers - 1:
        return f"blocks.{layer - 1}.{local_name}"
    return TOKEN_EMBEDDING if local_name == "token" else f"head.{local_name}"


class Embedding(nn.Module):
    """Tokens [b, s] to the residual stream [b, s, w]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.first = config.position_offset
        self.token = nn.Parameter(torch.empty(config.vocabulary, config.width))
        positions = torch.empty(self.first + config.context, config.width)
        self.position = nn.Parameter(positions) if config.positions == "learned" else None
        self.tables = Tables(config) if config.tables is not None else None
        ngrams = projected_width(config)
        self.ngram_projection = Linear(ngrams, config.width, False) if ngrams else None
        self.norm = build_norm(config) if config.embedding_norm else None
        self.begins_balance = config.mixture is not None

    def forward(self, tokens_bs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The stream; with a value table each token's row of it, and with experts an auxiliary loss
        that is still zero."""
        x_bsw = functional.embedding(tokens_bs, self.token)
        if self.tables is not None:
            x_bsw = self._add_ngrams(x_bsw, self.tables.ngram_rows(tokens_bs, x_bsw.dtype))
        if self.position is not None:
            x_bsw = x_bsw + self.position[self.first : self.first + tokens_bs.shape[1]]
        if self.norm is not None:
            x_bsw = self.norm(x_bsw)
        given = [x_bsw]
        if self.tables is not None and self.tables.has_values:
            given.append(self.tables.values(tokens_bs, x_bsw.dtype))
        if self.begins_balance:
            given.append(x_bsw.new_zeros(*tokens_bs.shape, 1))
        return tuple(given) if len(given) > 1 else x_bsw

    def _add_ngrams(self, x_bsw: Tensor, rows: list[Tensor]) -> Tensor:
        if self.ngram_projection is not None:
            projected_bsw: Tensor = self.ngram_projection(torch.cat(rows, dim=-1))
            return x_bsw + projected_bsw
        for rows_bsw in rows:
            x_bsw = x_bsw + rows_bsw
        return x_bsw


class Block(nn.Module):
    """Attention and MLP, each normed before and added to the residual stream.

    With an input residual it begins with a learned mix of the stream and the first block's input.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.is_first = layer == 1
        self.input_mix = nn.Parameter(torch.empty(2)) if config.input_residual else None
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, has_table=TABLE_VALUES in reads(config, layer))
        self.mlp_norm = build_norm(config)
        self.mlp: MLP | Mixture = MLP(config, config.mlp_size)
        if config.mixture is not None and config.has_experts(layer):
            self.mlp = Mixture(config, config.mixture)

    def forward(
        self,
        stream_bsw: Tensor,
        first_input_bsw: Tensor | None = None,
        first_values_bsc: Tensor | None = None,
        table_values_bsc: Tensor | None = None,
        balance_bs1: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """The stream behind the block. The first block gives with it what the later ones read, and
        one with experts the auxiliary loss up to here."""
        x_bsw = stream_bsw
        if self.input_mix is not None:
            first_input_bsw = stream_bsw if first_input_bsw is None else first_input_bsw
            x_bsw = mix(stream_bsw, first_input_bsw, self.input_mix)
        mixed_bsw, values_bsc = self.attention(
            self.attention_norm(x_bsw), first_values_bsc, table_values_bsc
        )
        x_bsw, normed_bsw = self._add_and_norm(x_bsw, mixed_bsw)
        beside: list[Tensor | None] = []
        if self.is_first:
            beside = [stream_bsw if self.input_mix is not None else None, values_bsc]
        if isinstance(self.mlp, Mixture):
            assert balance_bs1 is not None
            added_bsw, own_bs1 = self.mlp(normed_bsw)
            beside.append(balance_bs1 + own_bs1.to(balance_bs1.dtype))
        else:
            added_bsw = self.mlp(normed_bsw)
        given = (x_bsw + added_bsw, *(piece for piece in beside if piece is not None))
        return given if len(given) > 1 else given[0]

    def _add_and_norm(self, x_bsw: Tensor, mixed_bsw: Tensor) -> tuple[Tensor, Tensor]:
        """The attention's result added to the stream, and the norm of that."""
        norm = self.mlp_norm
        if isinstance(norm, LayerNorm) and norm.bias is not None:
            return kernels.add_norm(x_bsw, mixed_bsw, norm.weight, norm.bias, norm.epsilon)
        x_bsw = x_bsw + mixed_bsw
        return x_bsw, norm(x_bsw)


class Attention(nn.Module):
    """Causal self-attention with grouped queries.

    With a value residual the values are a learned mix of its own and the first block's; with a
    value table they are mixed with the tokens' rows behind that.
    """

    def __init__(self, config: ModelConfig, *, has_table: bool) -> None:
        super().__init__()
        self.config = config
        size, bias = config.head_size, config.has_query_key_value_bias
        self.query = Linear(config.width, config.heads * size, bias)
        self.key = Linear(config.width, config.num_key_value_heads * size, bias)
        self.value = Linear(config.width, config.num_key_value_heads * size, bias)
        self.output = Linear(config.heads * size, config.width, config.bias)
        self.query_norm = RMSNorm(size, config.norm_epsilon) if config.qk_norm else None
        self.key_norm = RMSNorm(size, config.norm_epsilon) if config.qk_norm else None
        self.value_mix = nn.Parameter(torch.empty(2)) if config.value_residual else None
        self.table_mix = nn.Parameter(torch.empty(2)) if has_table else None

    def forward(
        self,
        x_bsw: Tensor,
        first_values_bsc: Tensor | None = None,
        table_values_bsc: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What is added to the stream; with a value residual also the block's own values."""
        if self._is_plain and kernels.usable(x_bsw):
            return self._packed(x_bsw), None
        values_bsc = own_bsc = self.value(x_bsw)
        if self.value_mix is not None:
            first_values_bsc = own_bsc if first_values_bsc is None else first_values_bsc
            values_bsc = mix(own_bsc, first_values_bsc, self.value_mix)
        if self.table_mix is not None:
            assert table_values_bsc is not None
            values_bsc = mix(values_bsc, table_values_bsc, self.table_mix)
        heads = (*x_bsw.shape[:2], -1, self.config.head_size)
        q_bshd = self.query(x_bsw).view(heads)
        k_bskd = self.key(x_bsw).view(heads)
        v_bskd = values_bsc.view(heads)
        if self.query_norm is not None and self.key_norm is not None:
            q_bshd, k_bskd = self.query_norm(q_bshd), self.key_norm(k_bskd)
        if self.config.positions == "rotary":
            tables = rotary_tables(self.config, x_bsw.shape[1], x_bsw.device, x_bsw.dtype)
            q_bshd, k_bskd = rotate(q_bshd, tables), rotate(k_bskd, tables)
        out_bshd = causal_attention(q_bshd, k_bskd, v_bskd)
        return self.output(out_bshd.flatten(2)), None if self.value_mix is None else own_bsc

    @property
    def _is_plain(self) -> bool:
        """Whether nothing happens between the products and the attention."""
        changes = (self.query_norm, self.value_mix, self.table_mix)
        return self.config.positions != "rotary" and all(each is None for each in changes)

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


class Head(nn.Module):
    """Final norm, output projection and loss. The matrix is `token` if tied, else `output`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.softcap = config.logit_softcap
        self.norm = build_norm(config)
        self.matrix_name = "token" if config.tied_head else "output"
        matrix = nn.Parameter(torch.empty(config.vocabulary, config.width))
        self.register_parameter(self.matrix_name, matrix)
        self.negatives: Negatives | None = None
        """A sample of targets that stands for all in the loss; unset, the loss is exact."""
        self.lookahead_weight = config.lookahead_weight
        is_ahead = config.lookahead_weight is not None
        self.ahead = Linear(config.width, config.width, bias=False) if is_ahead else None

    @property
    def matrix(self) -> Tensor:
        """The output projection [v, w]."""
        return self.get_parameter(self.matrix_name)

    def forward(
        self, x_bsw: Tensor, targets_bs: Tensor, balance_bs1: Tensor | None = None
    ) -> Tensor:
        """The sum of the tokens' losses in nats, fp32; targets of -100 are left out.

        Its gradient is also that of what is trained besides: the experts' balance, and the
        prediction of the token after the next.
        """
        hidden_bsw: Tensor = self.norm(x_bsw)
        loss = self._loss(hidden_bsw, targets_bs)
        if not torch.is_grad_enabled():
            return loss
        if balance_bs1 is not None:
            loss = also_trained(loss, balance_bs1.sum(dtype=loss.dtype))
        if self.ahead is not None and self.lookahead_weight is not None:
            ahead_bsw = hidden_bsw + self.ahead(hidden_bsw)
            further = self._loss(ahead_bsw, further_targets(targets_bs))
            loss = also_trained(loss, further * self.lookahead_weight)
        return loss

    def _loss(self, hidden_bsw: Tensor, targets_bs: Tensor) -> Tensor:
        hidden_nw, targets_n = hidden_bsw.flatten(0, 1), targets_bs.flatten()
        if self.negatives is None:
            return cross_entropy_sum(hidden_nw, self.matrix, targets_n, softcap=self.softcap)
        return sampled_cross_entropy_sum(
            hidden_nw, self.matrix, targets_n, self.negatives, softcap=self.softcap
        )

    def logits(self, x_bsw: Tensor) -> Tensor:
        """The next token's scores [b, s, v] after each token."""
        return soft_cap(functional.linear(self.norm(x_bsw), self.matrix), self.softcap)

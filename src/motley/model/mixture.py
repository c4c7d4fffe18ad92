"""A mixture of experts: each token passes the few MLPs to which a router gives the highest scores.

The router is a softmax over all experts in fp32. The weights of a token's k largest scores are
those scores divided by their sum (Mixtral, arXiv 2401.04088); a single one keeps its score, from
which the router learns (Switch, arXiv 2101.03961). No token is dropped: tokens are sorted by
expert, so that each expert runs once over all of its tokens.

Experts are kept busy by an auxiliary loss of each sequence, balance_weight * e * sum_e(f_e * p_e),
where f_e is the share of the sequence's choices that went to expert e and p_e its mean score (the
expert-level loss of DeepSeek-V2, arXiv 2405.04434): balance_weight itself if all are used alike.
As it is of a sequence alone it does not depend on how a batch is split. It is carried beside the
stream as one number per token, so that it weighs per token as the loss does, and the head, which
does not count it in the loss, hands its gradient on.

Shapes: b batch, s sequence, n tokens (b x s), w width, e experts, k chosen by a token, m sent
(n x k).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from motley.model.config import MixtureOfExperts, ModelConfig
from motley.model.mlp import MLP, Linear


class Mixture(nn.Module):
    """The router, its experts, and the MLP that every token passes besides, if there is one."""

    def __init__(self, config: ModelConfig, mixture: MixtureOfExperts) -> None:
        super().__init__()
        self.chosen = mixture.experts_per_token
        self.balance_weight = mixture.balance_weight
        self.router = Linear(config.width, mixture.experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(config, mixture.expert_width) for _ in range(mixture.experts)
        )
        self.shared = MLP(config, mixture.shared_width) if mixture.shared_width else None
        self.shared_router = Linear(config.width, 1, bias=False) if mixture.shared_gate else None

    def forward(self, x_bsw: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to the stream, and the auxiliary loss [b, s, 1] in fp32."""
        scores_bse = self.router(x_bsw).float().softmax(-1)
        top_bsk, chosen_bsk = scores_bse.topk(self.chosen)
        if self.chosen > 1:
            top_bsk = top_bsk / top_bsk.sum(-1, keepdim=True)
        weights_nk = top_bsk.flatten(0, 1).to(x_bsw.dtype)
        out_bsw = self._routed(x_bsw.flatten(0, 1), weights_nk, chosen_bsk).view_as(x_bsw)
        if self.shared is not None:
            shared_bsw = self.shared(x_bsw)
            if self.shared_router is not None:
                shared_bsw = shared_bsw * self.shared_router(x_bsw).sigmoid()
            out_bsw = out_bsw + shared_bsw
        return out_bsw, _balance(scores_bse, chosen_bsk, self.balance_weight)

    def _routed(self, x_nw: Tensor, weights_nk: Tensor, chosen_bsk: Tensor) -> Tensor:
        """Tokens to their experts and back."""
        chosen_m = chosen_bsk.flatten()
        order_m = chosen_m.argsort(stable=True)
        sizes = torch.bincount(chosen_m, minlength=len(self.experts)).tolist()
        sent = torch.split(_send(x_nw, order_m, self.chosen), sizes)
        results = [expert(part) for expert, part in zip(self.experts, sent, strict=True)]
        return _combine(torch.cat(results), weights_nk, order_m)


class _Send(torch.autograd.Function):
    """Each choice's token, sorted by expert."""

    @staticmethod
    def forward(ctx: Any, x_nw: Tensor, order_m: Tensor, chosen: int) -> Tensor:
        ctx.save_for_backward(order_m)
        ctx.chosen, ctx.num_tokens = chosen, x_nw.shape[0]
        return x_nw.index_select(0, order_m // chosen)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad_mw,) = grad_outputs
        (order_m,) = ctx.saved_tensors
        return _unsorted(grad_mw, order_m, ctx.chosen).sum(1), None, None


class _Combine(torch.autograd.Function):
    """The weighted sum of the results of each token's experts."""

    @staticmethod
    def forward(ctx: Any, results_mw: Tensor, weights_nk: Tensor, order_m: Tensor) -> Tensor:
        ctx.save_for_backward(results_mw, weights_nk, order_m)
        results_nkw = _unsorted(results_mw, order_m, weights_nk.shape[1])
        return results_nkw.mul_(weights_nk.unsqueeze(-1)).sum(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_nw,) = grad_outputs
        results_mw, weights_nk, order_m = ctx.saved_tensors
        chosen = weights_nk.shape[1]
        results_nkw = _unsorted(results_mw, order_m, chosen)
        grad_weights_nk = results_nkw.mul_(grad_nw.unsqueeze(1)).sum(-1)
        grad_mw = grad_nw.index_select(0, order_m // chosen)
        grad_mw.mul_(weights_nk.flatten().index_select(0, order_m).unsqueeze(-1))
        return grad_mw, grad_weights_nk, None


def _unsorted(sorted_mw: Tensor, order_m: Tensor, chosen: int) -> Tensor:
    """[n, k, w] in the order of tokens."""
    result = torch.empty_like(sorted_mw)
    result[order_m] = sorted_mw
    return result.view(-1, chosen, sorted_mw.shape[1])


class _Balance(torch.autograd.Function):
    """The auxiliary loss, spread over the tokens of its sequence; which experts were chosen has no
    gradient."""

    @staticmethod
    def forward(ctx: Any, scores_bse: Tensor, chosen_bsk: Tensor, weight: float) -> Tensor:
        ctx.save_for_backward(chosen_bsk)
        experts = scores_bse.shape[2]
        ctx.weight, ctx.experts = weight, experts
        shares_be = _shares(chosen_bsk, experts)
        loss_b = weight * experts * (shares_be * scores_bse.mean(1)).sum(1)
        return loss_b[:, None, None].expand(*scores_bse.shape[:2], 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad_bs1,) = grad_outputs
        (chosen_bsk,) = ctx.saved_tensors
        length = chosen_bsk.shape[1]
        by_mean_be = grad_bs1.sum(1) * (ctx.weight * ctx.experts / length)
        grad_be = by_mean_be * _shares(chosen_bsk, ctx.experts)
        return grad_be.unsqueeze(1).expand(-1, length, -1), None, None


def _shares(chosen_bsk: Tensor, experts: int) -> Tensor:
    """Of each sequence's choices that went to each expert, fp32 [b, e]."""
    chosen_bm = chosen_bsk.flatten(1)
    counts_be = torch.zeros(len(chosen_bm), experts, device=chosen_bsk.device)
    counts_be.scatter_add_(1, chosen_bm, torch.ones_like(chosen_bm, dtype=torch.float32))
    return counts_be / chosen_bm.shape[1]


_send: Callable[[Tensor, Tensor, int], Tensor] = _Send.apply
_combine: Callable[[Tensor, Tensor, Tensor], Tensor] = _Combine.apply
_balance: Callable[[Tensor, Tensor, float], Tensor] = _Balance.apply

"""Cross-entropy against a sample of the vocabulary: for training; evaluation is exact.

For each token the softmax's sum is its target's term and the weighted terms of the sampled tokens
that are not its target. On average over samples that is the exact sum; the loss, its logarithm, is
a little low (Jensen), and equal when all tokens are sampled. Only rows of the head's matrix that
were sampled or are targets are read, and its gradient is sparse.

Shapes: n tokens, w width, v vocabulary, m sampled tokens, c tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from motley.model.counts import SAMPLED_CHUNK_TOKENS
from motley.model.loss import IGNORED
from motley.model.target_sample import TargetSample


class Negatives(NamedTuple):
    """A sample on the head's device."""

    tokens_m: Tensor
    log_weights_m: Tensor
    places_v: Tensor
    """Each token's place in the sample; -1 if it is not in it."""


def negatives_of(sample: TargetSample, vocabulary: int, device: torch.device) -> Negatives:
    """The sample as tensors."""
    tokens_m = torch.from_numpy(sample.tokens_m)
    places_v = torch.full((vocabulary,), -1, dtype=torch.int64)
    places_v[tokens_m] = torch.arange(len(tokens_m))
    log_weights_m = torch.from_numpy(sample.weights_m).log().float()
    return Negatives(*(each.to(device) for each in (tokens_m, log_weights_m, places_v)))


def sampled_cross_entropy_sum(
    hidden_nw: Tensor,
    matrix_vw: Tensor,
    targets_n: Tensor,
    negatives: Negatives,
    *,
    softcap: float | None = None,
    chunk_tokens: int = SAMPLED_CHUNK_TOKENS,
) -> Tensor:
    """The sum of the tokens' estimated losses in nats: an fp32 scalar; see `cross_entropy_sum`."""
    counted_n = targets_n != IGNORED
    targets_n = targets_n.where(counted_n, 0)
    rows_mw = functional.embedding(negatives.tokens_m, matrix_vw, sparse=True)
    own_nw = functional.embedding(targets_n, matrix_vw, sparse=True)
    places_n = negatives.places_v[targets_n]
    return _sampled_sum(
        hidden_nw, rows_mw, own_nw, counted_n, places_n, negatives.log_weights_m, softcap,
        chunk_tokens,
    )  # fmt: skip


class _SampledSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_nw: Tensor,
        rows_mw: Tensor,
        own_nw: Tensor,
        counted_n: Tensor,
        places_n: Tensor,
        log_weights_m: Tensor,
        softcap: float | None,
        chunk_tokens: int,
    ) -> Tensor:
        wide = torch.promote_types(hidden_nw.dtype, torch.float32)
        grad_hidden_nw, grad_own_nw = torch.empty_like(hidden_nw), torch.empty_like(own_nw)
        grad_rows_mw = torch.zeros(rows_mw.shape, dtype=wide, device=rows_mw.device)
        loss = torch.zeros((), dtype=wide, device=hidden_nw.device)
        for start in range(0, len(hidden_nw), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            hidden_cw, own_cw = hidden_nw[part], own_nw[part]
            chunk = _Chunk(
                (hidden_cw @ rows_mw.T).to(wide),
                (hidden_cw.to(wide) * own_cw.to(wide)).sum(1),
                softcap,
            )
            loss += chunk.losses(counted_n[part], places_n[part], log_weights_m).sum()
            slopes_cm, own_slopes_c1 = (each.to(hidden_cw.dtype) for each in chunk.gradients())
            torch.mm(slopes_cm, rows_mw, out=grad_hidden_nw[part])
            grad_hidden_nw[part] += own_slopes_c1 * own_cw
            torch.mul(hidden_cw, own_slopes_c1, out=grad_own_nw[part])
            grad_rows_mw += slopes_cm.T @ hidden_cw
        ctx.save_for_backward(grad_hidden_nw, grad_rows_mw.to(rows_mw.dtype), grad_own_nw)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_loss,) = grad_outputs
        gradients = ((each * grad_loss).to(each.dtype) for each in ctx.saved_tensors)
        return (*gradients, None, None, None, None, None)


_sampled_sum: Callable[..., Tensor] = _SampledSum.apply


class _Chunk:
    """Logits of some tokens: of the sampled ones [c, m], and of each token's target [c]."""

    def __init__(self, logits_cm: Tensor, own_c: Tensor, softcap: float | None) -> None:
        self.logits_cm, self.cap_slopes_cm = _capped(logits_cm, softcap)
        self.own_c, self.cap_slopes_c = _capped(own_c, softcap)

    def losses(self, counted_c: Tensor, places_c: Tensor, log_weights_m: Tensor) -> Tensor:
        """The loss of each token; leaves the softmax in the place of the logits."""
        terms_cm = self.logits_cm.add_(log_weights_m)
        sampled = places_c.ge(0).nonzero().squeeze(1)
        terms_cm[sampled, places_c[sampled]] = -torch.inf
        highest_c = torch.maximum(terms_cm.amax(1), self.own_c)
        terms_cm.sub_(highest_c.unsqueeze(1)).exp_()
        own_terms_c = (self.own_c - highest_c).exp()
        sums_c = terms_cm.sum(1) + own_terms_c
        losses_c = (sums_c.log() + highest_c - self.own_c).where(counted_c, 0.0)
        shares_c = sums_c.reciprocal().where(counted_c, 0.0)
        terms_cm.mul_(shares_c.unsqueeze(1))
        self.own_c = own_terms_c * shares_c - counted_c.to(own_terms_c.dtype)
        return losses_c

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Of the summed losses, by the logits [c, m] and the targets' [c, 1], before any cap."""
        slopes_cm, slopes_c = self.logits_cm, self.own_c
        if self.cap_slopes_cm is not None and self.cap_slopes_c is not None:
            slopes_cm, slopes_c = slopes_cm * self.cap_slopes_cm, slopes_c * self.cap_slopes_c
        return slopes_cm, slopes_c.unsqueeze(1)


def _capped(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Capped logits, and their slope by those before; None if there is no cap."""
    if softcap is None:
        return logits, None
    shares = (logits / softcap).tanh()
    return shares * softcap, 1 - shares.square()

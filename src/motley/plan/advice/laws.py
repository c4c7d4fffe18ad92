"""The published laws behind the advice: loss by size and tokens, worn-out data, batch sizes.

    size, tokens = optimum(1e21)          # parameters and tokens that spend 1e21 FLOPs best

Each law was fitted on other text and mostly on larger models than a small user's; the ranges say
from where on it was seen to hold.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class LossFit(NamedTuple):
    """L(N, D) = floor + size_scale / N^size_power + data_scale / D^data_power, nats per token."""

    floor: float
    size_scale: float
    size_power: float
    data_scale: float
    data_power: float


HOFFMANN = LossFit(1.69, 406.4, 0.34, 410.7, 0.28)
"""Hoffmann et al., arXiv 2203.15556, equation 10."""
CORRECTED = LossFit(1.8172, 482.01, 0.3478, 2085.43, 0.3658)
"""The same runs fitted again by Besiroglu et al., arXiv 2404.10102: unlike the first fit it agrees
with the paper's other two estimates, about 20 tokens for each parameter."""
FITTED_FLOPS = (6e18, 3e21)
"""Of the runs behind both (arXiv 2203.15556, section 3.2); beside it the law is extrapolated."""

REPEATS_WORTH = 15.387756
"""Data wears out: after so many repeats a token has given 1 - 1/e of all that it has to give
(Muennighoff et al., arXiv 2305.16264, appendix A)."""
GOOD_EPOCHS = 4
"""Up to here repeated data is nearly as good as new (the same paper, section 5)."""
MOST_EPOCHS = 40
"""From about here on a repeat is worth nothing (the same paper, section 5)."""

BATCH_SCALE, BATCH_POWER = 0.58, 0.571
"""Best batch = 0.58 x tokens^0.571, in tokens (Li et al., arXiv 2503.04715, "Step Law")."""
CRITICAL_SCALE, CRITICAL_POWER, CRITICAL_SEQUENCE = 0.0471, 0.462, 2048
"""Critical batch = 0.0471 x tokens^0.462 sequences of 2048 (Bergsma et al., arXiv 2505.13738,
figure 1): larger ones save no time worth their tokens."""
BATCH_FITTED_TOKENS = 1e9
"""Both batch laws were fitted on trainings from about here on."""


def loss(size: float, tokens: float, fit: LossFit = CORRECTED) -> float:
    """Nats per token of `size` parameters after `tokens` new tokens, on the fit's text."""
    by_size = fit.size_scale / math.pow(size, fit.size_power)
    return fit.floor + by_size + fit.data_scale / math.pow(tokens, fit.data_power)


def optimum(
    flops: float, flops_per_parameter_token: float = 6.0, fit: LossFit = CORRECTED
) -> tuple[float, float]:
    """Parameters and tokens with the lowest loss for a compute of 6 N D (arXiv 2203.15556,
    equation 4)."""
    product = flops / flops_per_parameter_token
    powers = fit.size_power + fit.data_power
    ratio = (fit.size_power * fit.size_scale) / (fit.data_power * fit.data_scale)
    size = ratio ** (1 / powers) * product ** (fit.data_power / powers)
    return size, product / size


def limited_loss(
    size: float, tokens: float, unique_tokens: float | None, fit: LossFit = CORRECTED
) -> float:
    """The loss where the text has only `unique_tokens` (None: no end).

    That of the tokens that the repeated ones are worth. The paper's discount of large models on
    little text is left out: extrapolated to millions of tokens it would forbid models that are
    known to be better there.
    """
    if unique_tokens is None:
        return loss(size, tokens, fit)
    return loss(size, effective_tokens(tokens, unique_tokens), fit)


def effective_tokens(tokens: float, unique_tokens: float) -> float:
    """The new tokens that `tokens` of a text of `unique_tokens` are worth (arXiv 2305.16264,
    equation 5)."""
    if tokens <= unique_tokens:
        return tokens
    repeats = tokens / unique_tokens - 1
    return unique_tokens * (1 + REPEATS_WORTH * -math.expm1(-repeats / REPEATS_WORTH))


def best_batch_tokens(tokens: float) -> float:
    """Tokens of a step with which a training of `tokens` ends at the lowest loss."""
    return BATCH_SCALE * math.pow(tokens, BATCH_POWER)


def critical_batch_tokens(tokens: float) -> float | None:
    """Tokens of a step beyond which more chips hardly shorten the training; None where the law was
    not seen to hold."""
    if tokens < BATCH_FITTED_TOKENS:
        return None
    return CRITICAL_SCALE * math.pow(tokens, CRITICAL_POWER) * CRITICAL_SEQUENCE

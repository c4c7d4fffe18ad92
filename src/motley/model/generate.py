"""Text from a model, token by token.

Every new token runs the whole window again (no key-value cache): this is for samples of a training,
not for serving.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motley.model.transformer import Transformer


@torch.no_grad()
def generate(
    model: Transformer,
    tokens: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`tokens` int64 [batch, length] followed by `max_new_tokens` sampled ones.

    The model is on the device of `tokens`. Temperature 0 takes the likeliest token; `top_k` samples
    among the k likeliest. Draws are made on the CPU by `generator`, the same on every chip. The
    window is the model's context.
    """
    for _ in range(max_new_tokens):
        x = model.hidden(tokens[:, -model.config.context :])
        logits = model.head.logits(x[:, -1:]).squeeze(1)
        chosen = choose(logits.float().cpu(), temperature, top_k, generator)
        tokens = torch.cat((tokens, chosen.to(tokens.device)), dim=1)
    return tokens


def choose(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Tensor:
    """One token [batch, 1] per row of `logits` [batch, vocabulary]."""
    if temperature < 0:
        raise ValueError(f"temperature: must not be negative, found {temperature}")
    if temperature == 0:
        return logits.argmax(dim=1, keepdim=True)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = (logits / temperature).softmax(dim=1)
    return torch.multinomial(probabilities, 1, generator=generator)

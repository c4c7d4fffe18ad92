"""Causal attention: rotary positions and the scaled dot product, with grouped queries.

Rotary positions follow the "rotate half" convention of the Hugging Face models: dimension i turns
with dimension i + d/2. The tables are computed in fp32 once per model, length, device and format.

Shapes: b batch, s sequence, h query heads, k key-value heads, d head size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from motley import kernels
from motley.model.config import ModelConfig, RopeScaling


def causal_attention(q_bshd: Tensor, k_bskd: Tensor, v_bskd: Tensor) -> Tensor:
    """Softmax attention [b, s, h, d] of each token to itself and the tokens before it.

    Query head i reads key-value head i // (h / k).
    """
    out_bhsd = kernels.causal_attention(
        q_bshd.transpose(1, 2), k_bskd.transpose(1, 2), v_bskd.transpose(1, 2)
    )
    return out_bhsd.transpose(1, 2)


def rotate(x_bshd: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Each head's pairs (i, i + d/2) turned by the angles of their position."""
    return _rotate(x_bshd, *tables)


@functools.lru_cache(maxsize=64)
def rotary_tables(
    config: ModelConfig, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [s, 1, d/2] of the angles of positions 0 to `length` - 1."""
    # What is cached must serve training, even if first asked for while sampling.
    with torch.inference_mode(False), torch.device("cpu"):
        positions = torch.arange(length, dtype=torch.float32)
        angles = torch.outer(positions, rotary_frequencies(config)).unsqueeze(1)
        return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each pair, fp32 [d/2]: theta ** (-2i / d), scaled if asked."""
    size = config.head_size
    exponents = torch.arange(0, size, 2, dtype=torch.int64).float() / size
    frequencies = 1.0 / config.rope_theta**exponents
    if config.rope_scaling is None:
        return frequencies
    return _scaled_frequencies(frequencies, config.rope_scaling)


def _scaled_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's rule: long wavelengths are stretched by `factor`, short ones kept, and those
    between blended by how many turns they make in the original context."""
    turns = scaling.original_context * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = ((turns - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
    return frequencies * (keep + (1.0 - keep) / scaling.factor)


class _Rotate(torch.autograd.Function):
    """Keeps nothing but the tables: the gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turn(grad_outputs[0], cosine, sine, -1), None, None


_rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = _Rotate.apply


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, direction: int) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cosine, out=out_first).addcmul_(second, sine, value=-direction)
    torch.mul(second, cosine, out=out_second).addcmul_(first, sine, value=direction)
    return out

"""LayerNorm and RMSNorm over the last dimension.

On a CPU torch composes RMSNorm of many operations that keep up to four times the input for the
backward pass; this one keeps the input and one fp32 number per row, as torch's fused CUDA kernel
does, and computes in fp32.

Shapes: any leading dimensions, then d, which is normalised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from motley import kernels
from motley.model.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda":
            return functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)
        return _rms_norm(x, self.weight, self.epsilon)


class LayerNorm(nn.Module):
    """(x - mean) / deviation * weight, plus a bias if the model has biases."""

    def __init__(self, width: int, epsilon: float, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return kernels.layer_norm(x, self.weight, self.bias, self.epsilon)
        return functional.layer_norm(x, self.weight.shape, self.weight, None, self.epsilon)


def build_norm(config: ModelConfig) -> nn.Module:
    """The model's norm over the residual stream."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, config.norm_epsilon)
    return LayerNorm(config.width, config.norm_epsilon, bias=config.has_norm_bias)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_d: Tensor, epsilon: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight_d, scale)
        return (wide * scale).to(x.dtype) * weight_d

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_y,) = grad_outputs
        x, weight_d, scale = ctx.saved_tensors
        normed = x * scale
        product = grad_y * normed
        grad_weight_d = product.flatten(0, -2).sum(0)
        # d/dx of x * scale: what grad_y * weight has along `normed` is taken out.
        along = (product @ weight_d.to(product.dtype)).unsqueeze_(-1).div_(-x.shape[-1])
        grad_x = (grad_y * weight_d).to(scale.dtype).addcmul_(normed, along).mul_(scale)
        return grad_x.to(x.dtype), grad_weight_d.to(weight_d.dtype), None


_rms_norm: Callable[[Tensor, Tensor, float], Tensor] = _RMSNorm.apply

"""Sums of two tensors with learned weights: what residuals of the input and of values add.

Shapes: any, the same for both tensors; the weights are [2].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Mix(torch.autograd.Function):
    """Keeps the two tensors, which the weights' gradient needs, and nothing else."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(first, second, weights)
        return (first * weights[0]).addcmul_(second, weights[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,) = grad_outputs
        first, second, weights = ctx.saved_tensors
        grad_weights = torch.stack([_dot(grad, first), _dot(grad, second)]).to(weights.dtype)
        return grad * weights[0], grad * weights[1], grad_weights


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """The sum of products, added up in fp32 or more."""
    if first.dtype.itemsize < torch.float32.itemsize:
        first, second = first.float(), second.float()
    return torch.dot(first.reshape(-1), second.reshape(-1))


mix: Callable[[Tensor, Tensor, Tensor], Tensor] = _Mix.apply
"""weights[0] * first + weights[1] * second."""

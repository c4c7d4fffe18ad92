"""GELU, and residual addition fused with layer normalisation."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from motley.kernels import native


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form."""
    if x.numel() and native.usable(x):
        result: Tensor = native.apply(_Gelu, x.contiguous())
        return result
    return functional.gelu(x, approximate="tanh")


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Layer normalisation over the last dimension; weight and bias are fp32 or x's type."""
    if x.numel() and native.usable(x):
        result: Tensor = native.apply(_Norm, x.contiguous(), weight.float(), bias.float(), epsilon)
        return result
    return functional.layer_norm(x, weight.shape, weight, bias, epsilon)


def add_norm(
    stream: Tensor, update: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """(stream + update, its layer norm): the addition and the norm after it, in one pass."""
    if stream.numel() and native.usable(stream, update):
        inputs = stream.contiguous(), update.contiguous(), weight.float(), bias.float(), epsilon
        result: tuple[Tensor, Tensor] = native.apply(_AddNorm, *inputs)
        return result
    total = stream + update
    return total, functional.layer_norm(total, weight.shape, weight, bias, epsilon)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        native.library().motley_gelu_forward(
            native.pointer(x), native.pointer(y), native.size(x.numel()), torch.get_num_threads()
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad = grad.contiguous()
        dx = torch.empty_like(x)
        native.library().motley_gelu_backward(
            native.pointer(x),
            native.pointer(grad),
            native.pointer(dx),
            native.size(x.numel()),
            torch.get_num_threads(),
        )
        return dx


def _norm_forward(
    x: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(x + update, its norm, mean and reciprocal deviation of each row)."""
    width = x.shape[-1]
    total = x if update is None else torch.empty_like(x)
    y = torch.empty_like(x, dtype=torch.bfloat16)
    stats = x.new_empty(x.numel() // width, 2, dtype=torch.float32)
    native.library().motley_norm_forward(
        int(x.dtype == torch.float32),
        native.pointer(x),
        native.pointer(update),
        native.pointer(weight),
        native.pointer(bias),
        native.pointer(total),
        native.pointer(y),
        native.pointer(stats),
        native.size(stats.shape[0]),
        native.size(width),
        ctypes.c_float(epsilon),
        torch.get_num_threads(),
    )
    return total, y, stats


def _norm_backward(
    saved: tuple[Tensor, ...], carried: Tensor | None, grad: Tensor, *, half: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of the stream, of a bf16 update (with `half`), of the weight and of the bias."""
    total, stats, weight = saved
    grad = grad.contiguous()
    dx = torch.empty_like(total)
    dx_half = (
        torch.empty_like(total, dtype=torch.bfloat16)
        if half and total.dtype == torch.float32
        else None
    )
    dw, db = torch.empty_like(weight), torch.empty_like(weight)
    native.library().motley_norm_backward(
        int(total.dtype == torch.float32),
        native.pointer(total),
        native.pointer(stats),
        native.pointer(weight),
        native.pointer(grad),
        native.pointer(carried),
        native.pointer(dx),
        native.pointer(dx_half),
        native.pointer(dw),
        native.pointer(db),
        native.size(stats.shape[0]),
        native.size(total.shape[-1]),
        torch.get_num_threads(),
    )
    return dx, dx if half and dx_half is None else dx_half, dw, db


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        _, y, stats = _norm_forward(x, None, weight, bias, epsilon)
        ctx.save_for_backward(x, stats, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, _, dw, db = _norm_backward(ctx.saved_tensors, None, grad, half=False)
        return dx, dw, db, None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        total, y, stats = _norm_forward(x, update, weight, bias, epsilon)
        ctx.save_for_backward(total, stats, weight)
        ctx.set_materialize_grads(False)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, carried: Tensor | None, grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad is None:
            half = None if carried is None else carried.to(torch.bfloat16)
            return carried, half, None, None, None
        carried = None if carried is None else carried.contiguous()
        dx, dx_half, dw, db = _norm_backward(ctx.saved_tensors, carried, grad, half=True)
        return dx, dx_half, dw, db, None

"""A linear layer on bf16 activations whose weight gradient is summed in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from motley.kernels import native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias in x's type; parameters of another type are converted on the way."""
    if x.numel() and native.usable(x) and weight.dtype in (torch.float32, torch.bfloat16):
        result: Tensor = native.apply(_Linear, x, weight, bias)
        return result
    return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def weight_gradient(
    grad: Tensor, x: Tensor, *, bias: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """grad.T @ x in float, and with `bias` the column sums of grad; `out` is added to when given.

    grad is [rows, outputs] and x [rows, inputs], both bf16 with contiguous rows.
    """
    rows, outputs = grad.shape
    inputs = x.shape[1]
    result = grad.new_empty(outputs, inputs, dtype=torch.float32) if out is None else out
    sums = grad.new_empty(outputs, dtype=torch.float32) if bias else None
    # The kernel packs its right side cheaply and as a whole: that is to be the narrower one.
    swap = inputs > outputs
    left, right = (x, grad) if swap else (grad, x)
    native.library().motley_weight_gradient(
        native.pointer(left),
        native.size(left.stride(0)),
        native.size(left.shape[1]),
        native.pointer(right),
        native.size(right.stride(0)),
        native.size(right.shape[1]),
        native.size(rows),
        native.pointer(result),
        native.pointer(sums),
        0 if sums is None else 2 if swap else 1,
        int(swap),
        int(out is not None),
        torch.get_num_threads(),
    )
    return result, sums


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = weight.to(torch.bfloat16)
        rows = x.reshape(-1, x.shape[-1])
        if rows.stride(-1) != 1:
            rows = rows.contiguous()
        ctx.save_for_backward(rows, half)
        ctx.types = weight.dtype, None if bias is None else bias.dtype
        out = _product(rows, half, bias)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, half = ctx.saved_tensors
        weight_type, bias_type = ctx.types
        grad_rows = grad.reshape(-1, grad.shape[-1])
        if grad_rows.stride(-1) != 1:
            grad_rows = grad_rows.contiguous()
        dx = (grad_rows @ half).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return dx, None, None
        dw, db = weight_gradient(grad_rows, rows, bias=bias_type is not None)
        return dx, dw.to(weight_type), None if db is None else db.to(bias_type)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The forward product; oneDNN adds the bias as it writes the result, which addmm does not."""
    if bias is None:
        return rows @ weight.t()
    half = bias.to(rows.dtype)
    if torch.backends.mkldnn.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, half, "none", [], "")
        return result
    return functional.linear(rows, weight, half)

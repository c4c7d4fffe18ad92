"""Linear layers on bf16 activations whose weight gradients are summed in fp32.

A parameter may carry `gradient_sum`, an fp32 tensor of its shape: its gradient is then added there
at once, in fp32, and autograd gets none. That spares a rounding to bf16 and two passes over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from motley.kernels import native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., inputs] @ weight.T + bias."""
    return linear_joined(x, (weight,), (bias,))


def linear_joined(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """Several linear layers of one input as one product; their outputs side by side.

    The biases are all there or all None.
    """
    if x.numel() and native.usable(x, *weights):
        result: Tensor = native.apply(_Linear, x, len(weights), *weights, *biases)
        return result
    parts = [
        functional.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def weight_gradient(
    grad: Tensor, x: Tensor, *, bias: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """grad.T @ x in float, and with `bias` the column sums of grad; `out` is added to when given.

    grad is [rows, outputs] and x [rows, inputs], both bf16 with contiguous rows.
    """
    rows, outputs = grad.shape
    inputs = x.shape[1]
    result = grad.new_empty(outputs, inputs, dtype=torch.float32) if out is None else out
    sums = grad.new_zeros(outputs, dtype=torch.float32) if bias else None
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
    def forward(ctx: Any, x: Tensor, count: int, *parameters: Tensor | None) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        joined = weights[0] if count == 1 else torch.cat([w for w in weights if w is not None])
        offset = biases[0]
        if offset is not None and count > 1:
            offset = torch.cat([b for b in biases if b is not None])
        rows = _contiguous_rows(x)
        ctx.save_for_backward(rows, joined)
        ctx.parameters = weights, biases
        assert joined is not None
        return _product(rows, joined, offset).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, joined = ctx.saved_tensors
        weights, biases = ctx.parameters
        grad_rows = _contiguous_rows(grad)
        dx = (grad_rows @ joined).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        widths = [weight.shape[0] for weight in weights]
        of_weights, of_biases = [], []
        parts = torch.split(grad_rows, widths, dim=1)
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            of_weight, of_bias = _parameter_gradients(part, rows, weight, bias)
            of_weights.append(of_weight)
            of_biases.append(of_bias)
        return dx, None, *of_weights, *of_biases


def _parameter_gradients(
    grad: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What autograd still has to add up: nothing where the parameters carry their own sums."""
    total = getattr(weight, "gradient_sum", None)
    dw, db = weight_gradient(grad, rows, bias=bias is not None, out=total)
    bias_total = getattr(bias, "gradient_sum", None)
    if bias_total is not None and db is not None:
        bias_total.add_(db)
        db = None
    return (
        None if total is not None else dw.to(weight.dtype),
        None if db is None or bias is None else db.to(bias.dtype),
    )


def _contiguous_rows(x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The forward product; oneDNN adds the bias as it writes the result, which addmm does not."""
    if bias is None:
        return rows @ weight.t()
    half = bias.to(rows.dtype)
    if torch.backends.mkldnn.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, half, "none", [], "")
        return result
    return functional.linear(rows, weight, half)

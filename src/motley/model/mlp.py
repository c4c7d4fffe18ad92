"""The MLP of a block, or of an expert, and the linear layer that all layers use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from motley import kernels
from motley.model.config import ModelConfig


class Linear(nn.Linear):
    """x @ weight.T + bias, through the native kernels where they are on."""

    def forward(self, x: Tensor) -> Tensor:
        return kernels.linear(x, self.weight, self.bias)


class MLP(nn.Module):
    """down(activation(up(x))); with SwiGLU down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig, hidden: int) -> None:
        super().__init__()
        self.activation = config.activation
        width, bias = config.width, config.has_mlp_bias
        self.gate = Linear(width, hidden, bias) if config.gated else None
        self.up = Linear(width, hidden, bias)
        self.down = Linear(hidden, width, bias)

    def forward(self, x_bsw: Tensor) -> Tensor:
        up = self.up(x_bsw)
        if self.gate is not None:
            hidden = _swiglu(self.gate(x_bsw), up)
        else:
            hidden = _UNGATED[self.activation](up)
        out_bsw: Tensor = self.down(hidden)
        return out_bsw


_UNGATED: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": kernels.gelu,
    "gelu_exact": functional.gelu,
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up that keeps its two inputs only; silu(gate) is computed again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grad_outputs
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, functional.silu(gate).mul_(grad)


_swiglu: Callable[[Tensor, Tensor], Tensor] = _SwiGLU.apply

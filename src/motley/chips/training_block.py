"""A plain pre-norm transformer, forward and backward: what share of the matmul rate training gets.

It is kept apart from `motley.model` so that a chip's figures do not depend on the model that is
trained, but runs on the same `motley.kernels` and adds up its weight gradients in fp32 as training
does. FLOPs are counted as for MFU: matrix products, causal attention, backward twice forward.

Shapes: b batch, s sequence, d width, p queries, keys and values side by side, f MLP width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """The blocks and the micro-batch that one training step runs."""

    width: int = 512
    sequence_length: int = 256
    batch: int = 4
    num_blocks: int = 4
    head_size: int = 64

    @property
    def flops(self) -> float:
        """FLOPs of one forward and backward pass."""
        length = self.sequence_length
        matrices = 12 * self.width**2
        attention = 2.0 * self.width * length * (length + 1)
        forward = 2.0 * length * matrices + attention
        return 3 * forward * self.batch * self.num_blocks

    def __str__(self) -> str:
        return (
            f"{self.num_blocks} blocks of width {self.width}, "
            f"{self.batch} sequences of {self.sequence_length} tokens"
        )


CPU_SHAPE = BlockShape()
ACCELERATOR_SHAPE = BlockShape(width=2048, sequence_length=1024, batch=8, num_blocks=2)
"""A block of width 512 would measure an accelerator's launch overhead."""


def shape_for(device_type: str) -> BlockShape:
    """The shape that this type of device is measured with."""
    return CPU_SHAPE if device_type == "cpu" else ACCELERATOR_SHAPE


def training_step(
    shape: BlockShape, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    """A function that runs one forward and backward pass on fixed random data."""
    import torch

    blocks = [_Block(shape, device, dtype) for _ in range(shape.num_blocks)]
    size = (shape.batch, shape.sequence_length, shape.width)
    input_bsd = torch.randn(size).to(device, dtype).requires_grad_()
    grad_bsd = torch.randn(size).to(device, dtype)
    sums = [(weight, _fp32_sum(weight)) for block in blocks for weight in block.layers.parameters()]

    def step() -> None:
        hidden_bsd = input_bsd
        for block in blocks:
            hidden_bsd = block.forward(hidden_bsd)
        torch.autograd.backward(hidden_bsd, grad_bsd)
        input_bsd.grad = None
        for weight, total in sums:
            if weight.grad is not None and weight.grad is not total:
                total.add_(weight.grad)
                weight.grad = None

    return step


def _fp32_sum(weight: nn.Parameter) -> Tensor:
    """Where the weight's gradient is added up, by autograd, a kernel, or after the step."""
    import torch

    total = torch.zeros_like(weight, dtype=torch.float32)
    if weight.dtype == torch.float32:
        weight.grad = total
    else:
        weight.gradient_sum = total  # type: ignore[attr-defined]
    return total


class _Block:
    """Attention and a four times wider MLP, each after a LayerNorm and beside a residual."""

    def __init__(self, shape: BlockShape, device: torch.device, dtype: torch.dtype) -> None:
        from torch import nn

        width = shape.width
        self.num_heads = width // shape.head_size
        self.norms = [nn.LayerNorm(width), nn.LayerNorm(width)]
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        layers = (*self.norms, self.qkv, self.project, self.up, self.down)
        self.layers = nn.ModuleList(layers).to(device, dtype)

    def forward(self, x_bsd: Tensor) -> Tensor:
        from motley import kernels

        first, second = self.norms
        normed_bsd = kernels.layer_norm(x_bsd, first.weight, first.bias, first.eps)
        parts_bsp = kernels.linear(normed_bsd, self.qkv.weight, self.qkv.bias)
        mixed_bsd = kernels.causal_attention_packed(parts_bsp, self.num_heads, self.num_heads)
        update_bsd = kernels.linear(mixed_bsd, self.project.weight, self.project.bias)
        x_bsd, normed_bsd = kernels.add_norm(
            x_bsd, update_bsd, second.weight, second.bias, second.eps
        )
        hidden_bsf = kernels.gelu(kernels.linear(normed_bsd, self.up.weight, self.up.bias))
        return x_bsd + kernels.linear(hidden_bsf, self.down.weight, self.down.bias)

"""A plain pre-norm transformer, forward and backward: what share of the matmul rate training gets.

It is kept apart from `motley.model` so that a chip's figures do not depend on the model that is
trained. FLOPs are counted as for MFU: matrix products, causal attention, backward twice forward.

Shapes: b batch, s sequence, d width, h heads, e head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
    wanted = [input_bsd, *(weight for block in blocks for weight in block.layers.parameters())]

    def step() -> None:
        hidden_bsd = input_bsd
        for block in blocks:
            hidden_bsd = block.forward(hidden_bsd)
        torch.autograd.grad(hidden_bsd, wanted, grad_bsd)

    return step


class _Block:
    """Attention and a four times wider MLP, each after a LayerNorm and beside a residual."""

    def __init__(self, shape: BlockShape, device: torch.device, dtype: torch.dtype) -> None:
        from torch import nn

        width = shape.width
        self.num_heads = width // shape.head_size
        layers = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.layers = nn.ModuleList(layers).to(device, dtype)

    def forward(self, x_bsd: Tensor) -> Tensor:
        from torch.nn import functional

        norm1, qkv, project, norm2, up, down = self.layers
        batch, length, width = x_bsd.shape
        parts_bs3he = qkv(norm1(x_bsd)).view(batch, length, 3, self.num_heads, -1)
        q_bhse, k_bhse, v_bhse = parts_bs3he.permute(2, 0, 3, 1, 4)
        mixed_bhse = functional.scaled_dot_product_attention(q_bhse, k_bhse, v_bhse, is_causal=True)
        x_bsd = x_bsd + project(mixed_bhse.transpose(1, 2).reshape(batch, length, width))
        out_bsd: Tensor = x_bsd + down(functional.gelu(up(norm2(x_bsd))))
        return out_bsd

"""A plain pre-norm transformer, forward and backward: what share of the matmul rate training gets.

It is kept apart from `motley.model` so that a chip's figures do not depend on the model that is
trained. FLOPs are counted as for MFU: the matrix products, causal attention, backward twice forward.

Shapes: B batch, S sequence, D width, H heads, d head size.
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
    input_BSD = torch.randn(size).to(device, dtype).requires_grad_()
    grad_BSD = torch.randn(size).to(device, dtype)

    def step() -> None:
        hidden_BSD = input_BSD
        for block in blocks:
            hidden_BSD = block.forward(hidden_BSD)
        hidden_BSD.backward(grad_BSD)
        input_BSD.grad = None
        for block in blocks:
            block.clear_gradients()

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

    def forward(self, x_BSD: Tensor) -> Tensor:
        import torch.nn.functional as F

        norm1, qkv, project, norm2, up, down = self.layers
        batch, length, width = x_BSD.shape
        parts_BS3Hd = qkv(norm1(x_BSD)).view(batch, length, 3, self.num_heads, -1)
        q_BHSd, k_BHSd, v_BHSd = parts_BS3Hd.permute(2, 0, 3, 1, 4)
        mixed_BHSd = F.scaled_dot_product_attention(q_BHSd, k_BHSd, v_BHSd, is_causal=True)
        x_BSD = x_BSD + project(mixed_BHSd.transpose(1, 2).reshape(batch, length, width))
        out_BSD: Tensor = x_BSD + down(F.gelu(up(norm2(x_BSD))))
        return out_BSD

    def clear_gradients(self) -> None:
        self.layers.zero_grad(set_to_none=True)

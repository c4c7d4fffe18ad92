"""The peer of `single.py`: a training loop as small repositories write it, on one device.

GPT-2 blocks, fused QKV, `scaled_dot_product_attention`, `cross_entropy` over all logits, fused
AdamW. Three forms: fp32 (as such loops run on a CPU), bf16 by autocast, and weights cast to bf16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from motley.model.config import ModelConfig


class PlainBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.mlp_size), nn.Linear(config.mlp_size, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).split(width, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        hidden = functional.gelu(self.up(self.norm_2(x)), approximate="tanh")
        out: Tensor = x + self.down(hidden)
        return out


class PlainModel(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.token.weight)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class PlainLoop:
    """One step at a time; `form` is "fp32", "bf16-autocast", or bf16 weights."""

    def __init__(self, config: ModelConfig, form: str, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.device = device
        self.autocast = form == "bf16-autocast"
        dtype = torch.float32 if self.autocast or form.startswith("fp32") else torch.bfloat16
        self.model = PlainModel(config).to(device, dtype)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def step(self, tokens: Tensor, targets: Tensor) -> None:
        """Forward, backward and update on one batch [samples, length]."""
        tokens, targets = tokens.to(self.device), targets.to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            loss = self.model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

"""AdamW over fp32 master weights, as PyTorch implements it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from motley.recipe import OptimizerConfig


def build_adamw(masters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only. Fused where the device has the kernel."""
    parameters = list(masters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=_has_fused(parameters),
    )


def _has_fused(parameters: list[nn.Parameter]) -> bool:
    """Fused AdamW exists in PyTorch core for these device types."""
    return all(parameter.device.type in ("cpu", "cuda", "xpu", "mps") for parameter in parameters)


def moments(
    optimizer: torch.optim.AdamW, parameter: nn.Parameter
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First moment, second moment and step count of one parameter, made where missing.

    Making them up front lets a checkpoint be read straight into them.
    """
    state = optimizer.state[parameter]
    if not state:
        on_device = parameter.device if optimizer.defaults["fused"] else "cpu"
        state["step"] = torch.zeros((), dtype=torch.float32, device=on_device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state["exp_avg"], state["exp_avg_sq"], state["step"]

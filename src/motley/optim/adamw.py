"""AdamW over fp32 master weights, as PyTorch implements it, with a rate for each role."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from motley.optim.roles import role_of
from motley.recipe import OptimizerConfig
from motley.recipe.optimizer import Role

ROLES: tuple[Role, ...] = ("matrix", "embedding", "head", "vector")


class AdamW:
    """Updates the named parameters from their `grad`. Fused where the device has the kernel."""

    def __init__(self, masters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._masters = dict(masters)
        self._config = config
        self._fused = _has_fused(self._masters)
        groups = [
            {
                "params": list(members.values()),
                "peak_rate": config.peak_rate(role),
                "decay": config.decay(role),
            }
            for role in ROLES
            if (members := _of_role(self._masters, role))
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=self._fused,
        )

    @torch.no_grad()
    def step(self, share: float, update: int) -> None:
        """One update at `share` of the peak rates."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_rate"] * share
            group["weight_decay"] = 0.0 if self._config.cautious_weight_decay else group["decay"]
            if self._config.cautious_weight_decay and group["decay"]:
                for parameter in group["params"]:
                    self._decay_cautiously(parameter, group["lr"] * group["decay"])
        self._optimizer.step()

    def _decay_cautiously(self, parameter: nn.Parameter, amount: float) -> None:
        """The update will go against the sign of the new first moment."""
        first, _, _ = self._moments(parameter)
        assert parameter.grad is not None
        direction = first.lerp(parameter.grad, 1 - self._config.beta1)
        decay_where_shrinking(parameter, direction, amount)

    def state(self, name: str) -> dict[str, Tensor]:
        """Live moments and count of updates, made where missing, so that a checkpoint can be read
        straight into them; empty if the parameter is not this optimizer's."""
        parameter = self._masters.get(name)
        if parameter is None:
            return {}
        first, second, step = self._moments(parameter)
        return {"first_moment": first, "second_moment": second, "update": step}

    def _moments(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor, Tensor]:
        state = self._optimizer.state[parameter]
        if not state:
            on_device = parameter.device if self._fused else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=on_device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state["exp_avg"], state["exp_avg_sq"], state["step"]


def decay_where_shrinking(parameter: Tensor, direction: Tensor, amount: float) -> None:
    """parameter -= amount x parameter where the update along -direction brings it nearer to zero:
    cautious weight decay (arXiv 2510.12402)."""
    shrinks = (direction * parameter).gt_(0.0)
    parameter.addcmul_(parameter, shrinks, value=-amount)


def _of_role(masters: Mapping[str, nn.Parameter], role: Role) -> dict[str, nn.Parameter]:
    return {name: each for name, each in masters.items() if role_of(name, each.shape) == role}


def _has_fused(masters: Mapping[str, nn.Parameter]) -> bool:
    """Fused AdamW exists in PyTorch core for these device types."""
    return all(each.device.type in ("cpu", "cuda", "xpu", "mps") for each in masters.values())

"""AdamW is PyTorch's, with decay on matrices only, and its state can be made up front."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from motley.optim.adamw import build_adamw, moments
from motley.recipe import OptimizerConfig

CONFIG = OptimizerConfig(learning_rate=3e-3, beta1=0.8, beta2=0.99, epsilon=1e-7, weight_decay=0.2)
SHAPES = [(5, 7), (7,), (3, 4, 2), (1,)]


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(held: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in held:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def by_hand(values: list[Tensor], num_steps: int) -> list[Tensor]:
    """Algorithm 2 of arXiv 1711.05101 in float64, written out."""
    masters = [value.detach().double().clone() for value in values]
    first = [torch.zeros_like(master) for master in masters]
    second = [torch.zeros_like(master) for master in masters]
    for step in range(num_steps):
        generator = torch.Generator().manual_seed(100 + step)
        for index, master in enumerate(masters):
            gradient = torch.randn(master.shape, generator=generator).double()
            first[index] = CONFIG.beta1 * first[index] + (1 - CONFIG.beta1) * gradient
            second[index] = CONFIG.beta2 * second[index] + (1 - CONFIG.beta2) * gradient**2
            m = first[index] / (1 - CONFIG.beta1 ** (step + 1))
            v = second[index] / (1 - CONFIG.beta2 ** (step + 1))
            decay = CONFIG.weight_decay if master.ndim >= 2 else 0.0
            master *= 1 - CONFIG.learning_rate * decay
            master -= CONFIG.learning_rate * m / (v.sqrt() + CONFIG.epsilon)
    return masters


def test_it_is_the_papers_algorithm() -> None:
    held = parameters()
    expected = by_hand(list(held), 5)
    optimizer = build_adamw(held, CONFIG)
    for step in range(5):
        set_gradients(held, step)
        optimizer.step()
    for own, reference in zip(held, expected, strict=True):
        torch.testing.assert_close(own.detach().double(), reference, rtol=1e-5, atol=1e-6)


def test_it_equals_torchs_own() -> None:
    held, reference = parameters(), parameters()
    optimizer = build_adamw(held, CONFIG)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in reference if p.ndim >= 2]},
        {"params": [p for p in reference if p.ndim < 2], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(
        groups,
        lr=3e-3, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.2, fused=True,
    )  # fmt: skip
    for step in range(5):
        for group, other in ((held, optimizer), (reference, plain)):
            set_gradients(group, step)
            other.step()
    assert all(torch.equal(own, theirs) for own, theirs in zip(held, reference, strict=True))


@pytest.mark.parametrize("shape", [(4, 3), (4,)])
def test_only_matrices_decay(shape: tuple[int, ...]) -> None:
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = build_adamw([parameter], CONFIG)
    parameter.grad = torch.zeros(shape)
    optimizer.step()
    decayed = 1 - 3e-3 * 0.2 if len(shape) > 1 else 1.0
    torch.testing.assert_close(parameter.detach(), torch.full(shape, decayed))


def test_parameters_may_come_from_an_iterator() -> None:
    optimizer = build_adamw(iter(parameters()), CONFIG)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(SHAPES)


def test_state_that_is_made_up_front_changes_nothing() -> None:
    held, late = parameters(), parameters()
    early_optimizer, late_optimizer = build_adamw(held, CONFIG), build_adamw(late, CONFIG)
    for parameter in held:
        first, second, updates = moments(early_optimizer, parameter)
        assert first.shape == second.shape == parameter.shape
        assert float(updates) == 0.0
    for step in range(3):
        for group, optimizer in ((held, early_optimizer), (late, late_optimizer)):
            set_gradients(group, step)
            optimizer.step()
    assert all(torch.equal(own, other) for own, other in zip(held, late, strict=True))


def test_moments_are_live() -> None:
    """What a checkpoint reads into them is what the optimizer goes on with, to the last bit."""
    held = parameters()
    optimizer = build_adamw(held, CONFIG)
    for step in range(2):
        set_gradients(held, step)
        optimizer.step()
    copy = [nn.Parameter(parameter.detach().clone()) for parameter in held]
    restored = build_adamw(copy, CONFIG)
    for own, other in zip(held, copy, strict=True):
        for target, source in zip(moments(restored, other), moments(optimizer, own), strict=True):
            target.copy_(source)
    for group, used in ((held, optimizer), (copy, restored)):
        set_gradients(group, 2)
        used.step()
    assert all(torch.equal(own, other) for own, other in zip(held, copy, strict=True))

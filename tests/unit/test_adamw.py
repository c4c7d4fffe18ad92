"""AdamW is PyTorch's, with a rate and decay by role, and its state can be made up front."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from motley.optim.adamw import AdamW
from motley.optim.roles import is_orthogonalised, role_of
from motley.recipe import OptimizerConfig
from motley.recipe.optimizer import Role

CONFIG = OptimizerConfig(learning_rate=3e-3, beta1=0.8, beta2=0.99, epsilon=1e-7, weight_decay=0.2)
SHAPES = [(5, 7), (7,), (3, 4, 2), (1,)]
NAMES = ["embedding.token", "head.norm.weight", "blocks.0.mlp.up.weight", "blocks.1.mlp.up.bias"]


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(held: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in held:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def build(held: list[nn.Parameter], config: OptimizerConfig = CONFIG) -> AdamW:
    return AdamW(dict(zip(NAMES, held, strict=False)), config)


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
    optimizer = build(held)
    for step in range(5):
        set_gradients(held, step)
        optimizer.step(1.0, step)
    for own, reference in zip(held, expected, strict=True):
        torch.testing.assert_close(own.detach().double(), reference, rtol=1e-5, atol=1e-6)


def test_it_equals_torchs_own() -> None:
    held, reference = parameters(), parameters()
    optimizer = build(held)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in reference if p.ndim >= 2]},
        {"params": [p for p in reference if p.ndim < 2], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(
        groups,
        lr=3e-3, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.2, fused=True,
    )  # fmt: skip
    pairs: list[tuple[list[nn.Parameter], Any]] = [(held, optimizer), (reference, plain)]
    for step in range(5):
        for group, other in pairs:
            set_gradients(group, step)
            other.step(1.0, step) if isinstance(other, AdamW) else other.step()
    assert all(torch.equal(own, theirs) for own, theirs in zip(held, reference, strict=True))


@pytest.mark.parametrize("shape", [(4, 3), (4,)])
def test_only_matrices_decay(shape: tuple[int, ...]) -> None:
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = build([parameter])
    parameter.grad = torch.zeros(shape)
    optimizer.step(1.0, 0)
    decayed = 1 - 3e-3 * 0.2 if len(shape) > 1 else 1.0
    torch.testing.assert_close(parameter.detach(), torch.full(shape, decayed))


def test_each_role_has_its_rate_and_decay() -> None:
    """Under a gradient of ones the first step of AdamW is its rate, in every element."""
    config = dataclasses.replace(
        CONFIG,
        embedding_learning_rate=0.01,
        head_learning_rate=0.02,
        matrix_learning_rate=0.03,
        vector_learning_rate=0.04,
        matrix_weight_decay=0.5,
        epsilon=1e-12,
    )
    names = ["embedding.token", "head.output", "blocks.0.mlp.up.weight", "blocks.0.norm.weight"]
    shapes = [(3, 2), (3, 2), (3, 2), (3,)]
    held = {
        name: nn.Parameter(torch.ones(*shape)) for name, shape in zip(names, shapes, strict=True)
    }
    for parameter in held.values():
        parameter.grad = torch.ones_like(parameter)
    AdamW(held, config).step(0.5, 0)
    moved = [float(1 - parameter.detach().max()) for parameter in held.values()]
    rates = [(0.005, 0.2), (0.01, 0.2), (0.015, 0.5), (0.02, 0.0)]
    assert moved == pytest.approx([rate * (1 + decay) for rate, decay in rates], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "role", "orthogonal"),
    [
        ("blocks.0.mlp.up.weight", "matrix", True),
        ("blocks.11.mlp.router.weight", "head", False),
        ("embedding.token", "embedding", False),
        ("embedding.position", "embedding", False),
        ("embedding.ngram_projection.weight", "head", False),
        ("head.output", "head", False),
        ("head.ahead.weight", "head", False),
        ("tables.ngram2", None, False),
        ("tables.value", None, False),
    ],
)
def test_roles_follow_what_a_matrix_does(name: str, role: Role | None, orthogonal: bool) -> None:
    assert is_orthogonalised(name, (4, 4)) is orthogonal
    assert not is_orthogonalised(name, (4,))
    assert role is None or role_of(name, (4, 4)) == role


def test_a_cautious_decay_takes_only_from_weights_that_shrink_anyway() -> None:
    config = dataclasses.replace(CONFIG, cautious_weight_decay=True)
    (held,), (plain,) = ([nn.Parameter(torch.ones(2, 2))] for _ in range(2))
    undecayed = dataclasses.replace(CONFIG, weight_decay=0.0)
    optimizers = build([held], config), build([plain], undecayed)
    for step in range(4):
        before = held.detach().clone()
        generator = torch.Generator().manual_seed(step)
        gradient = torch.randn(2, 2, generator=generator)
        with torch.no_grad():
            plain.copy_(held)
        for parameter, optimizer in zip((held, plain), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step(1.0, step)
        shrinks = (before - plain.detach()) * before > 0
        taken = torch.where(shrinks, before * 3e-3 * 0.2, 0.0)
        torch.testing.assert_close(plain.detach() - held.detach(), taken, rtol=1e-3, atol=1e-7)


def test_state_that_is_made_up_front_changes_nothing() -> None:
    held, late = parameters(), parameters()
    early_optimizer, late_optimizer = build(held), build(late)
    for name, parameter in zip(NAMES, held, strict=True):
        state = early_optimizer.state(name)
        assert state["first_moment"].shape == state["second_moment"].shape == parameter.shape
        assert float(state["update"]) == 0.0
    assert early_optimizer.state("blocks.9.mlp.up.weight") == {}
    for step in range(3):
        for group, optimizer in ((held, early_optimizer), (late, late_optimizer)):
            set_gradients(group, step)
            optimizer.step(1.0, step)
    assert all(torch.equal(own, other) for own, other in zip(held, late, strict=True))


def test_moments_are_live() -> None:
    """What a checkpoint reads into them is what the optimizer goes on with, to the last bit."""
    held = parameters()
    optimizer = build(held)
    for step in range(2):
        set_gradients(held, step)
        optimizer.step(1.0, step)
    copy = [nn.Parameter(parameter.detach().clone()) for parameter in held]
    restored = build(copy)
    for name in NAMES:
        for kind, target in restored.state(name).items():
            target.copy_(optimizer.state(name)[kind])
    for group, used in ((held, optimizer), (copy, restored)):
        set_gradients(group, 2)
        used.step(1.0, 2)
    assert all(torch.equal(own, other) for own, other in zip(held, copy, strict=True))

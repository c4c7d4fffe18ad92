"""Moments of 8 bits: close to AdamW's own, without bias, exact to resume, and small."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from motley.optim import eight_bit
from motley.optim.adamw import AdamW
from motley.optim.eight_bit import EightBitAdamW
from motley.optim.optimizer import build_optimizer
from motley.recipe import OptimizerConfig

CONFIG = OptimizerConfig(learning_rate=0.01, state_bits=8, weight_decay=0.1)
NAME = "embedding.token"
SHAPE = (70, 61)
"""No whole number of blocks."""


def start() -> nn.Parameter:
    return nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)))


def gradient(step: int) -> Tensor:
    """Of very unlike sizes, as rare and frequent tokens have them."""
    generator = torch.Generator().manual_seed(step)
    sizes = torch.logspace(-5, 0, SHAPE[0]).unsqueeze(1)
    return torch.randn(SHAPE, generator=generator) * sizes


def train(steps: int, optimizer: EightBitAdamW | AdamW, held: nn.Parameter, first: int = 0) -> None:
    for step in range(first, first + steps):
        held.grad = gradient(step)
        optimizer.step(1.0, step)


@pytest.mark.parametrize("cautious", [False, True])
def test_it_moves_as_adamw_does(cautious: bool) -> None:
    config = dataclasses.replace(CONFIG, cautious_weight_decay=cautious)
    held, reference = start(), start()
    train(60, EightBitAdamW({NAME: held}, config), held)
    train(60, AdamW({NAME: reference}, config), reference)
    moved, expected = held.detach() - start().detach(), reference.detach() - start().detach()
    assert float((moved - expected).norm() / expected.norm()) < 0.1
    torch.testing.assert_close(moved.norm(), expected.norm(), rtol=0.02, atol=0.0)


def test_the_first_update_is_adamws() -> None:
    held, reference = start(), start()
    train(1, EightBitAdamW({NAME: held}, CONFIG), held)
    train(1, AdamW({NAME: reference}, CONFIG), reference)
    torch.testing.assert_close(held, reference)


def test_an_element_without_gradients_comes_to_rest() -> None:
    """Beside others of its block that go on: as rare tokens beside frequent ones."""
    config = dataclasses.replace(CONFIG, weight_decay=0.0, learning_rate=1e-3)
    held = nn.Parameter(torch.zeros(64, 64))
    reference = nn.Parameter(torch.zeros(64, 64))
    optimizers = EightBitAdamW({NAME: held}, config), AdamW({NAME: reference}, config)
    for step in range(1200):
        given = torch.randn(64, 64, generator=torch.Generator().manual_seed(step)) * 1e-3
        if step >= 20:
            given[::4] = 0.0
        held.grad, reference.grad = given.clone(), given.clone()
        for optimizer in optimizers:
            optimizer.step(1.0, step)
    idle, expected = (float(each.detach()[::4].abs().mean()) for each in (held, reference))
    assert idle == pytest.approx(expected, rel=0.05)


def test_a_moment_that_shrinks_slowly_is_followed() -> None:
    """Without the spread a code that a step moves by less than half of itself would never move."""
    held = start()
    optimizer = EightBitAdamW({NAME: held}, CONFIG)
    train(3, optimizer, held)
    before = decoded(optimizer)
    for step in range(3, 43):
        held.grad = torch.zeros(SHAPE)
        held.grad[0, 0] = 1.0  # keeps the first block's scale
        optimizer.step(1.0, step)
    ratio = decoded(optimizer)[0, 1:] / before[0, 1:]
    assert float(ratio.log().mean().exp()) == pytest.approx(0.95**20, rel=0.2)


def decoded(optimizer: EightBitAdamW) -> Tensor:
    state = optimizer.state(NAME)
    return eight_bit._decode(
        state["second_moment_codes"],
        state["second_moment_scales"],
        eight_bit.SECOND_LEVELS,
        eight_bit.SECOND_OCTAVES,
    )


@given(st.floats(min_value=-12, max_value=0), st.integers(1, 10**6))
def test_codes_are_close_and_have_no_bias(exponent: float, count: int) -> None:
    values = torch.full((4, 256), 2.0**exponent)
    values[:, 0] = 1.0
    codes = torch.zeros(4, 256, dtype=torch.uint8)
    spread = eight_bit._spread(0, values, count)
    assert 0 <= float(spread.min()) <= float(spread.max()) < 1
    levels, octaves = eight_bit.SECOND_LEVELS, eight_bit.SECOND_OCTAVES
    scales = eight_bit._encode(values, spread, codes, levels, octaves, least=1)
    ratio = eight_bit._decode(codes, scales, levels, octaves) / values
    step = 2 ** (octaves / (levels - 1))
    assert 1 / step - 1e-5 <= float(ratio.min()) <= float(ratio.max()) <= step + 1e-5
    assert float(ratio.log().mean()) == pytest.approx(0.0, abs=0.004)


def test_zeros_and_pieces() -> None:
    held = start()
    optimizer = EightBitAdamW({NAME: held}, dataclasses.replace(CONFIG, weight_decay=0.0))
    held.grad = torch.zeros(SHAPE)
    optimizer.step(1.0, 0)
    assert torch.equal(held, start())


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = start(), start()
    train(5, EightBitAdamW({NAME: whole}, CONFIG), whole)
    monkeypatch.setattr(eight_bit, "PIECE_BLOCKS", 3)
    train(5, EightBitAdamW({NAME: pieces}, CONFIG), pieces)
    assert torch.equal(whole, pieces)


def test_a_resume_is_exact_and_the_state_small() -> None:
    held = start()
    optimizer = EightBitAdamW({NAME: held}, CONFIG)
    train(4, optimizer, held)
    copy = nn.Parameter(held.detach().clone())
    restored = EightBitAdamW({NAME: copy}, CONFIG)
    for kind, target in restored.state(NAME).items():
        target.copy_(optimizer.state(NAME)[kind])
    train(3, optimizer, held, first=4)
    train(3, restored, copy, first=4)
    assert torch.equal(held, copy)
    num_bytes = sum(each.numel() * each.element_size() for each in optimizer.state(NAME).values())
    assert num_bytes < 2.1 * held.numel()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_small_parameters_and_muons_momentum_keep_32_bits(kind: str) -> None:
    masters = {
        NAME: start(),
        "blocks.0.mlp.up.weight": nn.Parameter(torch.zeros(80, 80)),
        "blocks.0.mlp.up.bias": nn.Parameter(torch.zeros(80)),
    }
    config = dataclasses.replace(CONFIG, kind=kind)  # type: ignore[arg-type]
    optimizer = build_optimizer(masters, config)
    expected = [NAME, "blocks.0.mlp.up.weight"][: 2 if kind == "adamw" else 1]
    coded = [name for name in masters if "first_moment_codes" in optimizer.state(name)]
    assert coded == expected

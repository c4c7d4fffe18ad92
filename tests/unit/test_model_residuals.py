"""The frugal block against plain code: input and value residuals, norms, RoPE, ReLU^2, the cap."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model_shapes import CONTEXT, SHAPES, VOCABULARY
from motley.model.config import ModelConfig
from motley.model.init import initial_value
from motley.model.mix import mix
from motley.model.stream import carried, carried_width, reads, stream_width, writes
from motley.model.table_config import MemoryTables
from motley.model.transformer import build_transformer
from motley.train.message import pack, unpack

FRUGAL = SHAPES["frugal"]


def norm(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    scaled = x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return scaled if weight is None else scaled * weight


def turned(x: Tensor, theta: float) -> Tensor:
    """Rotary positions of [b, s, h, d] by their definition with complex numbers."""
    length, size = x.shape[1], x.shape[3]
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)[:, None]
    pairs = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def plain_loss(
    config: ModelConfig, parameters: dict[str, Tensor], tokens: Tensor, targets: Tensor
) -> Tensor:
    """The whole frugal model without any of our layers."""
    p, epsilon = parameters, config.norm_epsilon
    batch, length = tokens.shape
    first_input = norm(p["embedding.token"][tokens], p["embedding.norm.weight"], epsilon)
    x, first_values = first_input, None
    for index in range(config.layers):
        b = f"blocks.{index}."
        x = p[b + "input_mix"][0] * x + p[b + "input_mix"][1] * first_input
        h = norm(x, p[b + "attention_norm.weight"], epsilon)
        q, k, v = (
            (h @ p[f"{b}attention.{part}.weight"].T).view(batch, length, -1, config.head_size)
            for part in ("query", "key", "value")
        )
        first_values = v if first_values is None else first_values
        v = p[b + "attention.value_mix"][0] * v + p[b + "attention.value_mix"][1] * first_values
        if (weights := p.get(b + "attention.table_mix")) is not None:
            v = weights[0] * v + weights[1] * p["tables.value"][tokens].view(v.shape)
        q = turned(norm(q, p[b + "attention.query_norm.weight"], epsilon), config.rope_theta)
        k = turned(norm(k, p[b + "attention.key_norm.weight"], epsilon), config.rope_theta)
        groups = config.heads // config.num_key_value_heads
        k, v = (part.repeat_interleave(groups, dim=2) for part in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(config.head_size)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        shares = scores.masked_fill(future, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", shares, v).flatten(2)
        x = x + mixed @ p[b + "attention.output.weight"].T
        h = norm(x, p[b + "mlp_norm.weight"], epsilon)
        x = x + (h @ p[b + "mlp.up.weight"].T).relu().square() @ p[b + "mlp.down.weight"].T
    logits = norm(x, p["head.norm.weight"], epsilon) @ p["head.output"].T
    if config.logit_softcap is not None:
        logits = config.logit_softcap * (logits / config.logit_softcap).tanh()
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


@pytest.mark.parametrize("tables", [None, MemoryTables(value_blocks=(0, 2))])
def test_loss_and_gradients_are_those_of_plain_code(tables: MemoryTables | None) -> None:
    config = dataclasses.replace(FRUGAL, layers=3, tables=tables)
    model = build_transformer(config, seed=1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    tokens, targets = torch.randint(VOCABULARY, (2, 2, CONTEXT), generator=generator)
    loss = model.loss(tokens, targets)
    loss.backward()
    copies = {name: value.clone().requires_grad_() for name, value in model.state().items()}
    expected = plain_loss(config, copies, tokens, targets)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, parameter in model.named().items():
        error = (parameter.grad.to_dense() - copies[name].grad).norm() / copies[name].grad.norm()
        assert error < 1e-5, name


def test_residuals_start_as_the_plain_model_but_for_the_values() -> None:
    config = dataclasses.replace(FRUGAL, value_residual=False)
    without = dataclasses.replace(config, input_residual=False)
    tokens = torch.randint(VOCABULARY, (2, CONTEXT))
    ours, plain = (build_transformer(each, seed=0).logits(tokens) for each in (config, without))
    assert torch.equal(ours, plain)
    start = initial_value(config, "blocks.1.attention.value_mix", torch.Size((2,)), 0)
    assert start.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_mix_equals_its_definition(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, 7)
    values = [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]
    first, second, grad = values
    weights = torch.tensor([0.8, -0.3]).to(dtype)
    ours = [each.clone().requires_grad_() for each in (first, second, weights)]
    found = mix(*ours)
    found.backward(grad)
    wide = [each.double().requires_grad_() for each in (first, second, weights)]
    expected = wide[2][0] * wide[0] + wide[2][1] * wide[1]
    expected.backward(grad.double())
    pairs = [(found, expected), *((a.grad, b.grad) for a, b in zip(ours, wide, strict=True))]
    for own, reference in pairs:
        assert own is not None
        assert reference is not None
        assert own.dtype == dtype
        assert ((own - reference).norm() / reference.norm()).item() < tolerance


def test_edges_carry_what_is_read_behind_them() -> None:
    config = dataclasses.replace(FRUGAL, layers=3)
    assert [carried_width(config, layer) for layer in range(6)] == [0, 48, 120, 120, 48, 0]
    assert list(carried(config, 2)) == ["stream", "first_input", "first_values"]
    assert stream_width(config) == 120
    assert stream_width(SHAPES["gpt2"]) == 48
    tables = dataclasses.replace(config, tables=MemoryTables(value_blocks=(0, 1)))
    assert [carried_width(tables, layer) for layer in range(6)] == [0, 72, 144, 120, 48, 0]
    alone = dataclasses.replace(FRUGAL, layers=1)
    assert stream_width(alone) == 48


@given(
    layers=st.integers(1, 6),
    input_residual=st.booleans(),
    value_residual=st.booleans(),
)
def test_what_a_layer_reads_is_alive_before_it(
    layers: int, input_residual: bool, value_residual: bool
) -> None:
    config = dataclasses.replace(
        FRUGAL, layers=layers, input_residual=input_residual, value_residual=value_residual
    )
    for layer in range(1, config.num_layers):
        alive = set(carried(config, layer))
        assert set(reads(config, layer)) <= alive
        behind = {
            name for later in range(layer, config.num_layers) for name in reads(config, later)
        }
        assert alive <= behind
        assert alive <= {name for each in range(layer) for name in writes(config, each)}


@settings(max_examples=20)
@given(batch=st.integers(1, 4), length=st.integers(1, 9), layer=st.integers(1, 4))
def test_messages_come_apart_as_they_were_joined(batch: int, length: int, layer: int) -> None:
    config = dataclasses.replace(FRUGAL, layers=3)
    pieces = {
        name: torch.randn(batch, length, width) for name, width in carried(config, layer).items()
    }
    message = pack(config, layer, pieces)
    assert message.shape == (batch, length, carried_width(config, layer))
    found = unpack(config, layer, message)
    assert list(found) == list(pieces)
    for name, piece in pieces.items():
        assert torch.equal(found[name], piece)
        assert found[name].is_contiguous()

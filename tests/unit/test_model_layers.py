"""Layers, initial parameters, attention, norms and sampling."""

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
from motley.errors import CheckpointError
from motley.model.attention import causal_attention, rotary_tables, rotate
from motley.model.generate import choose, generate
from motley.model.init import initial_value, initialize
from motley.model.layers import Block, Embedding, Head, build_layer, parameter_name
from motley.model.norm import LayerNorm, RMSNorm
from motley.model.run import run_layer
from motley.model.stream import STREAM, TOKENS, reads
from motley.model.transformer import Transformer, build_transformer


def random_batch(batch: int = 2) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCABULARY, (batch, CONTEXT), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    targets[:, -1] = -100
    return tokens, targets


def test_layers_are_embedding_blocks_and_head() -> None:
    kinds = [type(build_layer(SHAPES["gpt2"], layer)) for layer in range(4)]
    assert kinds == [Embedding, Block, Block, Head]


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_the_model_lacks(layer: int) -> None:
    with pytest.raises(IndexError, match="layers 0 to 3"):
        build_layer(SHAPES["gpt2"], layer)


def test_global_names() -> None:
    config = SHAPES["gpt2"]
    names = [
        parameter_name(config, layer, local_name)
        for layer in range(config.num_layers)
        for local_name, _ in build_layer(config, layer, device="meta").named_parameters()
    ]
    assert names[:4] == [
        "embedding.token",
        "embedding.position",
        "blocks.0.attention_norm.weight",
        "blocks.0.attention_norm.bias",
    ]
    assert "blocks.1.mlp.down.bias" in names
    assert names[-3:] == ["embedding.token", "head.norm.weight", "head.norm.bias"]
    assert parameter_name(SHAPES["llama"], 3, "output") == "head.output"


@pytest.mark.parametrize("name", SHAPES)
def test_layers_run_apart_equal_the_whole(name: str) -> None:
    """Each layer with its own autograd segment, as the trainer runs them, gives the same bits."""
    config, (tokens, targets) = SHAPES[name], random_batch()
    whole = build_transformer(config, seed=3)
    loss = whole.loss(tokens, targets)
    loss.backward()

    layers = [build_layer(config, layer) for layer in range(config.num_layers)]
    for layer, module in enumerate(layers):
        initialize(module, config, layer, 3)
    pieces, steps = {TOKENS: tokens}, []
    for layer, module in enumerate(layers[:-1]):
        taken = {name: pieces[name].detach() for name in reads(config, layer)}
        for piece in taken.values():
            piece.requires_grad_(piece.is_floating_point())
        given = run_layer(module, config, layer, taken)
        steps.append((taken, given))
        pieces |= given
    last = pieces[STREAM].detach().requires_grad_()
    apart = layers[-1](last, targets)
    apart.backward()
    gradients = {STREAM: last.grad}
    for taken, given in reversed(steps):
        sums = [(given[name] * gradients.pop(name)).sum() for name in given]
        torch.stack(sums).sum().backward()
        for name, piece in taken.items():
            if name != TOKENS:
                gradients[name] = gradients.get(name, 0) + piece.grad

    assert torch.equal(apart.detach(), loss.detach())
    found: dict[str, Tensor] = {}
    for layer, module in enumerate(layers):
        for local_name, parameter in module.named_parameters():
            global_name = parameter_name(config, layer, local_name)
            found[global_name] = parameter.grad + found.get(global_name, 0)
    for global_name, parameter in whole.named().items():
        torch.testing.assert_close(found[global_name], parameter.grad)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(list(SHAPES)), layer=st.integers(0, 3), seed=st.integers(0, 2**40))
def test_initial_parameters_depend_on_name_and_seed_alone(name: str, layer: int, seed: int) -> None:
    config = SHAPES[name]
    alone = build_layer(config, layer)
    initialize(alone, config, layer, seed)
    whole = build_transformer(config, seed=seed).layers[layer]
    for ours, other in zip(alone.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, other)


def test_initial_parameters_are_golden() -> None:
    """The same bits on every machine; a change here changes every recipe's training."""
    value = initial_value(SHAPES["gpt2"], "blocks.0.mlp.up.weight", torch.Size((2, 2)), 0)
    golden = [
        -0.020101359114050865,
        0.0013216333463788033,
        -0.048561833798885345,
        -0.022516507655382156,
    ]
    assert value.flatten().tolist() == golden


def test_initial_parameters_have_the_scale_of_gpt2() -> None:
    config = SHAPES["gpt2"]
    shape = torch.Size((600, 2000))
    up = initial_value(config, "blocks.0.mlp.up.weight", shape, 0)
    down = initial_value(config, "blocks.0.mlp.down.weight", shape, 0)
    assert up.std().item() == pytest.approx(0.02, rel=0.01)
    assert up.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert down.std().item() == pytest.approx(0.02 / math.sqrt(2 * config.layers), rel=0.01)
    other = initial_value(config, "blocks.0.mlp.up.weight", shape, 1)
    assert (up - other).std().item() == pytest.approx(0.02 * math.sqrt(2), rel=0.01)
    assert torch.equal(
        initial_value(config, "head.norm.weight", torch.Size((3,)), 0), torch.ones(3)
    )
    assert not initial_value(config, "head.norm.bias", torch.Size((3,)), 0).any()


def test_zero_init_makes_every_block_the_identity() -> None:
    config = dataclasses.replace(SHAPES["llama"], zero_init=True)
    block = build_transformer(config, seed=0).layers[1]
    x = torch.randn(2, CONTEXT, config.width)
    assert torch.equal(block(x), x)
    plain = build_transformer(SHAPES["llama"], seed=0).layers[1]
    for name, value in plain.state_dict().items():
        is_zero = name in ("attention.output.weight", "mlp.down.weight")
        assert torch.equal(block.state_dict()[name], torch.zeros_like(value) if is_zero else value)


def test_capped_logits_are_those_of_the_loss() -> None:
    """Sampling and training score alike."""
    plain = build_transformer(SHAPES["gpt2"], seed=0)
    capped = build_transformer(dataclasses.replace(SHAPES["gpt2"], logit_softcap=0.05), seed=0)
    tokens, targets = random_batch()
    logits = capped.logits(tokens)
    torch.testing.assert_close(logits, 0.05 * torch.tanh(plain.logits(tokens) / 0.05))
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(capped.loss(tokens, targets), expected)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_equals_its_definition(kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 9, 4, 8, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, 9, kv_heads, 8, generator=generator, dtype=torch.float64)
    found = causal_attention(q, k, v)
    for head in range(4):
        own = head // (4 // kv_heads)
        scores = q[:, :, head] @ k[:, :, own].transpose(1, 2) / math.sqrt(8)
        future = torch.ones(9, 9, dtype=torch.bool).triu(1)
        expected = scores.masked_fill(future, -torch.inf).softmax(-1) @ v[:, :, own]
        torch.testing.assert_close(found[:, :, head], expected)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    config = SHAPES["llama"]
    tables = rotary_tables(config, CONTEXT, torch.device("cpu"), torch.float32)
    one = torch.randn(1, 1, 2, config.head_size).expand(1, CONTEXT, 2, -1)
    turned = rotate(one, tables)
    torch.testing.assert_close(turned.norm(dim=-1), one.norm(dim=-1))
    first, second = turned[0, :, 0], turned[0, :, 1]
    products = first @ second.T
    for distance in (1, 7):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)


def test_rotation_and_swiglu_and_norm_gradients() -> None:
    config = dataclasses.replace(SHAPES["qwen3"], width=6, mlp_width=5, head_width=4, heads=2)
    block = build_layer(config, 1, dtype=torch.float64)
    initialize(block, config, 1, 0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    x = torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


def test_tables_made_while_sampling_serve_training() -> None:
    config = dataclasses.replace(SHAPES["llama"], rope_theta=777.0)
    model, (tokens, targets) = build_transformer(config, seed=0), random_batch()
    with torch.inference_mode():
        model.logits(tokens)
    model.loss(tokens, targets).backward()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_rms_norm_equals_torchs(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(2, 5, 16, generator=generator).to(dtype) for _ in range(2))
    norm = RMSNorm(16, 1e-6).to(dtype)
    with torch.no_grad():
        norm.weight.add_(torch.randn(16, generator=generator))
    found_x, expected_x = x.clone().requires_grad_(), x.double().requires_grad_()
    weight = norm.weight.detach().double().requires_grad_()
    found = norm(found_x)
    found.backward(grad)
    expected = functional.rms_norm(expected_x, (16,), weight, 1e-6)
    expected.backward(grad.double())
    for ours, reference in (
        (found, expected),
        (found_x.grad, expected_x.grad),
        (norm.weight.grad, weight.grad),
    ):
        assert ours.dtype == dtype
        assert ((ours - reference).norm() / reference.norm()).item() < tolerance


def test_layer_norm_has_a_bias_only_if_asked() -> None:
    assert [name for name, _ in LayerNorm(4, 1e-5, bias=False).named_parameters()] == ["weight"]


def test_state_round_trip() -> None:
    config, (tokens, targets) = SHAPES["gpt2"], random_batch()
    first, second = build_transformer(config, seed=0), build_transformer(config, seed=1)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    assert torch.equal(first.loss(tokens, targets), second.loss(tokens, targets))
    assert second.head.token is second.embedding.token


def test_wrong_states_are_refused() -> None:
    model = build_transformer(SHAPES["gpt2"], seed=0)
    state = model.state()
    with pytest.raises(CheckpointError, match=r"embedding\.position"):
        model.load_state({name: t for name, t in state.items() if "position" not in name})
    with pytest.raises(CheckpointError, match=r"embedding\.token"):
        model.load_state({**state, "embedding.token": torch.zeros(3, 3)})


def test_greedy_sampling_follows_the_logits() -> None:
    model = build_transformer(SHAPES["gpt2"], seed=0)
    tokens, _ = random_batch(1)
    prompt = tokens[:, :5]
    found = generate(model, prompt, 3, temperature=0.0)
    assert torch.equal(found[:, :5], prompt)
    for length in (5, 6, 7):
        assert found[0, length] == model.logits(found[:, :length])[0, -1].argmax()


def test_sampling_goes_beyond_the_context_and_repeats_with_its_seed() -> None:
    model = build_transformer(SHAPES["llama"], seed=0)
    tokens, _ = random_batch(2)
    samples = [
        generate(model, tokens, 4, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    ]
    assert samples[0].shape == (2, CONTEXT + 4)
    assert torch.equal(samples[0], samples[1])


def test_top_k_and_temperature() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(200, -1)
    generator = torch.Generator().manual_seed(0)
    assert set(choose(logits, 1.0, 2, generator).flatten().tolist()) == {2, 3}
    assert set(choose(logits, 100.0, None, generator).flatten().tolist()) == {0, 1, 2, 3}
    assert set(choose(logits, 0.01, 9, generator).flatten().tolist()) == {3}
    with pytest.raises(ValueError, match="temperature"):
        choose(logits, -1.0, None, generator)


@pytest.mark.parametrize("name", SHAPES)
def test_bf16_is_near_fp32(name: str) -> None:
    config, (tokens, targets) = SHAPES[name], random_batch()
    full = build_transformer(config, seed=0)
    half = build_transformer(config, seed=0, dtype=torch.bfloat16)
    loss = half.loss(tokens, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(full.loss(tokens, targets).item(), rel=5e-3)


def test_a_step_down_the_gradient_lowers_the_loss() -> None:
    model: Transformer = build_transformer(SHAPES["relu2"], seed=0)
    tokens, targets = random_batch()
    before = model.loss(tokens, targets)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(1e-3 * parameter.grad / parameter.grad.norm().clamp_min(1e-6))
    assert model.loss(tokens, targets).item() < before.item()

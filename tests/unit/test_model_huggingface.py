"""GPT-2, Llama and Qwen compute what Hugging Face's models compute, with the same weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from model_shapes import CONTEXT, SHAPES, VOCABULARY
from motley.errors import CheckpointError, RecipeError
from motley.model.config import ModelConfig
from motley.model.huggingface import (
    config_from_huggingface,
    config_to_huggingface,
    huggingface_family,
    state_from_huggingface,
    state_to_huggingface,
)
from motley.model.presets import PRESETS
from motley.model.transformer import build_transformer

transformers = pytest.importorskip("transformers")

FAMILIES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
}
TOLERANCE = 1e-5


def reference_model(family: str, config: ModelConfig) -> Any:
    """Hugging Face's model of the same shape with random weights, norms and biases included."""
    config_name, model_name = FAMILIES[family]
    table = config_to_huggingface(config)
    reference_config = getattr(transformers, config_name).from_dict(table)
    for dropout in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(reference_config, dropout):
            setattr(reference_config, dropout, 0.0)
    model = getattr(transformers, model_name)(reference_config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients_equal(family: str) -> None:
    config = SHAPES[family]
    reference = reference_model(family, config)
    ours = build_transformer(config, seed=0)
    ours.load_state(state_from_huggingface(config, reference.state_dict()))
    tokens = torch.randint(VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(2))
    targets = tokens.roll(-1, 1)
    targets[:, -1] = -100

    expected_logits = reference(tokens).logits
    expected_loss = torch.nn.functional.cross_entropy(
        expected_logits.flatten(0, 1), targets.flatten(), reduction="sum"
    )
    expected_loss.backward()
    loss = ours.loss(tokens, targets)
    loss.backward()

    assert relative_error(ours.logits(tokens), expected_logits) < TOLERANCE
    assert loss.item() == pytest.approx(expected_loss.item(), rel=TOLERANCE)
    expected_gradients = {name: p.grad for name, p in reference.named_parameters()}
    gradients = {name: p.grad for name, p in ours.named().items()}
    expected = state_from_huggingface(config, expected_gradients)
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in gradients.items():
        # The gradient of GPT-2's key bias is exactly zero; what is left is rounding.
        error = float((gradient - expected[name]).norm())
        assert error < TOLERANCE * max(float(expected[name].norm()), 1e-2 * largest), name


@pytest.mark.parametrize("family", FAMILIES)
def test_state_round_trip_is_exact(family: str) -> None:
    config = SHAPES[family]
    reference = reference_model(family, config)
    state = state_from_huggingface(config, reference.state_dict())
    back = state_to_huggingface(config, state)
    own = dict(reference.named_parameters())
    assert set(back) == set(own)
    for name, tensor in back.items():
        assert torch.equal(tensor, own[name]), name


def test_body_names_and_masks_of_old_gpt2_checkpoints() -> None:
    config = SHAPES["gpt2"]
    state = reference_model("gpt2", config).state_dict()
    old = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    old["h.0.attn.bias"] = torch.ones(1)
    expected = state_from_huggingface(config, state)
    for name, tensor in state_from_huggingface(config, old).items():
        assert torch.equal(tensor, expected[name])


def test_a_missing_tensor_is_named() -> None:
    config = SHAPES["qwen3"]
    state = reference_model("qwen3", config).state_dict()
    del state["model.layers.1.self_attn.q_norm.weight"]
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.self_attn\.q_norm\.weight"):
        state_from_huggingface(config, state)


@pytest.mark.parametrize("family", FAMILIES)
def test_config_round_trip_through_transformers(family: str) -> None:
    config = SHAPES[family]
    config_class = getattr(transformers, FAMILIES[family][0])
    table = config_class.from_dict(config_to_huggingface(config)).to_dict()
    read = config_from_huggingface(table)
    resolved = dataclasses.replace(
        config,
        key_value_heads=read.key_value_heads,
        head_width=read.head_width,
        mlp_width=config.mlp_size,
    )
    assert read == resolved
    assert (read.num_key_value_heads, read.head_size) == (
        config.num_key_value_heads,
        config.head_size,
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in PRESETS
        if name.startswith(("gpt2", "gpt3", "llama", "qwen")) and "-a" not in name
    ],
)
def test_presets_round_trip(name: str) -> None:
    config = PRESETS[name]
    read = config_from_huggingface(config_to_huggingface(config))
    assert huggingface_family(read) == huggingface_family(config)
    assert config_to_huggingface(read) == config_to_huggingface(config)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("gpt2", {"model_type": "gpt3"}, "model_type 'gpt3'"),
        ("gpt2", {"activation_function": "silu"}, "activation_function is 'silu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen3", {"num_key_value_heads": 3}, "3 do not divide 4 heads"),
    ],
)
def test_unsupported_configs_are_refused(family: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        config_from_huggingface({**config_to_huggingface(SHAPES[family]), **change})


@pytest.mark.parametrize("name", ["relu2", "opt", "no positions", "frugal"])
def test_a_shape_of_no_family_cannot_be_exported(name: str) -> None:
    with pytest.raises(RecipeError, match="no supported Hugging Face model"):
        config_to_huggingface(SHAPES[name])


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_norm": True},
        {"input_residual": True},
        {"value_residual": True},
        {"logit_softcap": 30.0},
    ],
)
def test_keys_that_hugging_face_lacks_are_named(change: dict[str, Any]) -> None:
    config = dataclasses.replace(SHAPES["gpt2"], **change)
    with pytest.raises(RecipeError, match=f"model.{next(iter(change))}"):
        config_to_huggingface(config)
    with pytest.raises(RecipeError, match=f"model.{next(iter(change))}"):
        state_to_huggingface(config, {})


def test_how_a_model_began_does_not_matter_to_its_export() -> None:
    began = dataclasses.replace(SHAPES["gpt2"], zero_init=True)
    assert config_to_huggingface(began) == config_to_huggingface(SHAPES["gpt2"])


def test_what_is_planned_only_is_read_but_not_exchanged() -> None:
    stretched = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    config = config_from_huggingface({**config_to_huggingface(SHAPES["llama"]), **stretched})
    with pytest.raises(RecipeError, match="kind 'yarn'"):
        state_from_huggingface(config, {})


@pytest.mark.parametrize("activation", ["relu", "relu2", "gelu_exact"])
def test_gpt2_with_another_activation(activation: str) -> None:
    config = dataclasses.replace(SHAPES["gpt2"], **{"activation": activation})
    reference, ours = reference_model("gpt2", config), build_transformer(config, seed=0)
    ours.load_state(state_from_huggingface(config, reference.state_dict()))
    tokens = torch.randint(VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(2))
    assert relative_error(ours.logits(tokens), reference(tokens).logits) < TOLERANCE

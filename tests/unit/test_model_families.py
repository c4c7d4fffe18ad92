"""Shapes read from Hugging Face configurations have the parameters of Hugging Face's models.

The reference models are built on torch's meta device, so the largest cost nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from motley.errors import RecipeError
from motley.model.activations import layer_activations
from motley.model.config import LatentAttention, MixtureOfExperts, ModelConfig
from motley.model.counts import layer_counts, model_counts, parameter_groups
from motley.model.huggingface_config import READERS, config_from_huggingface
from motley.model.layers import build_layer
from motley.model.presets import PRESETS
from motley.model.products import AttentionCore, attention_core, layer_products
from motley.model.trainable import require_trainable

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 32,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 101, "n_layer": 3, "n_embd": 48, "n_head": 4, "n_positions": 32}
MPT = {"vocab_size": 101, "n_layers": 3, "d_model": 48, "n_heads": 4, "max_seq_len": 32}
OPT = {**SMALL, "ffn_dim": 96}
EXPERTS = {**GROUPED, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
DEEPSEEK = {
    **SMALL, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 24,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 10, "n_group": 1, "topk_group": 1,
    "num_key_value_heads": 4,
}  # fmt: skip

CASES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {**GPT2, "n_inner": 80}),
    ("gpt2", {**GPT2, "activation_function": "relu", "tie_word_embeddings": False}),
    ("gpt_bigcode", GPT2),
    ("gpt_neox", SMALL),
    ("gpt_neox", {**SMALL, "use_parallel_residual": False, "tie_word_embeddings": True}),
    ("opt", OPT),
    ("opt", {**OPT, "enable_bias": False}),
    ("opt", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    ("bloom", {"vocab_size": 101, "hidden_size": 48, "n_layer": 3, "n_head": 4}),
    ("mpt", MPT),
    ("falcon", {**SMALL, "alibi": True, "bias": True, "parallel_attn": False}),
    ("falcon", {**SMALL, "multi_query": True}),
    ("falcon", {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2}),
    ("starcoder2", GROUPED),
    ("nemotron", GROUPED),
    ("llama", GROUPED),
    ("llama", {**SMALL, "attention_bias": True, "head_dim": 16, "tie_word_embeddings": True}),
    ("llama", {**SMALL, "mlp_bias": True}),
    ("mistral", GROUPED),
    ("phi3", GROUPED),
    ("gemma", {**GROUPED, "head_dim": 16}),
    ("granite", {**GROUPED, "residual_multiplier": 0.2}),
    ("qwen2", GROUPED),
    ("qwen3", {**GROUPED, "head_dim": 16}),
    ("mixtral", {**GROUPED, "num_local_experts": 6}),
    ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 56}),
    ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [0], "head_dim": 16}),
    ("qwen3_moe", {**EXPERTS, "norm_topk_prob": True, "head_dim": 16}),
    ("deepseek_v2", DEEPSEEK),
    ("deepseek_v3", DEEPSEEK),
    ("deepseek_v3", {**DEEPSEEK, "q_lora_rank": None, "num_nextn_predict_layers": 0}),
]
NAMES = [f"{family}-{number}" for number, (family, _) in enumerate(CASES)]
PLANNED_ONLY = {
    "bloom": ["ALiBi"],
    "deepseek_v2": ["latent attention"],
    "deepseek_v3": ["latent attention"],
    "falcon": ["ALiBi", "parallel"],
    "gemma": ["geglu"],
    "gpt_neox": ["0.25 of each head"],
    "granite": ["residual_multiplier"],
    "mpt": ["ALiBi"],
    "nemotron": ["1 + weight"],
    "opt": ["post_norm"],
    "qwen2_moe": ["not divided by their sum"],
    "qwen3_moe": ["not divided by their sum"],
}
"""Families with cases that motley's layers do not compute, and a word of the reason."""


def reference(family: str, table: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The whole `config.json` and Hugging Face's model of it, on the meta device."""
    config = transformers.AutoConfig.for_model(family, **table)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return config.to_dict(), model


@pytest.mark.parametrize(("family", "table"), CASES, ids=NAMES)
def test_parameters_are_those_of_transformers(family: str, table: dict[str, Any]) -> None:
    full, model = reference(family, table)
    read = config_from_huggingface(full)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert model_counts(read, 8).parameters == total
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    found = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    expected = [layer_counts(read, layer, 8, "bf16").parameters for layer in (1, 2, 3)]
    assert found == expected


@pytest.mark.parametrize(
    ("family", "preset"),
    [
        ("gpt2", "gpt2"),
        ("gpt_neox", "gpt-neox-20b"),
        ("opt", "opt-125m"),
        ("llama", "llama1-7b"),
        ("mixtral", "mixtral-8x7b"),
        ("deepseek_v3", "deepseek-v3"),
    ],
)
def test_shapes_that_transformers_has_as_defaults(family: str, preset: str) -> None:
    full, model = reference(family, {})
    named, total = PRESETS[preset], sum(parameter.numel() for parameter in model.parameters())
    assert model_counts(named, 8).parameters == total
    read = config_from_huggingface(full)
    for layer in (0, 1, named.num_layers - 2, named.num_layers - 1):
        assert layer_products(read, layer) == layer_products(named, layer)
    assert attention_core(read, 1) == attention_core(named, 1)


def test_every_family_is_compared() -> None:
    assert {family for family, _ in CASES} == set(READERS)


def refusal(config: ModelConfig) -> str:
    """Why the model cannot be trained; empty if it can be."""
    try:
        require_trainable(config)
    except RecipeError as reason:
        return str(reason)
    return ""


@pytest.mark.parametrize(("family", "table"), CASES, ids=NAMES)
def test_a_model_is_refused_or_built_as_counted(family: str, table: dict[str, Any]) -> None:
    """Only what motley's layers compute is built; what they have is what was counted."""
    read = config_from_huggingface(transformers.AutoConfig.for_model(family, **table).to_dict())
    if reason := refusal(read):
        with pytest.raises(RecipeError, match="can be planned but not trained"):
            build_layer(read, 1)
        assert any(word in reason for word in PLANNED_ONLY[family])
        return
    for layer in range(read.num_layers):
        names = dict(build_layer(read, layer, device="meta").named_parameters())
        counted = layer_counts(read, layer, 8, "bf16").parameters
        assert counted == sum(parameter.numel() for parameter in names.values())
        for product in layer_products(read, layer):
            name = product.name if product.name in names else f"{product.name}.weight"
            if 0 < layer < read.num_layers - 1:
                assert names[name].shape == (product.out_width, product.in_width)


@pytest.mark.parametrize(("family", "table"), CASES, ids=NAMES)
def test_products_and_attention_are_all_flops(family: str, table: dict[str, Any]) -> None:
    read = config_from_huggingface(transformers.AutoConfig.for_model(family, **table).to_dict())
    length = 24
    for layer in range(read.num_layers):
        core, counts = attention_core(read, layer), layer_counts(read, layer, length, "bf16")
        products = layer_products(read, layer)
        flops = sum(length * product.flops_per_token for product in products)
        flops += core.forward_flops(length) if core else 0.0
        assert counts.forward_flops == flops
        assert counts.backward_flops == 2 * flops
        kept = sum(tensor.bytes_per_token(2) for tensor in layer_activations(read, layer))
        assert counts.activation_bytes == length * kept


@pytest.mark.parametrize("family", READERS)
def test_flops_equal_those_counted_on_transformers(family: str) -> None:
    """torch counts attention over all S x S pairs, ours over those that causality leaves; and
    theirs have a product of one column that makes the angles of rotary positions."""
    table = next(table for name, table in reversed(CASES) if name == family)
    config = transformers.AutoConfig.for_model(family, **table)
    read, length = config_from_huggingface(config.to_dict()), 16
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.int64), use_cache=False)
    core = attention_core(read, 1)
    assert core is not None
    all_pairs = core.forward_flops(length) * length * length / core.pairs(length)
    ours = sum(layer_counts(read, i, length, "fp32").forward_flops for i in range(read.num_layers))
    expected = ours + read.layers * (all_pairs - core.forward_flops(length))
    assert counter.get_total_flops() == pytest.approx(expected, abs=2 * length * 64)


def test_a_window_bounds_the_pairs() -> None:
    core = AttentionCore(4, 4, 16, 16, window=5)
    assert core.pairs(12) == sum(min(token + 1, 5) for token in range(12))
    assert core.pairs(3) == 6


def test_a_token_passes_a_part_of_the_experts() -> None:
    dense = ModelConfig(layers=2, width=8, heads=2, vocab_size=11, mlp_width=20)
    experts = MixtureOfExperts(
        experts=6, experts_per_token=2, expert_width=10, leading_dense_layers=1
    )
    mixed = dataclasses.replace(dense, mixture=experts)
    full, counts = model_counts(dense, 4), model_counts(mixed, 4)
    assert full.active_parameters == full.parameters
    assert not dense.has_experts(2)
    assert [mixed.has_experts(layer) for layer in range(4)] == [False, False, True, False]
    # Two experts of half the width are as many weights as the MLP; their second bias is 8 more.
    router = 8 * 6
    assert counts.active_parameters == full.parameters + router + 8
    assert counts.parameters == counts.active_parameters + 4 * (2 * 8 * 10 + 10 + 8)
    assert counts.flops_per_token == full.flops_per_token + 6 * router
    assert sum(group.num_parameters for group in parameter_groups(mixed)) == counts.parameters


def test_published_active_parameters() -> None:
    """13 and 39 billion of Mixtral, 37 of DeepSeek-V3, 3.3 and 22 of Qwen3, by their authors."""
    active = {
        "mixtral-8x7b": 12.9, "mixtral-8x22b": 39.2, "deepseek-v3": 37.6, "qwen3-30b-a3b": 3.35,
        "qwen3-235b-a22b": 22.2,
    }  # fmt: skip
    for name, billions in active.items():
        assert model_counts(PRESETS[name], 1).active_parameters / 1e9 == pytest.approx(
            billions, rel=0.01
        )


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm is True"),
        ("mpt", {"attn_config": {"qk_ln": True}}, "qk_ln is True"),
        ("opt", {"activation_function": "tanh"}, "activation_function is 'tanh'"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, r"mlp_only_layers is \[1\]"),
        ("qwen3_moe", {"num_experts_per_tok": 9}, "9 of 6 experts"),
        ("deepseek_v3", {"kv_lora_rank": None}, "'key_value_rank' is missing"),
        ("llama", {"num_hidden_layers": 2.5}, "layers: expected a whole number"),
        ("llama", {"hidden_size": "wide"}, "wrong type"),
        ("llama", {"vocab_size": 0}, "vocab_size: must be above zero"),
    ],
)
def test_what_is_not_known_is_refused(family: str, change: dict[str, Any], message: str) -> None:
    table = next(table for name, table in reversed(CASES) if name == family)
    with pytest.raises(RecipeError, match=message):
        config_from_huggingface({"model_type": family, **table, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": {"experts": 2, "experts_per_token": 3, "expert_width": 4}}, "3 of 2 experts"),
        ({"latent": {}, "heads": 2, "key_value_heads": 1}, "as many key_value_heads"),
        ({"position_offset": -1}, "position_offset"),
        ({"attention_window": 0}, "attention_window"),
    ],
)
def test_contradictory_shapes_are_refused(change: dict[str, Any], message: str) -> None:
    latent = {"key_value_rank": 4, "plain_width": 4, "rotary_width": 2, "value_width": 4}
    kinds: dict[str, Any] = {
        "mixture": lambda table: MixtureOfExperts(**table),
        "latent": lambda table: LatentAttention(**{**latent, **table}),
    }
    shape: dict[str, Any] = {"layers": 1, "width": 8, "heads": 2}

    def build_changed() -> None:
        read = {key: kinds[key](value) if key in kinds else value for key, value in change.items()}
        ModelConfig(**{**shape, **read})

    with pytest.raises(ValueError, match=message):
        build_changed()

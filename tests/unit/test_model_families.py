"""Shapes read from Hugging Face configurations have the parameters of Hugging Face's models.

The reference models are built on torch's meta device, so the largest cost nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from motley.errors import RecipeError
from motley.model.activations import layer_activations
from motley.model.config import LatentAttention, MixtureOfExperts, ModelConfig
from motley.model.counts import layer_counts, model_counts, parameter_groups
from motley.model.huggingface_config import READERS, config_from_huggingface
from motley.model.layers import build_layer
from motley.model.products import attention_core, layer_products
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
    ("deepseek_v2", DEEPSEEK),
    ("deepseek_v3", DEEPSEEK),
    ("deepseek_v3", {**DEEPSEEK, "q_lora_rank": None, "num_nextn_predict_layers": 0}),
]
TRAINED = {"gpt2", "opt", "llama", "qwen2", "qwen3", "gpt_bigcode", "phi3", "starcoder2", "mistral"}
"""Families of which motley's layers compute some case."""


def reference(family: str, table: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The whole `config.json` and Hugging Face's model of it, on the meta device."""
    config = transformers.AutoConfig.for_model(family, **table)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return config.to_dict(), model


@pytest.mark.parametrize(
    ("family", "table"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_parameters_are_those_of_transformers(family: str, table: dict[str, Any]) -> None:
    full, model = reference(family, table)
    read = config_from_huggingface(full)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert model_counts(read, 8).parameters == total
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    found = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    expected = [layer_counts(read, layer, 8, "bf16").parameters for layer in (1, 2, 3)]
    assert found == expected

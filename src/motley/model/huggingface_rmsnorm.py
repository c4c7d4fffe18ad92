"""Hugging Face families with RMSNorm and rotary positions: from a `config.json` to our shape.

Defaults are those of the classes in transformers, which leave out of a file what equals them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from motley.errors import RecipeError
from motley.model.config import LatentAttention, MixtureOfExperts, ModelConfig
from motley.model.huggingface_fields import Table, require, rotary_positions

_MULTIPLIERS = (
    "embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier",
)  # fmt: skip


def _read(config: Table, *planned_only: str, **shape: Any) -> ModelConfig:
    """What all families share, and what one says besides."""
    rotary = rotary_positions(config)
    if "activation" not in shape:
        require(config, "hidden_act", "silu", "swish", default="silu")
    fields: dict[str, Any] = {
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "key_value_heads": config.get("num_key_value_heads"),
        "head_width": config.get("head_dim"),
        "mlp_width": config["intermediate_size"],
        "context": config["max_position_embeddings"],
        "vocab_size": config["vocab_size"],
        "norm": "rmsnorm",
        "norm_epsilon": config.get("rms_norm_eps", 1e-6),
        "activation": "swiglu",
        "bias": False,
        "tied_head": config.get("tie_word_embeddings", False),
        **rotary,
        "planned_only": rotary["planned_only"] + planned_only,
    }
    return ModelConfig(**{**fields, **shape})


def _read_llama(config: Table) -> ModelConfig:
    bias, mlp_bias = config.get("attention_bias", False), config.get("mlp_bias", False)
    return _read(config, bias=bias, mlp_bias=None if mlp_bias == bias else mlp_bias)


def _read_granite(config: Table) -> ModelConfig:
    bias = config.get("attention_bias", False)
    scaled = [f"the scaling '{key}'" for key in _MULTIPLIERS if config.get(key, 1.0) != 1.0]
    return _read(config, *scaled, bias=bias, mlp_bias=config.get("mlp_bias", False))


def _read_mistral(config: Table) -> ModelConfig:
    return _read(config, attention_window=config.get("sliding_window", 4096))


def _read_phi3(config: Table) -> ModelConfig:
    return _read(config, attention_window=config.get("sliding_window"))


def _read_gemma(config: Table) -> ModelConfig:
    require(config, "attention_bias", False, default=False)
    return _read(
        config,
        "norms that scale by 1 + weight",
        "embeddings scaled by the root of the width",
        activation="geglu",
        head_width=config.get("head_dim", 256),
        tied_head=config.get("tie_word_embeddings", True),
    )


def _read_qwen2(config: Table) -> ModelConfig:
    require(config, "use_sliding_window", False, default=False)
    return _read(config, query_key_value_bias=True)


def _read_qwen3(config: Table, *planned_only: str, **shape: Any) -> ModelConfig:
    """Its default head is not hidden_size / heads."""
    require(config, "attention_bias", False, default=False)
    require(config, "use_sliding_window", False, default=False)
    shape = {"head_width": config.get("head_dim") or 128, **shape}
    return _read(config, *planned_only, qk_norm=True, **shape)


def _read_mixtral(config: Table) -> ModelConfig:
    mixture = MixtureOfExperts(
        experts=config.get("num_local_experts", 8),
        experts_per_token=config.get("num_experts_per_tok", 2),
        expert_width=config["intermediate_size"],
    )
    window = config.get("sliding_window")
    return _read(config, attention_window=window, mixture=mixture)


def _read_qwen2_moe(config: Table) -> ModelConfig:
    require(config, "use_sliding_window", False, default=False)
    shared_width = config["shared_expert_intermediate_size"]
    return _read(
        config,
        *_unnormed_weights(config),
        query_key_value_bias=config.get("qkv_bias", True),
        mixture=_qwen_mixture(config, shared_width=shared_width, shared_gate=True),
    )


def _read_qwen3_moe(config: Table) -> ModelConfig:
    head_width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return _read_qwen3(
        config,
        *_unnormed_weights(config),
        head_width=head_width,
        mixture=_qwen_mixture(config),
    )


def _unnormed_weights(config: Table) -> tuple[str, ...]:
    """Of several experts; ours have the sum 1."""
    is_normed = config.get("norm_topk_prob", False) or config["num_experts_per_tok"] == 1
    return () if is_normed else ("scores of experts that are not divided by their sum",)


def _qwen_mixture(config: Table, **shared: Any) -> MixtureOfExperts:
    require(config, "decoder_sparse_step", 1, default=1)
    dense = sorted(config.get("mlp_only_layers") or [])
    if dense != list(range(len(dense))):
        raise RecipeError(
            f"config.json: mlp_only_layers is {dense}, which is not supported.",
            remedy="Only the first layers may be without experts.",
        )
    return MixtureOfExperts(
        experts=config.get("num_experts", config.get("num_local_experts")),
        experts_per_token=config["num_experts_per_tok"],
        expert_width=config["moe_intermediate_size"],
        leading_dense_layers=len(dense),
        **shared,
    )


def _read_deepseek(config: Table) -> ModelConfig:
    """Without the modules that predict further tokens, which are not part of the model proper."""
    require(config, "attention_bias", False, default=False)
    require(config, "moe_layer_freq", 1, default=1)
    width = config["moe_intermediate_size"]
    experts = config.get("n_routed_experts", config.get("num_local_experts"))
    mixture = experts and MixtureOfExperts(
        experts=experts,
        experts_per_token=config["num_experts_per_tok"],
        expert_width=width,
        shared_width=width * (config.get("n_shared_experts") or 0) or None,
        leading_dense_layers=config["first_k_dense_replace"],
    )
    latent = LatentAttention(
        key_value_rank=config["kv_lora_rank"],
        query_rank=config.get("q_lora_rank"),
        plain_width=config["qk_nope_head_dim"],
        rotary_width=config["qk_rope_head_dim"],
        value_width=config["v_head_dim"],
    )
    return _read(config, key_value_heads=None, head_width=None, mixture=mixture, latent=latent)


READERS: dict[str, Callable[[Table], ModelConfig]] = {
    "deepseek_v2": _read_deepseek,
    "deepseek_v3": _read_deepseek,
    "gemma": _read_gemma,
    "granite": _read_granite,
    "llama": _read_llama,
    "mistral": _read_mistral,
    "mixtral": _read_mixtral,
    "phi3": _read_phi3,
    "qwen2": _read_qwen2,
    "qwen2_moe": _read_qwen2_moe,
    "qwen3": _read_qwen3,
    "qwen3_moe": _read_qwen3_moe,
}

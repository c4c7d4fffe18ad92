"""Hugging Face families with LayerNorm: from a `config.json` to our shape.

Defaults are those of the classes in transformers, which leave out of a file what equals them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from motley.model.config import ModelConfig
from motley.model.huggingface_fields import Table, activation, first, require, rotary_positions


def _read_gpt2(config: Table, key_value_heads: int | None = None) -> ModelConfig:
    require(config, "scale_attn_weights", True, default=True)
    require(config, "scale_attn_by_inverse_layer_idx", False, default=False)
    require(config, "add_cross_attention", False, default=False)
    shape: dict[str, Any] = {"activation": activation(config, "activation_function", "gelu_new")}
    return ModelConfig(
        layers=config["n_layer"],
        width=config["n_embd"],
        heads=config["n_head"],
        key_value_heads=key_value_heads,
        mlp_width=config.get("n_inner"),
        context=config["n_positions"],
        vocab_size=config["vocab_size"],
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        tied_head=config.get("tie_word_embeddings", True),
        **shape,
    )


def _read_gpt_bigcode(config: Table) -> ModelConfig:
    """GPT-2 with one key and value head for all queries (StarCoder)."""
    return _read_gpt2(config, 1 if config.get("multi_query", True) else None)


def _read_opt(config: Table) -> ModelConfig:
    require(config, "layer_norm_elementwise_affine", True, default=True)
    require(config, "_remove_final_layer_norm", False, default=False)
    width, embedding = config["hidden_size"], config.get("word_embed_proj_dim")
    norm_first = config.get("do_layer_norm_before", True)
    shape: dict[str, Any] = {"activation": activation(config, "activation_function", "relu")}
    return ModelConfig(
        layers=config["num_hidden_layers"],
        width=width,
        heads=config["num_attention_heads"],
        mlp_width=config["ffn_dim"],
        context=config["max_position_embeddings"],
        vocab_size=config["vocab_size"],
        position_offset=2,
        arrangement="pre_norm" if norm_first else "post_norm",
        embedding_width=None if embedding == width else embedding,
        bias=config.get("enable_bias", True),
        norm_bias=True,
        tied_head=config.get("tie_word_embeddings", True),
        **shape,
    )


def _read_bloom(config: Table) -> ModelConfig:
    require(config, "apply_residual_connection_post_layernorm", False, default=False)
    return ModelConfig(
        layers=first(config, "n_layer", "num_hidden_layers"),
        width=first(config, "n_embed", "hidden_size"),
        heads=first(config, "n_head", "num_attention_heads"),
        context=config.get("seq_length", 2048),
        vocab_size=config["vocab_size"],
        positions="alibi",
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        embedding_norm=True,
        tied_head=config.get("tie_word_embeddings", True),
    )


def _read_mpt(config: Table) -> ModelConfig:
    """Learned positions give way to ALiBi where both are asked for, as in LLM Foundry."""
    attention = config.get("attn_config") or {}
    require(attention, "qk_ln", False, default=False)
    require(attention, "prefix_lm", False, default=False)
    heads = config["n_heads"]
    shared = {"multiquery_attention": 1, "grouped_query_attention": attention.get("kv_n_heads")}
    without_alibi = "learned" if config.get("learned_pos_emb", True) else "none"
    shape: dict[str, Any] = {
        "positions": "alibi" if attention.get("alibi", True) else without_alibi,
        "planned_only": tuple(
            f"attention with {key}" for key in ("clip_qkv", "softmax_scale") if attention.get(key)
        ),
    }
    return ModelConfig(
        layers=config["n_layers"],
        width=config["d_model"],
        heads=heads,
        key_value_heads=shared.get(attention.get("attn_type", "multihead_attention")),
        mlp_width=config.get("expansion_ratio", 4) * config["d_model"],
        context=config["max_seq_len"],
        vocab_size=config["vocab_size"],
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        activation="gelu_exact",
        bias=not config.get("no_bias", True),
        tied_head=config.get("tie_word_embeddings", True),
        **shape,
    )


def _read_gpt_neox(config: Table) -> ModelConfig:
    require(config, "attention_bias", True, default=True)
    parallel = config.get("use_parallel_residual", True)
    shape = rotary_positions({"rotary_pct": 0.25, **config})
    shape["activation"] = activation(config, "hidden_act", "gelu")
    return ModelConfig(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        context=config["max_position_embeddings"],
        vocab_size=config["vocab_size"],
        norm_epsilon=config.get("layer_norm_eps", 1e-5),
        arrangement="parallel_two_norms" if parallel else "pre_norm",
        tied_head=config.get("tie_word_embeddings", False),
        **shape,
    )


def _read_falcon(config: Table) -> ModelConfig:
    is_new, heads = config.get("new_decoder_architecture", False), config["num_attention_heads"]
    is_parallel = is_new or config.get("parallel_attn", True)
    num_norms = config.get("num_ln_in_parallel_attn") or (2 if is_new else 1)
    parallel = "parallel_two_norms" if num_norms == 2 else "parallel"
    old_heads = 1 if config.get("multi_query", True) else heads
    shape: dict[str, Any] = {
        **({"positions": "alibi"} if config.get("alibi") else rotary_positions(config)),
        "arrangement": parallel if is_parallel else "pre_norm",
        "activation": activation(config, "activation", "gelu"),
    }
    return ModelConfig(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=heads,
        key_value_heads=config.get("num_kv_heads") or heads if is_new else old_heads,
        mlp_width=config.get("ffn_hidden_size"),
        context=config.get("max_position_embeddings", 2048),
        vocab_size=config["vocab_size"],
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        bias=config.get("bias", False),
        norm_bias=True,
        tied_head=config.get("tie_word_embeddings", True),
        **shape,
    )


def _read_starcoder2(config: Table) -> ModelConfig:
    bias = config.get("use_bias", True)
    return _read_grouped(config, "norm_epsilon", activation(config, "hidden_act", "gelu"), bias)


def _read_nemotron(config: Table) -> ModelConfig:
    bias = config.get("attention_bias", False)
    require(config, "mlp_bias", bias, default=False)
    kind = activation(config, "hidden_act", "relu2")
    rotary = {"partial_rotary_factor": 0.5, **config}
    return _read_grouped(rotary, "norm_eps", kind, bias, "norms that scale by 1 + weight")


def _read_grouped(
    config: Table, epsilon: str, kind: str, bias: bool, *planned_only: str
) -> ModelConfig:
    shape: dict[str, Any] = {"activation": kind, **rotary_positions(config)}
    shape["planned_only"] += planned_only
    return ModelConfig(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        key_value_heads=config.get("num_key_value_heads"),
        head_width=config.get("head_dim"),
        mlp_width=config["intermediate_size"],
        context=config["max_position_embeddings"],
        vocab_size=config["vocab_size"],
        attention_window=config.get("sliding_window"),
        norm_epsilon=config.get(epsilon, 1e-5),
        bias=bias,
        norm_bias=True,
        tied_head=config.get("tie_word_embeddings", False),
        **shape,
    )


READERS: dict[str, Callable[[Table], ModelConfig]] = {
    "bloom": _read_bloom,
    "falcon": _read_falcon,
    "gpt2": _read_gpt2,
    "gpt_bigcode": _read_gpt_bigcode,
    "gpt_neox": _read_gpt_neox,
    "mpt": _read_mpt,
    "nemotron": _read_nemotron,
    "opt": _read_opt,
    "starcoder2": _read_starcoder2,
}

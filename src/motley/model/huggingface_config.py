"""A Hugging Face `config.json` as our shape, and back. What we do not compute exactly is refused.

Dropout is left out on purpose: it acts in training alone, and this package trains without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from motley.errors import RecipeError, nearest
from motley.model.config import ModelConfig, RopeScaling

Table = Mapping[str, Any]

_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")


def config_from_huggingface(config: Table) -> ModelConfig:
    """The shape of a `config.json`; `RecipeError` names what is not supported."""
    readers: dict[str, Callable[[Table], ModelConfig]] = {
        "gpt2": _read_gpt2,
        "llama": _read_llama,
        "qwen3": _read_qwen3,
    }
    kind = str(config.get("model_type"))
    if kind not in readers:
        raise RecipeError(
            f"config.json: model_type '{kind}' is not supported.",
            remedy=nearest(kind, readers) or f"Supported: {', '.join(readers)}.",
        )
    try:
        return readers[kind](config)
    except KeyError as cause:
        raise RecipeError(f"config.json: {cause} is missing.") from None
    except ValueError as cause:
        raise RecipeError(f"config.json: {cause}") from None


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of the model; `RecipeError` if no supported family expresses it."""
    family = huggingface_family(config)
    shared = {
        "model_type": family,
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied_head,
        # The tokenizer's to say; GPT-2's defaults may lie outside the vocabulary.
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family == "gpt2":
        return {"architectures": ["GPT2LMHeadModel"], **shared, **_write_gpt2(config)}
    architecture = "LlamaForCausalLM" if family == "llama" else "Qwen3ForCausalLM"
    return {"architectures": [architecture], **shared, **_write_llama(config)}


def huggingface_family(config: ModelConfig) -> str:
    """ "gpt2", "llama" or "qwen3": the Hugging Face model that computes the same."""
    parts = (config.positions, config.norm, config.activation)
    same_heads = (
        config.num_key_value_heads == config.heads
        and config.head_size * config.heads == config.width
    )
    if parts == ("learned", "layernorm", "gelu"):
        if config.bias and same_heads and not config.qk_norm:
            return "gpt2"
    elif parts == ("rotary", "rmsnorm", "swiglu"):
        if not config.qk_norm:
            return "llama"
        if not config.bias:
            return "qwen3"
    raise RecipeError(
        "no supported Hugging Face model computes what this one does.",
        remedy="Only GPT-2, Llama and Qwen3 shapes can be exchanged; see the model presets.",
    )


def _read_gpt2(config: Table) -> ModelConfig:
    _require(config, "activation_function", *_TANH_GELU, default="gelu_new")
    _require(config, "scale_attn_weights", True, default=True)
    _require(config, "scale_attn_by_inverse_layer_idx", False, default=False)
    _require(config, "add_cross_attention", False, default=False)
    return ModelConfig(
        layers=config["n_layer"],
        width=config["n_embd"],
        heads=config["n_head"],
        mlp_width=config.get("n_inner"),
        context=config["n_positions"],
        vocab_size=config["vocab_size"],
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        tied_head=config.get("tie_word_embeddings", True),
    )


def _read_llama(config: Table) -> ModelConfig:
    bias = config.get("attention_bias", False)
    _require(config, "mlp_bias", bias, default=False)
    return _read_rotary(config, bias=bias, qk_norm=False)


def _read_qwen3(config: Table) -> ModelConfig:
    _require(config, "attention_bias", False, default=False)
    _require(config, "use_sliding_window", False, default=False)
    return _read_rotary(config, bias=False, qk_norm=True)


def _read_rotary(config: Table, *, bias: bool, qk_norm: bool) -> ModelConfig:
    _require(config, "hidden_act", "silu", "swish", default="silu")
    theta, scaling = _read_rope(config)
    return ModelConfig(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        key_value_heads=config.get("num_key_value_heads"),
        # Qwen3's default is not hidden_size / heads.
        head_width=config.get("head_dim") or (128 if qk_norm else None),
        mlp_width=config["intermediate_size"],
        context=config["max_position_embeddings"],
        vocab_size=config["vocab_size"],
        positions="rotary",
        norm="rmsnorm",
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        activation="swiglu",
        bias=bias,
        qk_norm=qk_norm,
        tied_head=config.get("tie_word_embeddings", False),
        rope_theta=theta,
        rope_scaling=scaling,
    )


def _read_rope(config: Table) -> tuple[float, RopeScaling | None]:
    """In `rope_parameters` since transformers 5; before, `rope_theta` and `rope_scaling`."""
    table = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(table.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = table.get("rope_type", table.get("type", "default"))
    _require({"rope_type": kind}, "rope_type", "default", "llama3", default="default")
    _require(table, "partial_rotary_factor", 1.0, default=1.0)
    if kind == "default":
        return theta, None
    scaling = RopeScaling(
        factor=table["factor"],
        low_freq_factor=table["low_freq_factor"],
        high_freq_factor=table["high_freq_factor"],
        original_context=table["original_max_position_embeddings"],
    )
    return theta, scaling


def _require(config: Table, key: str, *supported: Any, default: Any) -> None:
    found = config.get(key, default)
    if found not in supported:
        known = " or ".join(repr(value) for value in supported)
        raise RecipeError(
            f"config.json: {key} is {found!r}, which is not supported.",
            remedy=f"Only {known} is computed exactly.",
        )


def _write_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_inner": config.mlp_size,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": "gelu_new",
    }


def _write_llama(config: ModelConfig) -> dict[str, Any]:
    table: dict[str, Any] = {
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.mlp_size,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": "silu",
        "attention_bias": config.bias,
        "rope_theta": config.rope_theta,
    }
    if not config.qk_norm:
        table["mlp_bias"] = config.bias
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        table["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return table

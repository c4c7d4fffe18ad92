"""A Hugging Face `config.json` as our shape, and back.

Many families are read, so that they can be planned; written are those that motley's layers compute.
Dropout is left out on purpose: it acts in training alone, and this package trains without it.
"""

from __future__ import annotations

from typing import Any

from motley.errors import RecipeError, nearest
from motley.model import huggingface_layernorm, huggingface_rmsnorm
from motley.model.config import ModelConfig
from motley.model.huggingface_fields import ACTIVATIONS, Table
from motley.model.trainable import require_trainable
from motley.schema import as_table, build

READERS = {**huggingface_layernorm.READERS, **huggingface_rmsnorm.READERS}
"""By `model_type`."""

_ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def config_from_huggingface(config: Table) -> ModelConfig:
    """The shape of a `config.json`; `RecipeError` names what is not supported."""
    kind = str(config.get("model_type"))
    if kind not in READERS:
        raise RecipeError(
            f"config.json: model_type '{kind}' is not supported.",
            remedy=nearest(kind, READERS) or f"Supported: {', '.join(sorted(READERS))}.",
        )
    try:
        # What is null or of a wrong type in the file is found when it is built strictly.
        return build(ModelConfig, as_table(READERS[kind](config)), "config.json", RecipeError)
    except KeyError as cause:
        raise RecipeError(f"config.json: {cause} is missing.") from None
    except (TypeError, AttributeError):
        raise RecipeError(
            "config.json: a value is of the wrong type.", remedy="Mend the file."
        ) from None
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
    shape = _write_gpt2(config) if family == "gpt2" else _write_rotary(config, family)
    return {"architectures": [_ARCHITECTURES[family]], **shared, **shape}


def huggingface_family(config: ModelConfig) -> str:
    """ "gpt2", "llama", "qwen2" or "qwen3": the Hugging Face model that computes the same."""
    require_trainable(config)
    _refuse_own_keys(config)
    if _is_gpt2(config):
        return "gpt2"
    parts = (config.positions, config.norm, config.activation)
    if parts == ("rotary", "rmsnorm", "swiglu"):
        biases = (config.has_query_key_value_bias, config.bias, config.has_mlp_bias)
        if not config.qk_norm and biases[0] == biases[1]:
            return "llama"
        if not config.qk_norm and biases == (True, False, False):
            return "qwen2"
        if config.qk_norm and not any(biases):
            return "qwen3"
    raise RecipeError(
        "no supported Hugging Face model computes what this one does.",
        remedy="Only GPT-2, Llama, Qwen2 and Qwen3 shapes can be exchanged; see the model presets.",
    )


def _refuse_own_keys(config: ModelConfig) -> None:
    """`RecipeError` that names what no Hugging Face model of these families has."""
    own = {
        "embedding_norm": config.embedding_norm,
        "input_residual": config.input_residual,
        "value_residual": config.value_residual,
        "logit_softcap": config.logit_softcap is not None,
        "tables": config.tables is not None,
        "mixture": config.mixture is not None,
        "lookahead_weight": config.lookahead_weight is not None,
    }
    found = [key for key, is_on in own.items() if is_on]
    if found:
        raise RecipeError(
            f"no supported Hugging Face model has model.{', model.'.join(found)}.",
            remedy="Sample from the run with motley, or train without these keys to exchange it.",
        )


def _is_gpt2(config: ModelConfig) -> bool:
    biases = (config.has_query_key_value_bias, config.bias, config.has_mlp_bias)
    same_heads = (
        config.num_key_value_heads == config.heads
        and config.head_size * config.heads == config.width
    )
    return (
        (config.positions, config.norm, config.position_offset) == ("learned", "layernorm", 0)
        and all((*biases, config.has_norm_bias, same_heads))
        and not (config.gated or config.qk_norm)
    )


def _write_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_inner": config.mlp_size,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": {ours: name for name, ours in ACTIVATIONS.items()}[
            config.activation
        ],
    }


def _write_rotary(config: ModelConfig, family: str) -> dict[str, Any]:
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
        "rope_theta": config.rope_theta,
    }
    if family != "qwen2":
        table["attention_bias"] = config.bias
    if family == "llama":
        table["mlp_bias"] = config.has_mlp_bias
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

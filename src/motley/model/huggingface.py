"""Hugging Face models of GPT-2, Llama and Qwen, in both directions: `config.json` and state dict.

Tested with transformers 5.23, whose logits, losses and gradients ours equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from motley.errors import CheckpointError
from motley.model.config import ModelConfig
from motley.model.huggingface_config import (
    config_from_huggingface,
    config_to_huggingface,
    huggingface_family,
)
from motley.model.layers import build_layer, parameter_name

__all__ = [
    "config_from_huggingface",
    "config_to_huggingface",
    "huggingface_family",
    "state_from_huggingface",
    "state_to_huggingface",
]


def state_from_huggingface(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Hugging Face state dict as parameters by global name; `CheckpointError` if one is missing.

    Names of the whole model ("transformer.h.0...") and of its body ("h.0...") are both known.
    """
    result = {}
    for name, source in _sources(config).items():
        body_name = source.name.removeprefix("transformer.").removeprefix("model.")
        tensor = state.get(source.name, state.get(body_name))
        if tensor is None:
            raise CheckpointError(
                f"the Hugging Face state has no '{source.name}'.",
                remedy="Load the state dict that belongs to this config.json.",
            )
        result[name] = source.read(tensor)
    return result


def state_to_huggingface(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by global name as a Hugging Face state dict; a tied matrix is written once."""
    parts: dict[str, list[Tensor]] = {}
    for name, source in _sources(config).items():
        parts.setdefault(source.name, []).append(source.write(state[name]))
    return {name: torch.cat(tensors, dim=-1) for name, tensors in parts.items()}


@dataclass(frozen=True)
class _Source:
    """Where one of our parameters lies in a Hugging Face state."""

    name: str
    transposed: bool = False
    """GPT-2's Conv1D keeps [in, out]."""
    third: int | None = None
    """Its place in GPT-2's fused query, key and value."""

    def read(self, tensor: Tensor) -> Tensor:
        if self.third is not None:
            tensor = tensor.chunk(3, dim=-1)[self.third]
        return (tensor.T if self.transposed else tensor).contiguous()

    def write(self, tensor: Tensor) -> Tensor:
        return (tensor.T if self.transposed else tensor).contiguous()


def _sources(config: ModelConfig) -> dict[str, _Source]:
    find = _gpt2_source if huggingface_family(config) == "gpt2" else _llama_source
    return {
        parameter_name(config, layer, local_name): find(parameter_name(config, layer, local_name))
        for layer in range(config.num_layers)
        for local_name, _ in build_layer(config, layer, device="meta").named_parameters()
    }


_GPT2_NAMES = {
    "embedding.token": "transformer.wte.weight",
    "embedding.position": "transformer.wpe.weight",
    "head.norm": "transformer.ln_f",
    "head.output": "lm_head.weight",
    "attention_norm": "ln_1",
    "attention.query": "attn.c_attn",
    "attention.key": "attn.c_attn",
    "attention.value": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_GPT2_THIRDS = {"attention.query": 0, "attention.key": 1, "attention.value": 2}

_LLAMA_NAMES = {
    "embedding.token": "model.embed_tokens.weight",
    "head.norm": "model.norm",
    "head.output": "lm_head.weight",
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def _gpt2_source(name: str) -> _Source:
    block, module, kind = _split(name)
    if not block:
        return _Source(_join(_GPT2_NAMES[module], kind))
    is_conv1d = kind == "weight" and not module.endswith("norm")
    full = f"transformer.h.{block}.{_GPT2_NAMES[module]}.{kind}"
    return _Source(full, is_conv1d, _GPT2_THIRDS.get(module))


def _llama_source(name: str) -> _Source:
    block, module, kind = _split(name)
    prefix = f"model.layers.{block}." if block else ""
    return _Source(prefix + _join(_LLAMA_NAMES[module], kind))


def _split(name: str) -> tuple[str, str, str]:
    """Block number, module and "weight" or "bias"; empty where the name has none."""
    if name.startswith("blocks."):
        (_, block, rest) = name.split(".", 2)
        (module, kind) = rest.rsplit(".", 1)
        return block, module, kind
    if name.endswith((".weight", ".bias")):
        (module, kind) = name.rsplit(".", 1)
        return "", module, kind
    return "", name, ""


def _join(name: str, kind: str) -> str:
    return f"{name}.{kind}" if kind else name

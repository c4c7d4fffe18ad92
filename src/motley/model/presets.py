"""Public models' shapes under their names, with nothing but facts their authors published.

Sources: the `config.json` files on Hugging Face of openai-community/gpt2*, facebook/opt-*,
bigscience/bloom*, mosaicml/mpt-7b and mpt-30b, EleutherAI/gpt-neox-20b and pythia-*, huggyllama,
meta-llama, TinyLlama, HuggingFaceTB/SmolLM-1.7B, mistralai, Qwen and deepseek-ai/DeepSeek-V3; table
2.1 of Brown et al. 2020 (arXiv 2005.14165) for GPT-3; LLM Foundry's pretraining configurations for
the other MPT sizes; table 1 of Chowdhery et al. 2022 (arXiv 2204.02311) for PaLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from motley.model.config import LatentAttention, MixtureOfExperts, ModelConfig, RopeScaling


def _gpt(layers: int, width: int, heads: int, context: int) -> ModelConfig:
    return ModelConfig(layers=layers, width=width, heads=heads, context=context, vocab_size=50257)


def _gpt2(layers: int, width: int, heads: int) -> ModelConfig:
    return _gpt(layers, width, heads, 1024)


def _gpt3(layers: int, width: int, heads: int) -> ModelConfig:
    """With full attention in all blocks; the table does not say which ones were sparse. 1.3B has
    16 heads and 13B a width of 5120, as their parameters say, not 24 and 5140."""
    return _gpt(layers, width, heads, 2048)


def _opt(layers: int, width: int, heads: int, **other: Any) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        context=2048,
        vocab_size=50272,
        position_offset=2,
        activation="relu",
        **other,
    )


def _bloom(layers: int, width: int, heads: int) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        context=2048,
        vocab_size=250880,
        positions="alibi",
        embedding_norm=True,
    )


def _mpt(layers: int, width: int, heads: int) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        context=2048,
        vocab_size=50368,
        activation="gelu_exact",
    )


def _mpt_released(layers: int, width: int, heads: int, context: int, **other: Any) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        context=context,
        vocab_size=50432,
        positions="alibi",
        activation="gelu_exact",
        bias=False,
        **other,
    )


def _neox(layers: int, width: int, heads: int, vocab_size: int, **other: Any) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        context=2048,
        vocab_size=vocab_size,
        positions="rotary",
        arrangement="parallel_two_norms",
        tied_head=False,
        planned_only=("rotary positions on 0.25 of each head",),
        **{"activation": "gelu_exact", **other},
    )


def _palm(layers: int, width: int, heads: int) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        key_value_heads=1,
        head_width=256,
        context=2048,
        vocab_size=256000,
        positions="rotary",
        arrangement="parallel",
        activation="swiglu",
        bias=False,
    )


def _rotary(layers: int, width: int, heads: int, mlp_width: int, **other: Any) -> ModelConfig:
    """What Llama, Mistral, Qwen and DeepSeek share."""
    shape: dict[str, Any] = {
        "layers": layers,
        "width": width,
        "heads": heads,
        "mlp_width": mlp_width,
        "positions": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
        "tied_head": False,
    }
    return ModelConfig(**{**shape, **other})


def _llama1(layers: int, width: int, heads: int, mlp_width: int) -> ModelConfig:
    return _rotary(
        layers, width, heads, mlp_width, context=2048, vocab_size=32000, norm_epsilon=1e-6
    )


def _llama2(layers: int, width: int, heads: int, mlp_width: int, **other: Any) -> ModelConfig:
    return _rotary(layers, width, heads, mlp_width, context=4096, vocab_size=32000, **other)


def _llama3(
    layers: int,
    width: int,
    heads: int,
    mlp_width: int,
    *,
    stretch: float | None = None,
    tied: bool = False,
) -> ModelConfig:
    scaling = stretch and RopeScaling(
        factor=stretch, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )
    return _rotary(
        layers,
        width,
        heads,
        mlp_width,
        key_value_heads=8,
        context=131072 if stretch else 8192,
        vocab_size=128256,
        tied_head=tied,
        rope_theta=500000.0,
        rope_scaling=scaling or None,
    )


def _mistral(layers: int, width: int, heads: int, mlp_width: int, **other: Any) -> ModelConfig:
    shape = {"key_value_heads": 8, "context": 32768, "vocab_size": 32000, "rope_theta": 1e6}
    return _rotary(layers, width, heads, mlp_width, **{**shape, **other})


def _mixtral(layers: int, width: int, heads: int, mlp_width: int, context: int) -> ModelConfig:
    experts = MixtureOfExperts(experts=8, experts_per_token=2, expert_width=mlp_width)
    return _mistral(layers, width, heads, mlp_width, context=context, mixture=experts)


def _qwen2(
    layers: int, width: int, heads: int, mlp_width: int, key_value_heads: int, **other: Any
) -> ModelConfig:
    """Qwen2.5, which has the shapes of Qwen2."""
    shape: dict[str, Any] = {
        "key_value_heads": key_value_heads,
        "context": 131072,
        "vocab_size": 152064,
        "norm_epsilon": 1e-6,
        "query_key_value_bias": True,
        "rope_theta": 1e6,
    }
    return _rotary(layers, width, heads, mlp_width, **{**shape, **other})


def _qwen3(layers: int, width: int, heads: int, mlp_width: int, **other: Any) -> ModelConfig:
    shape: dict[str, Any] = {
        "key_value_heads": 8,
        "head_width": 128,
        "context": 40960,
        "vocab_size": 151936,
        "norm_epsilon": 1e-6,
        "qk_norm": True,
        "rope_theta": 1e6,
    }
    return _rotary(layers, width, heads, mlp_width, **{**shape, **other})


def _qwen3_mixture(
    layers: int, width: int, heads: int, mlp_width: int, expert_width: int
) -> ModelConfig:
    experts = MixtureOfExperts(experts=128, experts_per_token=8, expert_width=expert_width)
    return _qwen3(layers, width, heads, mlp_width, key_value_heads=4, mixture=experts)


def _deepseek_v3() -> ModelConfig:
    """Without the module that predicts a second token."""
    mixture = MixtureOfExperts(
        experts=256,
        experts_per_token=8,
        expert_width=2048,
        shared_width=2048,
        leading_dense_layers=3,
    )
    latent = LatentAttention(
        key_value_rank=512, query_rank=1536, plain_width=128, rotary_width=64, value_width=128
    )
    return _rotary(
        61,
        7168,
        128,
        18432,
        context=163840,
        vocab_size=129280,
        norm_epsilon=1e-6,
        mixture=mixture,
        latent=latent,
        planned_only=("rotary positions of the kind 'yarn'",),
    )


PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "gpt2": _gpt2(12, 768, 12),
        "gpt2-medium": _gpt2(24, 1024, 16),
        "gpt2-large": _gpt2(36, 1280, 20),
        "gpt2-xl": _gpt2(48, 1600, 25),
        "gpt3-125m": _gpt3(12, 768, 12),
        "gpt3-350m": _gpt3(24, 1024, 16),
        "gpt3-760m": _gpt3(24, 1536, 16),
        "gpt3-1.3b": _gpt3(24, 2048, 16),
        "gpt3-2.7b": _gpt3(32, 2560, 32),
        "gpt3-6.7b": _gpt3(32, 4096, 32),
        "gpt3-13b": _gpt3(40, 5120, 40),
        "gpt3-175b": _gpt3(96, 12288, 96),
        "opt-125m": _opt(12, 768, 12),
        "opt-350m": _opt(24, 1024, 16, arrangement="post_norm", embedding_width=512),
        "opt-1.3b": _opt(24, 2048, 32),
        "opt-2.7b": _opt(32, 2560, 32),
        "opt-6.7b": _opt(32, 4096, 32),
        "opt-13b": _opt(40, 5120, 40),
        "opt-30b": _opt(48, 7168, 56),
        "opt-66b": _opt(64, 9216, 72),
        "opt-175b": _opt(96, 12288, 96),
        "bloom-560m": _bloom(24, 1024, 16),
        "bloom-1b1": _bloom(24, 1536, 16),
        "bloom-1b7": _bloom(24, 2048, 16),
        "bloom-3b": _bloom(30, 2560, 32),
        "bloom-7b1": _bloom(30, 4096, 32),
        "bloom-176b": _bloom(70, 14336, 112),
        "mpt-125m": _mpt(12, 768, 12),
        "mpt-350m": _mpt(24, 1024, 16),
        "mpt-760m": _mpt(24, 1536, 12),
        "mpt-1b": _mpt(24, 2048, 16),
        "mpt-3b": _mpt(32, 2560, 20),
        "mpt-7b": _mpt_released(32, 4096, 32, 2048),
        "mpt-13b": _mpt(40, 5120, 40),
        "mpt-30b": _mpt_released(48, 7168, 64, 8192),
        "mpt-70b": _mpt(80, 8192, 64),
        "gpt-neox-20b": _neox(44, 6144, 64, 50432, activation="gelu"),
        "pythia-160m": _neox(12, 768, 12, 50304),
        "pythia-410m": _neox(24, 1024, 16, 50304),
        "pythia-1b": _neox(16, 2048, 8, 50304),
        "pythia-1.4b": _neox(24, 2048, 16, 50304),
        "pythia-2.8b": _neox(32, 2560, 32, 50304),
        "pythia-6.9b": _neox(32, 4096, 32, 50432),
        "pythia-12b": _neox(36, 5120, 40, 50688),
        "palm-540b": _palm(118, 18432, 48),
        "llama1-7b": _llama1(32, 4096, 32, 11008),
        "llama1-13b": _llama1(40, 5120, 40, 13824),
        "llama1-33b": _llama1(60, 6656, 52, 17920),
        "llama1-65b": _llama1(80, 8192, 64, 22016),
        "llama2-7b": _llama2(32, 4096, 32, 11008),
        "llama2-13b": _llama2(40, 5120, 40, 13824),
        "llama2-34b": _llama2(48, 8192, 64, 22016, key_value_heads=8),
        "llama2-70b": _llama2(80, 8192, 64, 28672, key_value_heads=8),
        "tinyllama-1.1b": _rotary(
            22, 2048, 32, 5632, key_value_heads=4, context=2048, vocab_size=32000
        ),
        "smollm-1.7b": _rotary(24, 2048, 32, 8192, context=2048, vocab_size=49152, tied_head=True),
        "llama3-8b": _llama3(32, 4096, 32, 14336),
        "llama3-70b": _llama3(80, 8192, 64, 28672),
        "llama3.1-8b": _llama3(32, 4096, 32, 14336, stretch=8.0),
        "llama3.1-70b": _llama3(80, 8192, 64, 28672, stretch=8.0),
        "llama3.1-405b": _llama3(126, 16384, 128, 53248, stretch=8.0),
        "llama3.2-1b": _llama3(16, 2048, 32, 8192, stretch=32.0, tied=True),
        "llama3.2-3b": _llama3(28, 3072, 24, 8192, stretch=32.0, tied=True),
        "mistral-7b": _mistral(32, 4096, 32, 14336, attention_window=4096, rope_theta=1e4),
        "mixtral-8x7b": _mixtral(32, 4096, 32, 14336, 32768),
        "mixtral-8x22b": _mixtral(56, 6144, 48, 16384, 65536),
        "qwen2.5-0.5b": _qwen2(
            24, 896, 14, 4864, 2, vocab_size=151936, tied_head=True, context=32768
        ),
        "qwen2.5-1.5b": _qwen2(28, 1536, 12, 8960, 2, vocab_size=151936, tied_head=True),
        "qwen2.5-3b": _qwen2(
            36, 2048, 16, 11008, 2, vocab_size=151936, tied_head=True, context=32768
        ),
        "qwen2.5-7b": _qwen2(28, 3584, 28, 18944, 4),
        "qwen2.5-14b": _qwen2(48, 5120, 40, 13824, 8),
        "qwen2.5-32b": _qwen2(64, 5120, 40, 27648, 8),
        "qwen2.5-72b": _qwen2(80, 8192, 64, 29568, 8),
        "qwen3-0.6b": _qwen3(28, 1024, 16, 3072, tied_head=True),
        "qwen3-1.7b": _qwen3(28, 2048, 16, 6144, tied_head=True),
        "qwen3-4b": _qwen3(36, 2560, 32, 9728, tied_head=True),
        "qwen3-8b": _qwen3(36, 4096, 32, 12288),
        "qwen3-14b": _qwen3(40, 5120, 40, 17408),
        "qwen3-32b": _qwen3(64, 5120, 64, 25600),
        "qwen3-30b-a3b": _qwen3_mixture(48, 2048, 32, 6144, 768),
        "qwen3-235b-a22b": _qwen3_mixture(94, 4096, 64, 12288, 1536),
        "deepseek-v3": _deepseek_v3(),
    }
)
"""Name to shape."""

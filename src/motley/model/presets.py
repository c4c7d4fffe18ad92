"""Public models' shapes under their names, with nothing but facts their authors published.

Sources: the `config.json` of openai-community/gpt2*, meta-llama/Meta-Llama-3-8B,
meta-llama/Llama-3.1-8B, meta-llama/Llama-3.2-1B and Qwen/Qwen3-* on Hugging Face.
"""

from __future__ import annotations

from motley.model.config import ModelConfig, RopeScaling


def _gpt2(layers: int, width: int, heads: int) -> ModelConfig:
    return ModelConfig(layers=layers, width=width, heads=heads, context=1024, vocab_size=50257)


def _llama3(
    *, layers: int, width: int, mlp_width: int, stretch: float | None = None, tied: bool = False
) -> ModelConfig:
    scaling = stretch and RopeScaling(
        factor=stretch, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )
    return ModelConfig(
        layers=layers,
        width=width,
        heads=32,
        key_value_heads=8,
        mlp_width=mlp_width,
        context=131072 if stretch else 8192,
        vocab_size=128256,
        positions="rotary",
        norm="rmsnorm",
        activation="swiglu",
        bias=False,
        tied_head=tied,
        rope_theta=500000.0,
        rope_scaling=scaling or None,
    )


def _qwen3(*, layers: int, width: int, heads: int, mlp_width: int, tied: bool) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        key_value_heads=8,
        head_width=128,
        mlp_width=mlp_width,
        context=40960,
        vocab_size=151936,
        positions="rotary",
        norm="rmsnorm",
        norm_epsilon=1e-6,
        activation="swiglu",
        bias=False,
        qk_norm=True,
        tied_head=tied,
        rope_theta=1000000.0,
    )


PRESETS: dict[str, ModelConfig] = {
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "llama3-8b": _llama3(layers=32, width=4096, mlp_width=14336),
    "llama3.1-8b": _llama3(layers=32, width=4096, mlp_width=14336, stretch=8.0),
    "llama3.2-1b": _llama3(layers=16, width=2048, mlp_width=8192, stretch=32.0, tied=True),
    "qwen3-0.6b": _qwen3(layers=28, width=1024, heads=16, mlp_width=3072, tied=True),
    "qwen3-1.7b": _qwen3(layers=28, width=2048, heads=16, mlp_width=6144, tied=True),
    "qwen3-4b": _qwen3(layers=36, width=2560, heads=32, mlp_width=9728, tied=True),
    "qwen3-8b": _qwen3(layers=36, width=4096, heads=32, mlp_width=12288, tied=False),
}
"""Name to shape."""

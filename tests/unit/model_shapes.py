"""Small models of every family, for the tests of `motley.model`."""

from __future__ import annotations

from motley.model.config import ModelConfig, RopeScaling

VOCABULARY = 101
CONTEXT = 32

SHAPES = {
    "gpt2": ModelConfig(layers=2, width=48, heads=4, context=CONTEXT, vocab_size=VOCABULARY),
    "llama": ModelConfig(
        layers=2,
        width=48,
        heads=4,
        key_value_heads=2,
        mlp_width=80,
        context=CONTEXT,
        vocab_size=VOCABULARY,
        positions="rotary",
        norm="rmsnorm",
        activation="swiglu",
        bias=False,
        tied_head=False,
        rope_theta=500.0,
        rope_scaling=RopeScaling(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16
        ),
    ),
    "qwen3": ModelConfig(
        layers=2,
        width=48,
        heads=4,
        key_value_heads=1,
        head_width=16,
        mlp_width=80,
        context=CONTEXT,
        vocab_size=VOCABULARY,
        positions="rotary",
        norm="rmsnorm",
        norm_epsilon=1e-6,
        activation="swiglu",
        bias=False,
        qk_norm=True,
    ),
    "relu2": ModelConfig(
        layers=2,
        width=48,
        heads=4,
        context=CONTEXT,
        vocab_size=VOCABULARY,
        norm="rmsnorm",
        activation="relu2",
    ),
    "opt": ModelConfig(
        layers=2,
        width=48,
        heads=4,
        context=CONTEXT,
        vocab_size=VOCABULARY,
        position_offset=2,
        activation="relu",
    ),
    "qwen2": ModelConfig(
        layers=2,
        width=48,
        heads=4,
        key_value_heads=2,
        mlp_width=80,
        context=CONTEXT,
        vocab_size=VOCABULARY,
        positions="rotary",
        norm="rmsnorm",
        activation="swiglu",
        bias=False,
        query_key_value_bias=True,
    ),
    "no positions": ModelConfig(
        layers=2,
        width=48,
        heads=4,
        context=CONTEXT,
        vocab_size=VOCABULARY,
        positions="none",
        activation="gelu_exact",
        mlp_bias=False,
        norm_bias=False,
    ),
}

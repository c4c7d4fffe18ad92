"""The model of a published row: by its name if the shape is known, else from width and layers.

What a table leaves out follows from stated rules, and each use of one is told: layers from the
parameter count, heads from another row of the same source and width or from the usual head size,
the vocabulary from the usual tokenizers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from functools import lru_cache

from motley.model.config import ModelConfig
from motley.model.counts import model_counts
from motley.model.presets import PRESETS
from motley.plan.published.rows import LARGEST, PublishedRow
from motley.plan.published.shapes import known_shapes

DEFAULT_VOCABULARY = 50304
"""GPT-2's 50257 tokens, padded to a multiple of 128."""

HEAD_SIZES = (64, 128)
"""Usual sizes of a head: of models up to `WIDE`, and wider."""
WIDE = 2048


_SAME_SHAPES = (("llama", "llama1"), ("qwen2", "qwen2.5"))
"""Families whose shapes are known under another's name."""


class Incomplete(Exception):  # noqa: N818 - a row is incomplete, the program is not in error
    """A row does not say enough; the message says what it lacks."""


def config_of(
    row: PublishedRow, sequence_length: int, siblings: Iterable[PublishedRow]
) -> tuple[ModelConfig, list[str]]:
    """The model and what was assumed of it; `Incomplete` if its shape is not known or none."""
    try:
        return _config(row, sequence_length, siblings)
    except ValueError as cause:
        raise Incomplete(f"no model: {cause}") from None


def _config(
    row: PublishedRow, sequence_length: int, siblings: Iterable[PublishedRow]
) -> tuple[ModelConfig, list[str]]:
    preset = named_shape(row.model)
    if preset is not None and _agrees(preset, row):
        return _with_vocabulary(preset, row, sequence_length), []
    assumed: list[str] = []
    if preset is not None and row.d_model is None:
        raise Incomplete(f"contradiction: {row.model} has {preset.layers} layers")
    if row.d_model is None:
        raise Incomplete(f"d_model is missing and '{row.model}' is no known model")
    vocabulary = row.vocab
    if vocabulary is None:
        vocabulary = DEFAULT_VOCABULARY
        assumed.append(f"vocabulary not given: {vocabulary}")
    vocabulary = padded(vocabulary, row.tp or 1)
    heads = row.n_heads or _heads(row, siblings, assumed)
    config = _family(row.model, row.d_model, heads, vocabulary, sequence_length)
    if row.n_layers is not None:
        return dataclasses.replace(config, layers=row.n_layers), assumed
    if row.params_b is None:
        raise Incomplete("n_layers and params_b are both missing")
    layers = _layers_for(config, row.params_b * 1e9)
    if layers > LARGEST["n_layers"]:
        raise Incomplete(
            f"contradiction: {row.params_b:g}B parameters are {layers} layers of {row.d_model}"
        )
    assumed.append(f"layers not given: {layers} from {row.params_b:g}B parameters")
    return dataclasses.replace(config, layers=layers), assumed


@lru_cache(maxsize=1024)
def named_shape(name: str) -> ModelConfig | None:
    """The shape that a model's name stands for, written in any of the usual ways."""
    shapes = {_plain(known): config for known, config in {**known_shapes(), **PRESETS}.items()}
    wanted = _plain(name)
    for family, known in _SAME_SHAPES:
        if wanted not in shapes:
            wanted = re.sub(rf"^{family}(?=\d+b$)", known, wanted)
    return shapes.get(wanted)


def padded(vocabulary: int, tensor: int) -> int:
    """The rows that frameworks give the embedding: a multiple of 128 for each chip of a tensor
    group (Megatron-LM, --make-vocab-size-divisible-by)."""
    unit = 128 * tensor
    return -(-vocabulary // unit) * unit


def _plain(name: str) -> str:
    """ "Llama-2-7B (bf16)" -> "llama27b"."""
    return re.sub(r"[^a-z0-9.]", "", re.sub(r"\(.*?\)", "", name.lower()))


def _agrees(config: ModelConfig, row: PublishedRow) -> bool:
    return row.d_model in (None, config.width) and row.n_layers in (None, config.layers)


def _with_vocabulary(config: ModelConfig, row: PublishedRow, length: int) -> ModelConfig:
    heads = row.n_heads or config.heads
    keys = config.num_key_value_heads
    return dataclasses.replace(
        config,
        heads=heads,
        key_value_heads=heads if keys == config.heads else keys,
        vocab_size=padded(row.vocab or config.vocabulary, row.tp or 1),
        context=max(config.context, length),
    )


def _family(name: str, width: int, heads: int, vocabulary: int, length: int) -> ModelConfig:
    """A GPT, or what the name says instead; of one layer."""
    gpt = ModelConfig(layers=1, width=width, heads=heads, vocab_size=vocabulary, context=length)
    lowered = name.lower()
    if re.search(r"llama|qwen|mistral|aquila|baichuan|internlm|yi-|deepseek|glm", lowered):
        grouped = re.search(r"llama-?3|qwen-?[23]|mistral|70b|72b|405b", lowered)
        return dataclasses.replace(
            gpt,
            key_value_heads=8 if grouped and heads % 8 == 0 else heads,
            mlp_width=-(-8 * width // 3 // 256) * 256,
            positions="rotary",
            norm="rmsnorm",
            activation="swiglu",
            bias=False,
            tied_head=False,
        )
    if "mpt" in lowered:
        return dataclasses.replace(gpt, positions="alibi", bias=False)
    return gpt


def _heads(row: PublishedRow, siblings: Iterable[PublishedRow], assumed: list[str]) -> int:
    assert row.d_model is not None
    known = [
        other
        for other in siblings
        if other.n_heads and other.d_model == row.d_model and other.source == row.source
    ]
    if known:
        size = row.params_b or 0.0
        near = min(known, key=lambda other: abs((other.params_b or 0.0) - size))
        assumed.append(f"heads not given: {near.n_heads} as in line {near.line}")
        return near.n_heads or 1
    size = HEAD_SIZES[row.d_model > WIDE]
    split = row.tp or 1
    counts = [n for n in range(1, row.d_model + 1) if row.d_model % n == 0 and n % split == 0]
    if not counts:
        raise Incomplete(f"no number of heads divides width {row.d_model} and tp {split}")
    heads = min(counts, key=lambda n: abs(row.d_model / n - size) if row.d_model else 0)
    assumed.append(f"heads not given: {heads} of size {row.d_model // heads}")
    return heads


def _layers_for(config: ModelConfig, parameters: float) -> int:
    """Layers with which the model has most nearly that many parameters."""
    one = model_counts(config, 1).parameters
    two = model_counts(dataclasses.replace(config, layers=2), 1).parameters
    per_layer = two - one
    return max(1, round((parameters - one) / per_layer) + 1)

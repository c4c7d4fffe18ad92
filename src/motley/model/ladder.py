"""One model family at other sizes: the depth is the dial, everything else follows from it.

A shape of `layers` blocks is 64 x `layers` wide, as GPT-2 small (768 = 64 x 12) is; between 10 and
200 the ratio hardly matters for the loss (Kaplan et al., arXiv 2001.08361, figure 5). Heads keep
their size, so that nothing in the attention changes with the width.
"""

from __future__ import annotations

import dataclasses

from motley.model.config import MixtureOfExperts, ModelConfig
from motley.model.table_config import MemoryTables

WIDTH_PER_LAYER = 64
HEAD_SIZE = 64
"""Of a family whose own heads do not divide 64."""
DEEPEST = 160


def at_depth(config: ModelConfig, layers: int) -> ModelConfig:
    """The family's member with that many blocks, 64 times as wide.

    `ValueError` for a family whose other sizes do not follow from its width.
    """
    return reshaped(config, layers, WIDTH_PER_LAYER * layers)


def reshaped(config: ModelConfig, layers: int, width: int) -> ModelConfig:
    """The family's member of that depth and width: heads of the same size where they divide it, as
    many queries for each key as before, MLPs of the same share of the width."""
    if config.latent is not None or config.embedding_width is not None:
        raise ValueError(
            "the model has widths that do not follow from its own: latent attention or an "
            "embedding of another width"
        )
    share = width / config.width
    head = config.head_size if width % config.head_size == 0 else HEAD_SIZE
    if width % head:
        raise ValueError(f"the width {width} is no multiple of a head's size {head}")
    heads = width // head
    return dataclasses.replace(
        config,
        layers=layers,
        width=width,
        heads=heads,
        head_width=None if config.head_width is None else head,
        key_value_heads=_key_value_heads(config, heads),
        mlp_width=_share_of(config.mlp_width, share),
        mixture=_experts(config.mixture, share, layers),
        tables=_tables(config.tables, share, layers),
    )


def _key_value_heads(config: ModelConfig, heads: int) -> int | None:
    if config.key_value_heads is None:
        return None
    most = max(1, heads * config.key_value_heads // config.heads)
    return max(count for count in range(1, most + 1) if heads % count == 0)


def _experts(
    mixture: MixtureOfExperts | None, share: float, layers: int
) -> MixtureOfExperts | None:
    if mixture is None:
        return None
    return dataclasses.replace(
        mixture,
        expert_width=_scaled(mixture.expert_width, share),
        shared_width=_share_of(mixture.shared_width, share),
        leading_dense_layers=min(mixture.leading_dense_layers, layers),
    )


def _tables(tables: MemoryTables | None, share: float, layers: int) -> MemoryTables | None:
    """As many rows, of the same share of the width, for the blocks that are still there."""
    if tables is None:
        return None
    blocks = tuple(block for block in tables.value_blocks if block < layers)
    if not tables.ngrams and not blocks:
        return None
    return dataclasses.replace(tables, value_blocks=blocks, width=_share_of(tables.width, share))


def _share_of(size: int | None, share: float) -> int | None:
    return None if size is None else _scaled(size, share)


def _scaled(size: int, share: float) -> int:
    """In multiples of 8, which matrix units like."""
    return max(8, 8 * round(size * share / 8))

"""What passes from layer to layer: the residual stream, and what later blocks read beside it.

Layers name the pieces that they read and those that they write. Most read the stream and write it
anew; a piece beside it is written once and read by many. What is alive before a layer, because one
before it wrote it and it or one behind it reads it, is what an edge of a pipeline carries there.

Widths are numbers per token.
"""

from __future__ import annotations

from functools import lru_cache

from motley.model.config import ModelConfig

TOKENS = "tokens"
"""What the embedding reads; no layer writes it."""
STREAM = "stream"
FIRST_INPUT = "first_input"
"""The stream before the first block."""
FIRST_VALUES = "first_values"
"""The values of the first block's attention, as its projection makes them."""
TABLE_VALUES = "table_values"
"""Each token's row of the value table."""
BALANCE = "balance"
"""The auxiliary loss of the experts so far, one number per token (`motley.model.mixture`)."""
PIECES = (STREAM, FIRST_INPUT, FIRST_VALUES, TABLE_VALUES, BALANCE)
"""In the order in which a layer takes, gives and sends them."""


def reads(config: ModelConfig, layer: int) -> tuple[str, ...]:
    """The pieces that a layer needs. The first block is itself the source of what the later ones
    read of it."""
    if layer == 0:
        return (TOKENS,)
    if layer == config.num_layers - 1:
        return (STREAM,) if config.mixture is None else (STREAM, BALANCE)
    tables = config.tables
    wanted = {
        STREAM: True,
        FIRST_INPUT: config.input_residual and layer > 1,
        FIRST_VALUES: config.value_residual and layer > 1,
        TABLE_VALUES: tables is not None and layer - 1 in tables.value_blocks,
        BALANCE: config.has_experts(layer),
    }
    return tuple(piece for piece in PIECES if wanted[piece])


def writes(config: ModelConfig, layer: int) -> tuple[str, ...]:
    """The pieces that a layer gives; the head's loss is none."""
    if layer == config.num_layers - 1:
        return ()
    has_values = config.tables is not None and bool(config.tables.value_blocks)
    wanted = {
        STREAM: True,
        FIRST_INPUT: config.input_residual and layer == 1,
        FIRST_VALUES: config.value_residual and layer == 1,
        TABLE_VALUES: has_values and layer == 0,
        BALANCE: config.has_experts(layer) or (config.mixture is not None and layer == 0),
    }
    return tuple(piece for piece in PIECES if wanted[piece])


@lru_cache(maxsize=4096)
def carried(config: ModelConfig, layer: int) -> dict[str, int]:
    """The pieces that are alive before a layer and their widths, in order; before the embedding
    and behind the head there are none."""
    before = {piece for each in range(layer) for piece in writes(config, each)}
    behind = {piece for each in range(layer, config.num_layers) for piece in reads(config, each)}
    values = config.num_key_value_heads * config.value_size
    widths = {
        STREAM: config.width,
        FIRST_INPUT: config.width,
        FIRST_VALUES: values,
        TABLE_VALUES: values,
        BALANCE: 1,
    }
    return {piece: widths[piece] for piece in PIECES if piece in before and piece in behind}


def carried_width(config: ModelConfig, layer: int) -> int:
    """What an edge before a layer carries."""
    return sum(carried(config, layer).values())


@lru_cache(maxsize=256)
def stream_width(config: ModelConfig) -> int:
    """The most that any edge carries."""
    return max(carried_width(config, layer) for layer in range(config.num_layers))

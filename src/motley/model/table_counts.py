"""Shapes, parameters and bytes of the memory tables, without importing torch."""

from __future__ import annotations

from motley.model.config import ModelConfig
from motley.model.table_config import VALUE_TABLE, ngram_table

ROW_NUMBER_BYTES = 8
WEIGHT_BYTES = 4
"""Tables are fp32 on every chip; what is looked up is rounded to the chip's format."""
ROW_STATE_BYTES = 4
"""The optimizer keeps one fp32 number for each row."""


def table_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(rows, width) of every table by global name, in a fixed order; empty without tables."""
    tables = config.tables
    if tables is None:
        return {}
    width = tables.width or config.width
    shapes = {ngram_table(length): (tables.rows, width) for length in tables.ngrams}
    if tables.value_blocks:
        shapes[VALUE_TABLE] = (config.vocabulary, value_width(config))
    return shapes


def value_width(config: ModelConfig) -> int:
    """Width of a row of the value table: that of all value heads; 0 without one."""
    if config.tables is None or not config.tables.value_blocks:
        return 0
    return config.num_key_value_heads * config.value_size


def projected_width(config: ModelConfig) -> int:
    """Width of the n-gram rows side by side if a matrix projects them to the stream, else 0."""
    tables = config.tables
    if tables is None or not tables.ngrams or tables.width in (None, config.width):
        return 0
    assert tables.width is not None
    return tables.width * len(tables.ngrams)


def table_parameters(config: ModelConfig) -> int:
    """Numbers in all tables."""
    return sum(rows * width for rows, width in table_shapes(config).values())


def table_state_bytes(config: ModelConfig) -> int:
    """Memory of the tables between steps: weights and one number of the optimizer per row."""
    shapes = table_shapes(config).values()
    return sum(rows * (width * WEIGHT_BYTES + ROW_STATE_BYTES) for rows, width in shapes)


def touched_bytes(config: ModelConfig, num_tokens: int) -> int:
    """The most that the gradients of the rows take that `num_tokens` tokens look up: what a replica
    with so many sends to the others."""
    return sum(
        min(rows, num_tokens) * (width * WEIGHT_BYTES + ROW_NUMBER_BYTES)
        for rows, width in table_shapes(config).values()
    )


def table_gradient_bytes(config: ModelConfig, step_tokens: int, micro_tokens: int) -> int:
    """The most that gradients of tables take at once: a step's rows before and after they are added
    up, with the sum's own copy, and two copies of a micro-batch's, where a row may be there often.
    """
    each = sum(
        width * WEIGHT_BYTES + ROW_NUMBER_BYTES for _, width in table_shapes(config).values()
    )
    return 3 * touched_bytes(config, step_tokens) + 2 * micro_tokens * each

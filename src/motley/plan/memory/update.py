"""What a recipe's update keeps in memory, takes for its step, and computes.

AdamW in 32 bits keeps two fp32 moments of every parameter; the rest here is by how much other
optimizers and techniques differ from that.
"""

from __future__ import annotations

from functools import lru_cache

from motley.model.config import ModelConfig
from motley.optim.matrices import Matrix, orthogonal_matrices
from motley.optim.products import products_precision
from motley.optim.sizes import (
    CODED_BYTES,
    FEWEST_CODED_ELEMENTS,
    PIECE_BYTES,
    STACK_BYTES_PER_ELEMENT,
    STACK_ELEMENTS,
)
from motley.plan.memory.held import held_parameters
from motley.recipe import OptimizerConfig, Recipe
from motley.units import BYTES_PER_ELEMENT, Precision

MOMENT_BYTES = 8
"""Of both of AdamW's moments in fp32."""
MOMENTUM_BYTES = 4
"""Of Muon's; counted on every chip that holds a matrix, though only its owner has it."""
MEAN_BYTES = 4
"""Of the mean of the last weights."""


def moment_bytes(recipe: Recipe, first: int, last: int) -> float:
    """Per parameter, in the mean over the layers [first, last): all that the update keeps."""
    kept = _moment_bytes(recipe.model, recipe.optimizer, first, last)
    return kept + (MEAN_BYTES if recipe.schedule.tail_average_share else 0)


@lru_cache(maxsize=65536)
def _moment_bytes(model: ModelConfig, config: OptimizerConfig, first: int, last: int) -> float:
    held = held_parameters(model, first, last)
    if not held or (config.kind == "adamw" and config.state_bits == 32):
        return MOMENT_BYTES
    matrices = sum(matrix.size for matrix in _between(model, first, last))
    embeddings = sum(_embedding_sizes(model, first, last))
    coded, momenta = 0, 0
    if config.orthogonalises:
        momenta = matrices
    elif config.state_bits == 8:
        coded = matrices
    if config.state_bits == 8:
        coded += embeddings
    rest = held - momenta - coded
    total = MOMENT_BYTES * rest + MOMENTUM_BYTES * momenta + CODED_BYTES * coded
    if config.kind == "normuon":
        total += MOMENTUM_BYTES * sum(
            max(matrix.outputs, matrix.inputs) for matrix in _between(model, first, last)
        )
    return total / held


def step_bytes(recipe: Recipe, first: int, last: int) -> float:
    """What the update of the layers [first, last) takes for the time of its step, besides what it
    keeps."""
    return _step_bytes(recipe.model, recipe.optimizer, first, last)


@lru_cache(maxsize=65536)
def _step_bytes(model: ModelConfig, config: OptimizerConfig, first: int, last: int) -> float:
    taken = PIECE_BYTES if config.state_bits == 8 else 0.0
    sizes = [matrix.size for matrix in _between(model, first, last)]
    if config.orthogonalises and sizes:
        stack = max(min(sum(sizes), STACK_ELEMENTS), max(sizes))
        taken = max(taken, STACK_BYTES_PER_ELEMENT * stack)
    return taken


def update_flops(recipe: Recipe, first: int, last: int, precision: Precision) -> float:
    """Of one update of all matrices of the layers [first, last), in the mean over the steps."""
    if not recipe.optimizer.orthogonalises:
        return 0.0
    element_bytes = BYTES_PER_ELEMENT[products_precision(precision)]
    return _update_flops(recipe.model, recipe.optimizer, first, last, element_bytes)


def directions_bytes(recipe: Recipe, first: int, last: int) -> float:
    """Of the directions of the matrices of the layers [first, last), in fp32, in the mean over the
    steps."""
    matrices = _between(recipe.model, first, last)
    return 4.0 * sum(matrix.size for matrix in matrices) / recipe.optimizer.orthogonal_every


@lru_cache(maxsize=65536)
def _update_flops(
    model: ModelConfig, config: OptimizerConfig, first: int, last: int, element_bytes: int
) -> float:
    once = sum(matrix.flops(config, element_bytes) for matrix in _between(model, first, last))
    return once / config.orthogonal_every


def _between(model: ModelConfig, first: int, last: int) -> list[Matrix]:
    return [matrix for matrix in orthogonal_matrices(model) if first <= matrix.layer < last]


def _embedding_sizes(model: ModelConfig, first: int, last: int) -> list[int]:
    """Of the large matrices outside of blocks that the layers hold, as far as they are coded."""
    matrix = model.vocabulary * model.embedding_size
    has_first, has_last = first == 0, last == model.num_layers
    count = has_first + has_last
    sizes = [matrix] * (min(count, 1) if model.tied_head else count)
    return [size for size in sizes if size >= FEWEST_CODED_ELEMENTS]

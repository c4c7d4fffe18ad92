"""FLOPs of whole trainings: the model's over all steps, and the optimizer's.

Only matrix products count, as in `motley.model.counts`. What several replicas hold counts once:
these are the FLOPs of the recipe, which no plan changes.
"""

from __future__ import annotations

from motley.model.counts import model_counts
from motley.optim.curriculum import piece_phases
from motley.optim.matrices import orthogonal_matrices
from motley.optim.products import products_precision
from motley.recipe import Recipe
from motley.units import BYTES_PER_ELEMENT, Precision


def optimizer_flops(recipe: Recipe, precision: Precision = "fp32") -> float:
    """Of one update, in the mean over the steps, with products in `precision`: Muon's matrix
    products; AdamW has none. In fp32 long matrices take fewer, see `optim.products`."""
    config = recipe.optimizer
    if not config.orthogonalises:
        return 0.0
    matrices = orthogonal_matrices(recipe.model)
    once = sum(
        matrix.flops(config, BYTES_PER_ELEMENT[products_precision(precision)])
        for matrix in matrices
    )
    return once / config.orthogonal_every


def training_flops(recipe: Recipe, precision: Precision = "fp32") -> float:
    """Of the whole training: every step's forward and backward pass and update, and the training
    of the smaller model that it has grown from."""
    updates = recipe.schedule.steps // recipe.optimizer.orthogonal_every
    optimizer = updates * recipe.optimizer.orthogonal_every * optimizer_flops(recipe, precision)
    grown_from = (recipe.growth.flops if recipe.growth else None) or 0.0
    return _model_flops(recipe) + optimizer + grown_from


def _model_flops(recipe: Recipe) -> float:
    total = 0.0
    for pieces, samples in piece_phases(recipe):
        length = recipe.batch.sequence_length // pieces
        total += samples * pieces * length * model_counts(recipe.model, length).flops_per_token
    return total

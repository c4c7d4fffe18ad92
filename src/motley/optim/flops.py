"""FLOPs of whole trainings: the model's over all steps, and the optimizer's.

Only matrix products count, as in `motley.model.counts`. What several replicas hold counts once:
these are the FLOPs of the recipe, which no plan changes.
"""

from __future__ import annotations

from motley.model.counts import layer_counts, model_counts
from motley.optim.curriculum import piece_phases
from motley.optim.matrices import orthogonal_matrices
from motley.optim.products import products_precision
from motley.optim.selection import num_candidates, num_snapshots, reference_recipe
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
    """Of the whole training: every step's forward and backward pass and update, the training of
    the smaller model that it has grown from, and the selection of its samples."""
    updates = recipe.schedule.steps // recipe.optimizer.orthogonal_every
    optimizer = updates * recipe.optimizer.orthogonal_every * optimizer_flops(recipe, precision)
    grown_from = (recipe.growth.flops if recipe.growth else None) or 0.0
    return _model_flops(recipe) + optimizer + grown_from + selection_flops(recipe)


def selection_flops(recipe: Recipe) -> float:
    """Of training the reference model, in fp32, and of its passes over all candidates; 0 without
    a selection."""
    config = recipe.selection
    if config is None:
        return 0.0
    reference = reference_recipe(recipe)
    model, length = reference.model, reference.batch.sequence_length
    layers = range(model.num_layers)
    forward = sum(layer_counts(model, layer, length, "fp32").forward_flops for layer in layers)
    scoring = num_snapshots(config) * num_candidates(recipe) * forward
    return training_flops(reference) + scoring


def _model_flops(recipe: Recipe) -> float:
    total = 0.0
    for pieces, samples in piece_phases(recipe):
        length = recipe.batch.sequence_length // pieces
        total += samples * pieces * length * model_counts(recipe.model, length).flops_per_token
    return total

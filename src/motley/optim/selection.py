"""How many samples a selection scores and keeps, and what its reference model is trained as.

All of it follows from the recipe alone, so that the cost is known before there is any text.
"""

from __future__ import annotations

import math

from motley.errors import RecipeError
from motley.model.config import ModelConfig
from motley.optim.curriculum import samples_before
from motley.recipe import BatchConfig, OptimizerConfig, Recipe, ScheduleConfig, SelectionConfig

WARM_UP_SHARE = 0.05
"""Of the reference's updates."""
EARLY_SHARE = 0.25
"""Of the reference's updates, after which its early snapshot is taken: token frequencies are known
by then, little else."""


def selection_of(recipe: Recipe) -> SelectionConfig:
    """The recipe's selection, which must be there."""
    assert recipe.selection is not None
    return recipe.selection


def num_candidates(recipe: Recipe) -> int:
    """Samples that are scored."""
    config = selection_of(recipe)
    if config.candidates is not None:
        return config.candidates
    return math.ceil(samples_before(recipe, recipe.schedule.steps) / config.keep_share)


def num_kept(recipe: Recipe) -> int:
    """Samples of one epoch of the training."""
    return max(1, math.floor(selection_of(recipe).keep_share * num_candidates(recipe) + 0.5))


def num_snapshots(config: SelectionConfig) -> int:
    """States of the reference that score each candidate."""
    return 2 if config.score == "learnability" else 1


def early_steps(reference: Recipe) -> int:
    """Updates of the reference at its early snapshot."""
    return max(1, round(EARLY_SHARE * reference.schedule.steps))


def reference_recipe(recipe: Recipe) -> Recipe:
    """What the reference is trained as: a small modern block with AdamW, decayed to zero, on
    samples of the recipe's length, seed and vocabulary.

    `RecipeError` if it would have too few updates to be early or late.
    """
    config = selection_of(recipe)
    samples = config.reference_share * samples_before(recipe, recipe.schedule.steps)
    steps = math.ceil(samples / config.reference_batch)
    if steps < 2:
        raise RecipeError(
            "selection.reference_share: the reference would have a single update.",
            remedy="Raise it, lower selection.reference_batch, or leave out [selection].",
        )
    length = recipe.batch.sequence_length
    return Recipe(
        name="reference",
        seed=recipe.seed,
        model=ModelConfig(
            layers=config.layers, width=config.width, heads=config.heads, context=length,
            vocab_size=recipe.model.vocab_size, positions="rotary", norm="rmsnorm", qk_norm=True,
            activation="relu2", bias=False,
        ),
        data=recipe.data,
        batch=BatchConfig(sequence_length=length, global_batch=config.reference_batch),
        optimizer=OptimizerConfig(learning_rate=config.learning_rate),
        schedule=ScheduleConfig(
            steps=steps, warmup_steps=round(WARM_UP_SHARE * steps), decay="linear", final_share=0.0
        ),
    )  # fmt: skip

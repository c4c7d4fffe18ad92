"""How often a schedule passes over the training text, said where that is more than once."""

from __future__ import annotations

from motley.optim.curriculum import samples_before
from motley.optim.selection import num_kept
from motley.recipe import Recipe
from motley.units import si

MANY_EPOCHS = 4.0
"""Up to about so many, repeated text is worth nearly as much as new (Muennighoff et al., arXiv
2305.16264)."""


def epochs_of(recipe: Recipe, num_tokens: int) -> float:
    """Passes of the whole training over a text of so many tokens."""
    samples = samples_before(recipe, recipe.schedule.steps)
    return samples * recipe.batch.sequence_length / num_tokens


def epochs_message(recipe: Recipe, num_tokens: int) -> str:
    """What to say of a schedule that is longer than the text, or than what a selection keeps of it;
    empty if it is not."""
    if recipe.selection is not None:
        num_tokens = min(num_tokens, num_kept(recipe) * recipe.batch.sequence_length)
    epochs = epochs_of(recipe, num_tokens)
    if epochs <= 1:
        return ""
    passed = recipe.batch.sequence_length * samples_before(recipe, recipe.schedule.steps)
    data = "data" if recipe.selection is None else "data that the selection keeps"
    said = (
        f"The schedule is longer than the {data}: {si(passed)} tokens in {recipe.schedule.steps} "
        f"steps are {epochs:.3g} epochs of {si(num_tokens)} tokens."
    )
    if epochs <= MANY_EPOCHS:
        return said
    fewer = int(recipe.schedule.steps * MANY_EPOCHS / epochs)
    return (
        f"{said} Beyond about {MANY_EPOCHS:g} repeated text teaches little: add text, or set "
        f"schedule.steps to {max(1, fewer)}."
    )

"""Which techniques exclude each other, in one place: a recipe with both is refused, and told why.

What one table of the recipe can see alone, that table checks itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from motley.recipe.optimizer import roles_of

if TYPE_CHECKING:
    from motley.recipe.recipe import Recipe


def require_compatible(recipe: Recipe) -> None:
    """`ValueError` for the first pair of keys that cannot both be as they are."""
    for reason in _conflicts(recipe):
        raise ValueError(reason)


def _conflicts(recipe: Recipe) -> Iterator[str]:
    model, optimizer, schedule = recipe.model, recipe.optimizer, recipe.schedule
    if model.latent is not None and model.tables is not None and model.tables.value_blocks:
        yield (
            "model.tables.value_blocks: rows are as wide as value heads, which latent attention "
            "makes from a narrow vector; leave out model.latent or the value table"
        )
    if model.zero_init and model.arrangement == "post_norm":
        yield (
            "model.zero_init: with the arrangement 'post_norm' no block can start as the identity, "
            "for each norms the stream; leave out one of the two"
        )
    if optimizer.orthogonalises and optimizer.orthogonal_every > schedule.steps:
        yield (
            f"optimizer.orthogonal_every: in {schedule.steps} steps matrices would never move, as "
            f"they wait for the {optimizer.orthogonal_every}th; lower it or raise schedule.steps"
        )
    if optimizer.head_learning_rate is not None and "head" not in roles_of(model):
        yield (
            "optimizer.head_learning_rate: would do nothing, for a tied head is the embedding; set "
            "embedding_learning_rate, or model.tied_head = false"
        )
    own = recipe.data.vocab_size if recipe.data.tokenizer is None else None
    vocabulary = model.vocab_size or own
    if model.sampled_targets and vocabulary and model.sampled_targets >= vocabulary:
        yield (
            f"model.sampled_targets: {model.sampled_targets} of a vocabulary of {vocabulary} are "
            "all, which costs more than the exact loss; lower it or leave it out"
        )
    shortest = recipe.batch.sequence_length // schedule.sequence_warmup
    if model.lookahead_weight is not None and shortest < 3:
        yield (
            f"model.lookahead_weight: sequences of {shortest} tokens hold no token after the next; "
            "lower schedule.sequence_warmup or raise batch.sequence_length"
        )
    selection, samples = recipe.selection, recipe.batch.global_batch
    if selection is not None and selection.candidates is not None:
        kept = selection.keep_share * selection.candidates
        if kept < samples:
            yield (
                f"selection.candidates: {kept:.4g} kept samples are fewer than the {samples} of a "
                "step (batch.global_batch); raise it, or leave it out"
            )

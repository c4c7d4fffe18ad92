"""Which vocabulary a recipe should have on its corpus: FLOPs for each byte of text.

A larger vocabulary puts more text into a token, which saves passes through the blocks, but each
token costs more in the head. The cheapest size per byte is recommended among those whose tokens the
text has often enough. The loss per byte that a size reaches is not predicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from motley.data.vocabularies import VocabularyMeasure, measure_vocabularies
from motley.errors import InputError
from motley.model.counts import model_counts
from motley.recipe import Recipe

SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768)
RARE_SHARE = 0.05
"""Of the tokens that may be too rare to be learned (Gowda and May 2020, arXiv 2004.02334)."""


@dataclass(frozen=True, kw_only=True)
class VocabularyCost:
    """What the recipe's model costs with one vocabulary."""

    measure: VocabularyMeasure
    parameters: int
    flops_per_token: float
    """Counted, forward and backward."""

    @property
    def flops_per_byte(self) -> float:
        return self.flops_per_token / self.measure.bytes_per_token

    @property
    def is_supported(self) -> bool:
        """Whether the text has nearly all tokens often enough."""
        return self.measure.rare_share <= RARE_SHARE


def compare_vocabularies(
    recipe: Recipe, sizes: Sequence[int], report: Callable[[str], None]
) -> tuple[VocabularyCost, ...]:
    """The recipe's model with vocabularies of these sizes, trained on its corpus.

    `InputError` if the recipe fixes its tokenizer or vocabulary.
    """
    fixed = "data.tokenizer" if recipe.data.tokenizer else "model.vocab_size"
    if recipe.data.tokenizer or recipe.model.vocab_size:
        raise InputError(
            f"the recipe fixes its vocabulary: {fixed}.", remedy="Leave it out to compare sizes."
        )
    data = recipe.data
    measures = measure_vocabularies(data.corpus, sizes, data.held_out_share, report)
    return tuple(_cost(recipe, measure) for measure in measures)


def _cost(recipe: Recipe, measure: VocabularyMeasure) -> VocabularyCost:
    model = dataclasses.replace(recipe.model, vocab_size=measure.vocab_size)
    counts = model_counts(model, recipe.batch.sequence_length)
    return VocabularyCost(
        measure=measure, parameters=counts.parameters, flops_per_token=counts.flops_per_token
    )


def recommended(costs: Sequence[VocabularyCost]) -> VocabularyCost | None:
    """The cheapest per byte of those that the text supports; None if it supports none."""
    supported = [cost for cost in costs if cost.is_supported]
    return min(supported, key=lambda cost: cost.flops_per_byte, default=None)

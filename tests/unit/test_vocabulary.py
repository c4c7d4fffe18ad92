"""The choice of a vocabulary: smaller ones are prefixes of larger ones; FLOPs per byte."""

from __future__ import annotations

import dataclasses
import json as json_module
from pathlib import Path

import pytest

from motley.data.files import silent
from motley.data.tokenizer import train_tokenizer
from motley.data.vocabularies import VocabularyMeasure, smaller
from motley.errors import InputError, TokenizerError
from motley.model.counts import model_counts
from motley.recipe import Recipe, parse_recipe
from motley.train.vocabulary import VocabularyCost, compare_vocabularies, recommended

TEXT = Path(json_module.__file__).with_name("decoder.py").read_text(encoding="utf-8")


def recipe() -> Recipe:
    package = str(Path(json_module.__file__).parent)
    return parse_recipe(
        {
            "model": {"layers": 2, "width": 64, "heads": 2, "context": 64},
            "data": {"corpus": [package], "held_out_share": 0.3},
            "batch": {"sequence_length": 64},
        }
    )


@pytest.mark.parametrize("size", [257, 300, 411])
def test_a_smaller_vocabulary_is_the_one_that_training_gives(size: int) -> None:
    cut = smaller(train_tokenizer([TEXT], 500), size)
    trained = train_tokenizer([TEXT], size)
    assert cut.vocab_size == size
    assert cut.digest == trained.digest
    assert cut.encode(TEXT) == trained.encode(TEXT)


def test_costs_are_bytes_measured_and_flops_counted() -> None:
    messages: list[str] = []
    costs = compare_vocabularies(recipe(), (600, 300), messages.append)
    assert [cost.measure.vocab_size for cost in costs] == [300, 600]
    small, large = costs
    assert 1 < small.measure.bytes_per_token < large.measure.bytes_per_token
    assert 0 <= small.measure.rare_share <= large.measure.rare_share <= 1
    model = dataclasses.replace(recipe().model, vocab_size=600)
    assert large.flops_per_token == model_counts(model, 64).flops_per_token
    assert large.flops_per_byte == large.flops_per_token / large.measure.bytes_per_token
    assert any("Tokenizer" in message for message in messages)


def test_the_cheapest_that_the_text_supports_is_recommended() -> None:
    def cost(size: int, per_token: float, rare: float) -> VocabularyCost:
        measure = VocabularyMeasure(vocab_size=size, bytes_per_token=per_token, rare_share=rare)
        return VocabularyCost(measure=measure, parameters=1, flops_per_token=100.0)

    rare, good, worse = cost(9, 9.0, 0.06), cost(5, 4.0, 0.05), cost(3, 3.0, 0.0)
    assert recommended((worse, good, rare)) is good
    assert recommended((rare,)) is None


def test_sizes_and_recipes_that_cannot_be_compared() -> None:
    with pytest.raises(TokenizerError, match="no room for all bytes"):
        compare_vocabularies(recipe(), (200, 300), silent)
    fixed = dataclasses.replace(
        recipe(), model=dataclasses.replace(recipe().model, vocab_size=1000)
    )
    with pytest.raises(InputError, match=r"model\.vocab_size"):
        compare_vocabularies(fixed, (300,), silent)

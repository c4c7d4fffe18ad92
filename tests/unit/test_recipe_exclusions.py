"""Techniques that exclude each other are refused with both names, the reason and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from motley.errors import RecipeError, TermsError
from motley.federation.charter.charter import shared_recipe
from motley.recipe import parse_recipe

SMALL: dict[str, Any] = {"layers": 2, "width": 64, "heads": 4, "context": 64, "vocab_size": 300}
LATENT = {"key_value_rank": 8, "plain_width": 8, "rotary_width": 8, "value_width": 8}


@pytest.mark.parametrize(
    ("tables", "first", "second"),
    [
        ({"model": {"latent": LATENT, "tables": {"value_blocks": [0]}}},
         "model.tables.value_blocks", "model.latent"),
        ({"model": {"zero_init": True, "arrangement": "post_norm"}},
         "model.zero_init", "post_norm"),
        ({"optimizer": {"kind": "muon", "orthogonal_every": 9}, "schedule": {"steps": 8}},
         "optimizer.orthogonal_every", "schedule.steps"),
        ({"model": {"lookahead_weight": 0.3}, "batch": {"sequence_length": 64},
          "schedule": {"sequence_warmup": 32, "sequence_warmup_steps": 5}},
         "model.lookahead_weight", "schedule.sequence_warmup"),
        ({"model": {"sampled_targets": 300}}, "model.sampled_targets", "vocabulary of 300"),
        ({"optimizer": {"head_learning_rate": 0.1}, "model": {}},
         "optimizer.head_learning_rate", "model.tied_head"),
        ({"optimizer": {"momentum": 0.9}}, "optimizer.momentum", 'kind is "adamw"'),
        ({"optimizer": {"orthogonal_every": 2}}, "optimizer.orthogonal_every", 'kind is "adamw"'),
        ({"schedule": {"decay_share": 0.4}}, "schedule.decay_share", 'decay is "cosine"'),
    ],
)  # fmt: skip
def test_the_pair_is_named(tables: dict[str, Any], first: str, second: str) -> None:
    whole = {"batch": {"sequence_length": 64}, **tables}
    whole["model"] = SMALL | whole.get("model", {})
    with pytest.raises(RecipeError) as refused:
        parse_recipe(whole)
    assert first in refused.value.message
    assert second in refused.value.message
    for table, keys in tables.items():
        one_less = {name: dict(value) for name, value in whole.items()}
        for key in keys:
            one_less[table].pop(key)
        parse_recipe(one_less)
        break


def test_a_federation_cannot_grow_from_one_partys_run() -> None:
    recipe = parse_recipe({"model": SMALL, "batch": {"sequence_length": 64},
                           "growth": {"run": "runs/small"}})  # fmt: skip
    with pytest.raises(TermsError, match="one party alone"):
        shared_recipe(recipe)

"""`motley vocabulary`: how large a vocabulary pays on a recipe's text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from motley.cli.output import print_json, say
from motley.recipe import load_recipe
from motley.train.vocabulary import (
    SIZES,
    VocabularyCost,
    compare_vocabularies,
    recommended,
)
from motley.units import percent, si


def run(recipe_file: Path, sizes: Sequence[int], *, as_json: bool) -> None:
    recipe = load_recipe(recipe_file)
    costs = compare_vocabularies(recipe, sizes or SIZES, say)
    best = recommended(costs)
    if as_json:
        print_json([_table(cost, is_best=cost is best) for cost in costs])
        return
    print("vocabulary  bytes/token  parameters  FLOPs/token  FLOPs/byte  rare tokens")
    for cost in costs:
        measure, mark = cost.measure, "  <- cheapest" if cost is best else ""
        print(
            f"{measure.vocab_size:>10,}  {measure.bytes_per_token:>11.3f}  "
            f"{si(cost.parameters):>10}  {si(cost.flops_per_token):>11}  "
            f"{si(cost.flops_per_byte):>10}  {percent(measure.rare_share):>11}{mark}"
        )
    print(_verdict(best))


def _table(cost: VocabularyCost, *, is_best: bool) -> dict[str, object]:
    return {
        **dataclasses.asdict(cost.measure),
        "parameters": cost.parameters,
        "flops_per_token": cost.flops_per_token,
        "flops_per_byte": cost.flops_per_byte,
        "is_supported": cost.is_supported,
        "is_recommended": is_best,
    }


def _verdict(best: VocabularyCost | None) -> str:
    if best is None:
        return "The text is too small for any of these: more than 5 % of the tokens are too rare."
    return (
        f"Bytes per token are measured, FLOPs counted. vocab_size = {best.measure.vocab_size} in "
        "[data] trains on a byte of this text with the fewest FLOPs, among those with at most 5 % "
        "of tokens that occur fewer than 100 times. What loss each reaches only a training tells: "
        "motley ablate compares them in bits per byte."
    )

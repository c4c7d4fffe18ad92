"""A recipe for a model that is only named: what its training would typically be, with reasons.

    typical = typical_recipe("llama3-8b")
    print(typical.recipe.batch.global_batch, *typical.reasons)

It says how much work a step is, so that clusters can be planned for the model; it names no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from motley.errors import RecipeError
from motley.model.counts import model_counts
from motley.model.named import model_named
from motley.recipe import BatchConfig, Recipe, ScheduleConfig, load_recipe

LONGEST_SEQUENCE = 8192
"""Tokens of a sample; longer contexts are trained on a small part of the tokens at the end
(Llama 3, arXiv 2407.21783, section 3.4)."""

TOKENS_PER_STEP = ((1.2e9, 2**19), (5e9, 2**20), (20e9, 2**21), (float("inf"), 2**22))
"""Up to how many parameters a step has how many tokens: GPT-3's models by size (arXiv 2005.14165,
table 2.1: 0.5 M up to 760M, 1 M up to 2.7B, 2 M up to 13B), and Llama's 4 M for larger ones (arXiv
2302.13971, table 2)."""

TOKENS_PER_PARAMETER = 20
"""Of a training that spends its compute best (Hoffmann et al., arXiv 2203.15556, table 3)."""


@dataclass(frozen=True, kw_only=True)
class Typical:
    """A recipe and why it is so."""

    recipe: Recipe
    reasons: tuple[str, ...] = ()
    """One sentence for each choice that was made for the user; none if a file made them."""


def recipe_of(text: str) -> Typical:
    """The recipe of a TOML file, or a typical one for a model's name or `config.json`.

    `RecipeError` if it is neither.
    """
    path = Path(text)
    is_model_file = path.suffix == ".json" or (path / "config.json").is_file()
    if path.suffix == ".toml" or (path.exists() and not is_model_file):
        return Typical(recipe=load_recipe(path))
    try:
        return typical_recipe(text)
    except RecipeError as error:
        if is_model_file:
            raise
        raise RecipeError(f"there is no file and no model '{text}'.", remedy=error.remedy) from None


def typical_recipe(model: str) -> Typical:
    """The typical recipe of a model by its name or the path of its `config.json`."""
    config = model_named(model)
    length = min(config.context, LONGEST_SEQUENCE)
    counts = model_counts(config, length)
    active = counts.active_parameters
    tokens = next(tokens for most, tokens in TOKENS_PER_STEP if active <= most)
    batch = max(1, tokens // length)
    steps = max(1, round(TOKENS_PER_PARAMETER * active / (batch * length)))
    recipe = Recipe(
        name=_plain_name(model),
        model=config,
        batch=BatchConfig(sequence_length=length, global_batch=batch),
        schedule=ScheduleConfig(steps=steps),
    )
    whole = (
        "the model's whole context"
        if length == config.context
        else (
            f"the model's context of {config.context} is trained on at the end only "
            "(arXiv 2407.21783)"
        )
    )
    kind = "active parameters" if config.mixture else "parameters"
    return Typical(
        recipe=recipe,
        reasons=(
            f"sequence_length = {length}: {whole}.",
            f"global_batch = {batch}: {batch * length / 2**20:g} Mi tokens a step, as models of "
            f"{active / 1e9:.3g} billion {kind} are trained (arXiv 2005.14165, 2302.13971).",
            f"steps = {steps}: {TOKENS_PER_PARAMETER} tokens for each of the {kind} "
            "(arXiv 2203.15556).",
        ),
    )


def _plain_name(model: str) -> str:
    """A name for the run: the preset's, or that of the file's folder."""
    path = Path(model)
    return path.resolve().parent.name if path.suffix == ".json" else path.name

"""A deeper model from a shallower one: block i begins as block i mod L of a run with L layers.

Any rank of any plan reads just the parameters that it holds, by name; what the small run cost is
counted into the new one (`motley.optim.flops.training_flops`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from motley.errors import RecipeError
from motley.model.config import BLOCKS, ModelConfig
from motley.optim.flops import training_flops
from motley.recipe import Recipe
from motley.train.checkpoint import (
    Progress,
    checkpoint_path,
    load_state,
    read_progress,
)
from motley.train.folder import RunFolder, open_run_folder
from motley.train.newest import newest_whole
from motley.train.parameters import StageParameters


def resolved_growth(recipe: Recipe, tokenizer_digest: str) -> Recipe:
    """The recipe with the small run's updates and FLOPs written down.

    `RecipeError` if that run's model or tokenizer is another, or it has no whole checkpoint.
    """
    growth = recipe.growth
    if growth is None:
        return recipe
    folder = open_run_folder(Path(growth.run))
    small = folder.recipe()
    progress = _progress(folder, growth.steps)
    _require_same(recipe, small, progress, tokenizer_digest)
    counted = dataclasses.replace(
        growth,
        run=str(folder.path.resolve()),
        steps=progress.step,
        flops=training_flops(_cut(small, progress.step)),
    )
    return dataclasses.replace(recipe, growth=counted)


def _progress(folder: RunFolder, steps: int | None) -> Progress:
    if steps is not None:
        return read_progress(checkpoint_path(folder.checkpoints, steps))
    newest = newest_whole(folder.checkpoints, lambda text: None)
    if newest is None:
        raise RecipeError(
            f"growth.run: {folder.path} has no whole checkpoint.",
            remedy="Train it until one is saved.",
        )
    return newest[1]


def _cut(small: Recipe, steps: int) -> Recipe:
    """The small run's recipe as far as it is taken over."""
    try:
        schedule = dataclasses.replace(small.schedule, steps=steps)
        return dataclasses.replace(small, schedule=schedule)
    except ValueError as cause:
        raise RecipeError(
            f"growth: {steps} updates of growth.run are too few: {cause}.",
            remedy="Train it further, or name a later checkpoint by growth.steps.",
        ) from None


def _require_same(recipe: Recipe, small: Recipe, progress: Progress, tokenizer_digest: str) -> None:
    layers = small.model.layers
    if recipe.model.layers % layers:
        raise RecipeError(
            f"growth: {recipe.model.layers} layers cannot be stacked from {layers}.",
            remedy=f"Give model.layers a multiple of {layers}.",
        )
    _require_stackable(recipe.model, layers)
    if dataclasses.replace(recipe.model, layers=layers) != small.model:
        raise RecipeError(
            "growth: the model differs from that of growth.run in more than its layers.",
            remedy=f"Take over the keys of [model] from {recipe.growth and recipe.growth.run}.",
        )
    if progress.tokenizer_digest != tokenizer_digest:
        raise RecipeError(
            "growth: growth.run was trained with another tokenizer.",
            remedy="Give both recipes the same [data].",
        )


def _require_stackable(model: ModelConfig, layers: int) -> None:
    """`RecipeError` unless each block of the model has one of the first `layers` to begin as."""
    try:
        small = dataclasses.replace(model, layers=layers)
    except ValueError as cause:
        raise RecipeError(
            f"growth: with the {layers} layers of growth.run the model cannot be: {cause}.",
            remedy="Give both recipes a [model] that is possible with either number of layers.",
        ) from None
    for block in range(model.layers):
        begins_as = block % layers
        if model.has_experts(block + 1) != small.has_experts(begins_as + 1):
            raise RecipeError(
                f"growth: block {block} has experts, but would begin as block {begins_as} of "
                "growth.run, which has none.",
                remedy="Set model.mixture.leading_dense_layers to 0 in both recipes.",
            )


def load_grown(recipe: Recipe, parameters: StageParameters) -> None:
    """Sets the masters that this rank holds to those of the small run. All ranks call it."""
    growth = recipe.growth
    assert growth is not None
    assert growth.steps is not None
    folder = open_run_folder(Path(growth.run))
    small = folder.recipe().model.layers
    source = {name: source_name(name, small) for name in parameters.masters}
    state = {
        f"parameter/{source[name]}": torch.empty_like(master)
        for name, master in parameters.masters.items()
    }
    load_state(checkpoint_path(folder.checkpoints, growth.steps), state)
    with torch.no_grad():
        for name, master in parameters.masters.items():
            master.copy_(state[f"parameter/{source[name]}"])
    parameters.refresh()


def source_name(name: str, small_layers: int) -> str:
    """Whose value a parameter begins with: "blocks.5.mlp.up.weight" is block 1's of 4 layers."""
    if not name.startswith(BLOCKS):
        return name
    number, _, rest = name.removeprefix(BLOCKS).partition(".")
    return f"{BLOCKS}{int(number) % small_layers}.{rest}"

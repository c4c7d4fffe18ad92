"""A deeper model from a shallower one: block i begins as block i mod L of a run with L layers.

Any rank of any plan reads just the parameters that it holds, by name; what the small run cost is
counted into the new one (`motley.optim.flops.training_flops`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from motley.errors import RecipeError
from motley.optim.flops import training_flops
from motley.recipe import Recipe
from motley.train.checkpoint import Progress, load_state, newest_whole, read_progress
from motley.train.folder import RunFolder, open_run_folder
from motley.train.parameters import StageParameters

BLOCKS = "blocks."


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
    done = dataclasses.replace(
        small, schedule=dataclasses.replace(small.schedule, steps=progress.step)
    )
    counted = dataclasses.replace(
        growth,
        run=str(folder.path.resolve()),
        steps=progress.step,
        flops=training_flops(done),
    )
    return dataclasses.replace(recipe, growth=counted)


def _progress(folder: RunFolder, steps: int | None) -> Progress:
    if steps is not None:
        return read_progress(_checkpoint(folder.path, steps))
    newest = newest_whole(folder.checkpoints, lambda text: None)
    if newest is None:
        raise RecipeError(
            f"growth.run: {folder.path} has no whole checkpoint.",
            remedy="Train it until one is saved.",
        )
    return newest[1]


def _checkpoint(run: Path, steps: int) -> Path:
    return run / "checkpoints" / f"step-{steps:08d}"


def _require_same(recipe: Recipe, small: Recipe, progress: Progress, tokenizer_digest: str) -> None:
    layers = small.model.layers
    if recipe.model.layers % layers:
        raise RecipeError(
            f"growth: {recipe.model.layers} layers cannot be stacked from {layers}.",
            remedy=f"Give model.layers a multiple of {layers}.",
        )
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


def load_grown(recipe: Recipe, parameters: StageParameters) -> None:
    """Sets the masters that this rank holds to those of the small run. All ranks call it."""
    growth = recipe.growth
    assert growth is not None
    assert growth.steps is not None
    small = open_run_folder(Path(growth.run)).recipe().model.layers
    source = {name: source_name(name, small) for name in parameters.masters}
    state = {
        f"parameter/{source[name]}": torch.empty_like(master)
        for name, master in parameters.masters.items()
    }
    load_state(_checkpoint(Path(growth.run), growth.steps), state)
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

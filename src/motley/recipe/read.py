"""From `recipe.toml`, or tables like it, to a `Recipe`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from motley.errors import RecipeError
from motley.model.named import model_named, preset_named
from motley.recipe.recipe import Recipe
from motley.schema import as_table, build, load_toml


def parse_recipe(table: dict[str, Any], where: str = "recipe", folder: Path = Path()) -> Recipe:
    """A recipe from tables; `RecipeError` names the place of what is wrong. `folder` is where the
    relative path of a model's `preset` starts."""
    model = table.get("model")
    if isinstance(model, dict) and "preset" in model:
        table = {**table, "model": _with_preset(model, f"{where}.model", folder)}
    return build(Recipe, table, where, RecipeError)


def load_recipe(path: Path) -> Recipe:
    """The recipe of a TOML file. Relative paths in `model.preset`, `data` and `growth` are taken
    from the file's folder."""
    if not path.exists() and preset_named(str(path)):
        raise RecipeError(
            f"{path} is a model's name, not a recipe's file.",
            remedy=f'Write a recipe.toml with preset = "{path}" under [model] and your text under '
            "[data]; 'motley plan' also takes the name alone.",
        )
    recipe = parse_recipe(load_toml(path, RecipeError), path.name, path.parent)
    data = dataclasses.replace(
        recipe.data,
        corpus=tuple(_resolve(source, path.parent) for source in recipe.data.corpus),
        tokenizer=recipe.data.tokenizer and _resolve(recipe.data.tokenizer, path.parent),
    )
    growth = recipe.growth and dataclasses.replace(
        recipe.growth, run=_resolve(recipe.growth.run, path.parent)
    )
    return dataclasses.replace(recipe, data=data, growth=growth)


def _with_preset(table: dict[str, Any], where: str, folder: Path) -> dict[str, Any]:
    """The named model's keys, and over them those that the table itself has."""
    own = dict(table)
    preset = own.pop("preset")
    if not isinstance(preset, str):
        raise RecipeError(f"{where}.preset: expected a model's name, found {preset}.")
    return _laid_over(as_table(model_named(preset, folder)), own)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both tables' keys, `above` first, down to the tables inside."""
    both = {
        key: _laid_over(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


def _resolve(source: str, folder: Path) -> str:
    if source == "python-stdlib":
        return source
    try:
        return str((folder / source).resolve())
    except (OSError, RuntimeError) as cause:
        raise RecipeError(
            f"{folder / source}: this path leads nowhere: {cause}.", remedy="Check its links."
        ) from None

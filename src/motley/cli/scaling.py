"""`motley scale`: a recipe at another size, or at the best size for some hours of a cluster.

What it writes is the recipe's own file with the changed lines, each with its reason, so that a
person can read both side by side.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from motley.cli.output import print_json, require_writable, say, write_text
from motley.cli.planning import cluster_for, require_hours
from motley.cluster import Cluster
from motley.errors import InputError, RecipeError
from motley.model.named import config_path
from motley.recipe import Recipe, load_recipe, parse_recipe
from motley.recipe.packaged import packaged_recipe
from motley.recipe.rewrite import rewritten
from motley.recipe.transfer import Target, Transfer, transferred


def run(
    recipe_file: Path | None,
    hours: float | None,
    cluster_file: Path | None,
    target: Target,
    out: Path,
    *,
    as_json: bool,
) -> None:
    """Scales, prints each change with its reason, writes `out`."""
    source = recipe_file or packaged_recipe()
    asked = any(value is not None for value in dataclasses.astuple(target))
    if asked == (hours is not None):
        raise InputError(
            "a size and --hours at once." if asked else "nothing to scale to.",
            remedy="Give --hours, or some of --layers, --width, --batch and --steps.",
        )
    require_hours(hours)
    require_writable(out)
    recipe = load_recipe(source)
    if hours is not None:
        transfer = scaled_to_hours(recipe, cluster_for(cluster_file), hours)
    else:
        transfer = _transferred(recipe, target)
    _write(source, transfer, out)
    if as_json:
        print_json({"changes": [dataclasses.asdict(change) for change in transfer.changes]})
        return
    for change in transfer.changes:
        print(change)
    say(f"Written to {out}.")


def scaled_to_hours(recipe: Recipe, cluster: Cluster, hours: float) -> Transfer:
    """The recipe at the best size for the cluster and the time; its text is read for that."""
    from motley.plan.advice.fitting import fitted
    from motley.train.prepare import prepare_data

    recipe, prepared = prepare_data(recipe, say)
    try:
        return fitted(recipe, cluster, hours, prepared.train.num_tokens)
    except ValueError as reason:
        raise RecipeError(f"the recipe cannot be scaled: {reason}.") from None


def _transferred(recipe: Recipe, target: Target) -> Transfer:
    """Without reading text: an open vocabulary counts as large as the recipe wants it."""
    if recipe.model.vocab_size is None:
        recipe = recipe.with_vocabulary(recipe.data.vocab_size)
    try:
        return transferred(recipe, target)
    except ValueError as reason:
        raise RecipeError(f"the recipe cannot be scaled: {reason}.") from None


def _write(source: Path, transfer: Transfer, out: Path) -> None:
    """The source's text with the changes, once it is sure to mean the scaled recipe."""
    text = source.read_text(encoding="utf-8")
    table = tomllib.loads(text)
    scaled = rewritten(text, transfer.changes)
    _require_same_folder(table, source, out)
    if not _means(scaled, transfer.recipe, source):
        raise RecipeError(
            f"{source.name} cannot be changed line by line.",
            remedy="Give every table a header of its own and every key a line of its own.",
        )
    write_text(out, scaled)


def _means(text: str, recipe: Recipe, source: Path) -> bool:
    """Whether the text, in the source's folder, is that recipe; its text and what it grows from,
    which no size changes, are taken as they are."""
    try:
        meant = parse_recipe(tomllib.loads(text), source.name, source.parent)
    except (ValueError, RecipeError):
        return False
    known = dataclasses.replace(meant, data=recipe.data, growth=recipe.growth)
    return known.with_vocabulary(recipe.model.vocabulary) == recipe


def _require_same_folder(table: dict[str, Any], source: Path, out: Path) -> None:
    """Relative paths in a recipe start at its folder, so the copy must stand there too."""
    relative = [name for name in _paths(table, source.parent) if not Path(name).is_absolute()]
    if relative and source.resolve().parent != out.resolve().parent:
        raise InputError(
            f"{source.name} names {relative[0]}, which starts at its own folder.",
            remedy=f"Write the scaled recipe beside it: --out {source.parent / out.name}.",
        )


def _paths(table: dict[str, Any], folder: Path) -> list[str]:
    """All files and folders that a recipe names."""
    data = table.get("data", {})
    corpus = data.get("corpus", ())
    names = [corpus] if isinstance(corpus, str) else list(corpus)
    names = [name for name in names if name != "python-stdlib"]
    names += [data["tokenizer"]] if "tokenizer" in data else []
    names += [table["growth"]["run"]] if "growth" in table else []
    preset = table["model"].get("preset")
    return [*names, preset] if preset and config_path(preset, folder) else names

"""Changes to a recipe, written as dotted keys: `optimizer.learning_rate = 0.003`.

They know nothing of what a key does, so a new key of the recipe can be varied at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from motley.errors import InputError, RecipeError
from motley.recipe import Recipe, parse_recipe

Changes = Mapping[str, Any]
"""Dotted key of `recipe.toml` to its value."""

UNSET = "unset"
"""The value that takes a key out, so that it is as if the recipe did not have it."""

_NEXT_KEY = re.compile(r",(?=\s*[A-Za-z_][\w.]*\s*=)")


def changed(recipe: Recipe, changes: Changes) -> Recipe:
    """The recipe with these keys set, or taken out by "unset"; `RecipeError` for an unknown
    key or a value that it does not take, as if it stood in the recipe's file."""
    table = recipe.to_dict()
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = table
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise RecipeError(f"{key}: {section} is a value, not a table with keys.")
        if value == UNSET:
            inner.pop(name, None)
        else:
            inner[name] = value
    return parse_recipe(table)


def parse_changes(text: str) -> dict[str, Any]:
    """The changes of `key=value[,key=value]`; values as in TOML, where a lone word is a text.

    `InputError` if a part has no '=' or a key stands twice.
    """
    found: dict[str, Any] = {}
    for part in _NEXT_KEY.split(text):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise InputError(
                f"--set {text}: '{part.strip()}' is no change.",
                remedy="Write key=value[,key=value], as in optimizer.learning_rate=0.003.",
            )
        if key in found:
            raise InputError(f"--set {text}: {key} stands twice.", remedy="Give it once.")
        found[key] = _value(value)
    return found


def written(changes: Changes) -> str:
    """The changes as `parse_changes` reads them; lists and texts as TOML spells them."""
    return ",".join(f"{key}={_spelled(value)}" for key, value in changes.items())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_spelled, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)

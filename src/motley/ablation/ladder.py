"""The variants that are trained beside the recipe itself, from `--set` or a ladder file.

[[variant]]
name = "rotary"
set = { "model.positions" = "rotary" }

[[variant]]
name = "rotary and RMSNorm"
after = "rotary"
set = { "model.norm" = "rmsnorm" }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motley.ablation.changes import Changes, changed, parse_changes, written
from motley.errors import InputError, RecipeError, nearest
from motley.recipe import Recipe
from motley.schema import build, load_toml

BASE = "base"
"""The recipe as it is."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A rung: a name and what it changes."""

    name: str
    after: str | None = None
    """The variant that it goes on from; unset means the recipe itself."""
    set: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ValueError(f"name: cannot be shown: {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The whole of a ladder file."""

    variant: tuple[Variant, ...]


def load_ladder(path: Path) -> tuple[Variant, ...]:
    """The variants of a TOML file; `InputError` names the place of what is wrong."""
    variants = build(Ladder, load_toml(path, InputError), path.name, InputError).variant
    if not variants:
        raise InputError(f"{path.name}: names no variant.", remedy="Add a [[variant]] table.")
    for variant in variants:
        chain(variants, variant.name)
    return variants


def from_settings(settings: Sequence[str]) -> tuple[Variant, ...]:
    """One variant for each `key=value[,key=value]`, named by it."""
    changes = [parse_changes(text) for text in settings]
    return tuple(Variant(name=written(each), set=each) for each in changes)


def chain(variants: Sequence[Variant], name: str) -> tuple[Variant, ...]:
    """The variant of that name and those below it, from the lowest up; `InputError` if one is
    missing, stands twice or comes after itself."""
    known: dict[str, Variant] = {BASE: Variant(name=BASE)}
    for variant in variants:
        if variant.name in known:
            raise InputError(f"variant '{variant.name}' stands twice.", remedy="Rename one.")
        known[variant.name] = variant
    found: list[Variant] = []
    below: str | None = name
    while below is not None:
        if below not in known:
            raise InputError(f"no variant '{below}'.", remedy=nearest(below, known))
        if known[below] in found:
            raise InputError(f"variant '{below}' comes after itself.", remedy="Mend its 'after'.")
        found.insert(0, known[below])
        below = known[below].after
    return tuple(found)


def changes_of(variants: Sequence[Variant], name: str) -> dict[str, Any]:
    """All changes of a variant, those of the ones below it first."""
    together: dict[str, Any] = {}
    for variant in chain(variants, name):
        together |= variant.set
    return together


def recipes_of(recipe: Recipe, variants: Sequence[Variant]) -> dict[str, Recipe]:
    """Name to recipe, the base first. `InputError` names the variant whose key or value is wrong,
    or that does not differ from the base."""
    found = {BASE: recipe}
    for variant in variants:
        made = _made(recipe, variant.name, changes_of(variants, variant.name))
        if made == recipe:
            raise InputError(
                f"variant '{variant.name}' changes nothing: the recipe has these values already.",
                remedy="Leave it out, or give another value.",
            )
        found[variant.name] = made
    return found


def _made(recipe: Recipe, name: str, changes: Changes) -> Recipe:
    try:
        return changed(recipe, changes)
    except RecipeError as wrong:
        raise InputError(f"variant '{name}': {wrong.message}", remedy=wrong.remedy) from None

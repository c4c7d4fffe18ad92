"""The recipes that come with motley, and the one that is taken when none is named."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def packaged_recipe(name: str = "frugal") -> Path:
    """The file of one of `recipes/`; "frugal" is what `motley train` and `motley scale` take."""
    return Path(str(files("motley") / "recipes" / f"{name}.toml"))

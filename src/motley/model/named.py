"""A model by its public name, or by the path of a Hugging Face `config.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from motley.errors import RecipeError, nearest
from motley.model.config import ModelConfig
from motley.model.huggingface_config import config_from_huggingface
from motley.model.presets import PRESETS

ALIASES = {
    "gpt2-small": "gpt2",
    "gpt2-124m": "gpt2",
    "gpt2-355m": "gpt2-medium",
    "gpt2-774m": "gpt2-large",
    "gpt2-1.5b": "gpt2-xl",
    "gpt3": "gpt3-175b",
    "bloom": "bloom-176b",
    "bloom-1.1b": "bloom-1b1",
    "bloom-1.7b": "bloom-1b7",
    "bloom-7.1b": "bloom-7b1",
    "llama-7b": "llama1-7b",
    "llama-13b": "llama1-13b",
    "llama-30b": "llama1-33b",
    "llama1-30b": "llama1-33b",
    "llama-33b": "llama1-33b",
    "llama-65b": "llama1-65b",
    "llama3-405b": "llama3.1-405b",
    "palm": "palm-540b",
    "mixtral": "mixtral-8x7b",
    "deepseek-v3-671b": "deepseek-v3",
}
"""Other names that are in use."""

_ENDINGS = re.compile(r"-(hf|base|instruct|chat|deduped|v0\.\d)$")
"""What names on Hugging Face add for weights of the same shape."""


def model_named(name_or_path: str | Path, folder: Path = Path()) -> ModelConfig:
    """The shape of a preset, by a name as people write it ("llama3-8b", "Llama-3-8B",
    "meta-llama/Meta-Llama-3-8B"), or that of a `config.json` or the folder that holds one.

    A relative path starts at `folder`. `RecipeError` names the nearest preset.
    """
    path = config_path(name_or_path, folder)
    if path is not None:
        return _read(path)
    name = preset_named(str(name_or_path))
    if name is None:
        known = {_plain(preset): preset for preset in (*PRESETS, *ALIASES)}
        near = nearest(_plain(str(name_or_path)), known)
        near = re.sub(r"'(.*)'", lambda found: f"'{known[found[1]]}'", near)
        listed = f"Known models: {', '.join(PRESETS)}; or a path to a config.json."
        raise RecipeError(f"there is no model '{name_or_path}'.", remedy=near or listed)
    return PRESETS[name]


def config_path(name_or_path: str | Path, folder: Path = Path()) -> Path | None:
    """The `config.json` that is meant, itself or by its folder; None for a name."""
    path = folder / name_or_path
    path = path / "config.json" if path.is_dir() else path
    return path if path.suffix == ".json" else None


def preset_named(name: str) -> str | None:
    """The key in `PRESETS` that a name means; None if it means none."""
    by_plain_name = {_plain(preset): preset for preset in PRESETS}
    by_plain_name.update({_plain(alias): preset for alias, preset in ALIASES.items()})
    return by_plain_name.get(_plain(name))


def _plain(name: str) -> str:
    """Without the owner, the case, endings for weights, and hyphens: "Meta-Llama-3-8B" and
    "llama3-8b" are "llama38b"; the point stays, for 3.1-8B is not 3-18B."""
    bare = name.strip().lower().rpartition("/")[2].replace("_", "-").replace(" ", "-")
    while _ENDINGS.search(bare):
        bare = _ENDINGS.sub("", bare)
    return bare.removeprefix("meta-").replace("-", "")


def _read(path: Path) -> ModelConfig:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file.", remedy="Check the path.") from None
    except (OSError, ValueError, RecursionError) as cause:
        raise RecipeError(f"{path}: cannot be read as JSON: {cause}.") from None
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: expected the table of a Hugging Face config.json.")
    return config_from_huggingface(table)

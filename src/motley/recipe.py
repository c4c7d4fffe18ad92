"""What is trained and how, from `recipe.toml`.

The recipe alone fixes the mathematics: model, data, global batch, order of samples, optimizer and
schedule. No plan and no cluster changes any of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from motley.errors import RecipeError
from motley.model.config import ModelConfig
from motley.model.named import model_named
from motley.schema import as_table, build, load_toml, require_positive


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    corpus: tuple[str, ...] = ("python-stdlib",)
    """Text files, folders or .jsonl files; "python-stdlib" is the interpreter's own library."""
    tokenizer: str | None = None
    """A Hugging Face tokenizer.json; unset trains a byte-level BPE on the corpus."""
    vocab_size: int = 4096
    """Size of the trained tokenizer's vocabulary."""
    held_out_share: float = 0.05
    """Share of the documents kept for validation, chosen by a hash of their path."""

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size")
        if not self.corpus or not all(self.corpus):
            raise ValueError("corpus: names no text")
        if self.vocab_size < 257:
            raise ValueError("vocab_size: must be at least 257 (256 bytes and the end of text)")
        if not 0 < self.held_out_share < 1:
            raise ValueError(
                f"held_out_share: must be between 0 and 1, found {self.held_out_share}"
            )


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    sequence_length: int = 256
    """Tokens of one sample."""
    global_batch: int = 32
    """Samples of one optimizer step, over all replicas."""

    def __post_init__(self) -> None:
        require_positive(self, "sequence_length", "global_batch")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """On matrices only; norms, biases and other vectors are not decayed."""
    gradient_clip: float = 1.0
    """Largest L2 norm of the whole model's gradient."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "epsilon", "gradient_clip")
        if self.learning_rate > 10:
            raise ValueError(
                f"learning_rate: {self.learning_rate} is absurd; above 10 nothing trains"
            )
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: must not be negative, found {self.weight_decay}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must be in [0, 1), found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    steps: int = 300
    """Optimizer steps of the whole training."""
    warmup_steps: int = 20
    """Steps of linear warm-up from zero."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_share: float = 0.1
    """Learning rate at the end, as a share of the peak."""

    def __post_init__(self) -> None:
        require_positive(self, "steps")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps: must not be negative, found {self.warmup_steps}")
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share: must be between 0 and 1, found {self.final_share}")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    every_steps: int = 50
    max_samples: int = 64
    """Held-out samples that are scored each time; the same ones, from the start."""

    def __post_init__(self) -> None:
        require_positive(self, "every_steps", "max_samples")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every_steps: int = 100
    keep: int = 2
    """The newest checkpoints that stay on disk."""

    def __post_init__(self) -> None:
        require_positive(self, "every_steps", "keep")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str = "run"
    seed: int = 0
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        is_file_name = Path(self.name).name == self.name and self.name.isprintable()
        if self.name in ("", "..") or not is_file_name:
            raise ValueError(f"name: names the run's folder, which cannot be {self.name!r}")
        length, context = self.batch.sequence_length, self.model.context
        if length > context:
            raise ValueError(
                f"batch.sequence_length: {length} tokens do not fit the model's context {context}"
            )

    @property
    def tokens_per_step(self) -> int:
        return self.batch.global_batch * self.batch.sequence_length

    def with_vocabulary(self, vocab_size: int) -> Recipe:
        """The recipe with the tokenizer's vocabulary; `RecipeError` if the model fixes another."""
        fixed = self.model.vocab_size
        if fixed is not None and fixed < vocab_size:
            raise RecipeError(
                f"model.vocab_size is {fixed}, but the tokenizer has {vocab_size} tokens.",
                remedy="Leave model.vocab_size out, or make it at least the tokenizer's.",
            )
        model = dataclasses.replace(self.model, vocab_size=fixed or vocab_size)
        return dataclasses.replace(self, model=model)

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, with unset keys left out; `parse_recipe` reads them back."""
        return as_table(self)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with anything that the recipe says."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_recipe(table: dict[str, Any], where: str = "recipe", folder: Path = Path()) -> Recipe:
    """A recipe from tables; `RecipeError` names the place of what is wrong. `folder` is where the
    relative path of a model's `preset` starts."""
    model = table.get("model")
    if isinstance(model, dict) and "preset" in model:
        table = {**table, "model": _with_preset(model, f"{where}.model", folder)}
    return build(Recipe, table, where, RecipeError)


def load_recipe(path: Path) -> Recipe:
    """The recipe of a TOML file. Relative paths in `model.preset` and in `data` are taken from the
    file's folder."""
    recipe = parse_recipe(load_toml(path, RecipeError), path.name, path.parent)
    data = dataclasses.replace(
        recipe.data,
        corpus=tuple(_resolve(source, path.parent) for source in recipe.data.corpus),
        tokenizer=recipe.data.tokenizer and _resolve(recipe.data.tokenizer, path.parent),
    )
    return dataclasses.replace(recipe, data=data)


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
    return source if source == "python-stdlib" else str((folder / source).resolve())

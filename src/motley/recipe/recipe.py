"""The whole recipe: one table per section of `recipe.toml`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motley.errors import RecipeError
from motley.model.config import ModelConfig
from motley.recipe.data import BatchConfig, DataConfig
from motley.recipe.exclusions import require_compatible
from motley.recipe.growth import GrowthConfig
from motley.recipe.optimizer import OptimizerConfig
from motley.recipe.schedule import ScheduleConfig
from motley.recipe.selection import SelectionConfig
from motley.recipe.upkeep import CheckpointConfig, ValidationConfig
from motley.schema import as_table

TABLES_OVER_EMBEDDINGS = 2.0
"""Of rates: the best at size XS, of 0.2 to 8 (`benchmarks/compute.md`)."""


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
    growth: GrowthConfig | None = None
    selection: SelectionConfig | None = None

    def __post_init__(self) -> None:
        is_file_name = Path(self.name).name == self.name and self.name.isprintable()
        if self.name in ("", "..") or not is_file_name:
            raise ValueError(f"name: names the run's folder, which cannot be {self.name!r}")
        length, context = self.batch.sequence_length, self.model.context
        if length > context:
            raise ValueError(
                f"batch.sequence_length: {length} tokens do not fit the model's context {context}"
            )
        self._check_schedule()
        require_compatible(self)

    def _check_schedule(self) -> None:
        pieces, share = self.schedule.sequence_warmup, self.schedule.batch_warmup
        length, samples = self.batch.sequence_length, self.batch.global_batch
        if length % pieces or length == pieces > 1:
            raise ValueError(
                f"schedule.sequence_warmup: {length} tokens cannot be cut into {pieces} sequences"
            )
        if share * samples < 1 - 1e-9:
            raise ValueError(
                f"schedule.batch_warmup: {share} of {samples} samples is less than one; "
                f"begin with at least {1 / samples:.4g}"
            )

    @property
    def tokens_per_step(self) -> int:
        return self.batch.global_batch * self.batch.sequence_length

    @property
    def table_rate(self) -> float:
        """Peak learning rate of the memory tables, whose rows are added to embeddings; 0 without
        any."""
        tables = self.model.tables
        if tables is None:
            return 0.0
        return tables.learning_rate or TABLES_OVER_EMBEDDINGS * self.optimizer.peak_rate(
            "embedding"
        )

    def with_vocabulary(self, vocab_size: int) -> Recipe:
        """The recipe with the tokenizer's vocabulary; `RecipeError` if the model fixes another."""
        fixed = self.model.vocab_size
        if fixed is not None and fixed < vocab_size:
            raise RecipeError(
                f"model.vocab_size is {fixed}, but the tokenizer has {vocab_size} tokens.",
                remedy="Leave model.vocab_size out, or make it at least the tokenizer's.",
            )
        model = dataclasses.replace(self.model, vocab_size=fixed or vocab_size)
        try:
            return dataclasses.replace(self, model=model)
        except ValueError as cause:
            raise RecipeError(f"with the tokenizer's {vocab_size} tokens: {cause}.") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, with unset keys left out; `parse_recipe` reads them back."""
        return as_table(self)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with anything that the recipe says."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

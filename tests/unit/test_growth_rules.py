"""Which run another may grow from: found out from its files, without training anything."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from motley.errors import RecipeError
from motley.model.config import MixtureOfExperts, ModelConfig
from motley.model.table_config import MemoryTables
from motley.optim.flops import training_flops
from motley.recipe import BatchConfig, GrowthConfig, OptimizerConfig, Recipe, ScheduleConfig
from motley.train.checkpoint import Progress, checkpoint_path
from motley.train.folder import RunFolder
from motley.train.growth import resolved_growth

DIGEST = "0" * 64
DEEP, SHALLOW = 8, 4


def recipe(**model: object) -> Recipe:
    shape = {"layers": DEEP, "width": 32, "heads": 2, "context": 32, "vocab_size": 300}
    return Recipe(
        model=ModelConfig(**{**shape, **model}),  # type: ignore[arg-type]
        batch=BatchConfig(sequence_length=32, global_batch=8),
    )


def experts(leading_dense_layers: int) -> MixtureOfExperts:
    return MixtureOfExperts(
        experts=4,
        experts_per_token=2,
        expert_width=16,
        leading_dense_layers=leading_dense_layers,
    )


def grown(deep: Recipe, small: Recipe, path: Path, *, steps: int = 20) -> Recipe:
    """`deep` as it grows from a run of `small` whose only checkpoint, without tensors, is after so
    many updates."""
    folder = RunFolder(path)
    checkpoint = checkpoint_path(folder.checkpoints, steps)
    checkpoint.mkdir(parents=True)
    progress = Progress(steps, small.digest, DIGEST)
    whole = {"format": 1, "progress": dataclasses.asdict(progress), "files": {}}
    (checkpoint / "whole.json").write_text(json.dumps(whole))
    folder.recipe_file.write_text(json.dumps(small.to_dict()))
    growing = dataclasses.replace(deep, growth=GrowthConfig(run=str(path)))
    return resolved_growth(growing, DIGEST)


def test_experts_grow_from_experts_alone(tmp_path: Path) -> None:
    deep = recipe(mixture=experts(0))
    assert grown(deep, recipe(mixture=experts(0), layers=SHALLOW), tmp_path / "all").growth
    for dense in (1, SHALLOW):
        small = recipe(mixture=experts(dense), layers=SHALLOW)
        with pytest.raises(RecipeError, match="block 4 has experts, but would begin as") as raised:
            grown(recipe(mixture=experts(dense)), small, tmp_path / str(dense))
        assert "model.mixture.leading_dense_layers" in raised.value.remedy


@pytest.mark.parametrize(
    "model",
    [
        {"tables": MemoryTables(value_blocks=(7,))},
        {"mixture": experts(5)},
    ],
)
def test_a_model_that_cannot_be_so_shallow_is_refused(
    model: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"with the 4 layers of growth\.run") as raised:
        grown(recipe(**model), recipe(layers=SHALLOW), tmp_path)
    assert "[model]" in raised.value.remedy


def test_too_few_updates_to_count_are_refused(tmp_path: Path) -> None:
    small = dataclasses.replace(
        recipe(layers=SHALLOW),
        optimizer=OptimizerConfig(kind="muon", orthogonal_every=30),
        schedule=ScheduleConfig(steps=60),
    )
    with pytest.raises(RecipeError, match=r"20 updates of growth\.run are too few") as raised:
        grown(recipe(), small, tmp_path / "early")
    assert "growth.steps" in raised.value.remedy
    later = grown(recipe(), small, tmp_path / "later", steps=40)
    assert later.growth is not None
    cut = dataclasses.replace(small, schedule=ScheduleConfig(steps=40))
    assert later.growth.flops == training_flops(cut)

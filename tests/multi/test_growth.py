"""Growth by stacking: a deeper run begins as a shallower one, stacked, under any plan; its cost is
counted, and what cannot be stacked is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import jobs
from motley.ablation import BASE, finished, tasks_of
from motley.data import PreparedData, SampleSource
from motley.errors import CheckpointError, RecipeError, RunFolderError
from motley.model.transformer import build_transformer
from motley.optim.flops import training_flops
from motley.recipe import GrowthConfig, Recipe
from motley.train.folder import RunFolder
from motley.train.growth import resolved_growth, source_name
from motley.train.prepare import new_run
from motley.train.trained import load_model

STEPS = 6


def shallow(recipe: Recipe) -> Recipe:
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, layers=2),
        schedule=dataclasses.replace(recipe.schedule, steps=STEPS),
    )


@pytest.fixture(scope="module")
def small_run(
    small: tuple[Recipe, PreparedData], tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    recipe = shallow(small[0])
    cluster = jobs.cluster("fp32")
    plan = jobs.plan_of(recipe, cluster, (((0, 0, 4),), 4, 16))
    path = tmp_path_factory.mktemp("growth") / "small"
    return jobs.train(path, recipe, cluster, plan, small[1])


def grown(recipe: Recipe, run: Path, tokenizer_digest: str) -> Recipe:
    short = dataclasses.replace(recipe.schedule, steps=2)
    wanted = dataclasses.replace(recipe, schedule=short, growth=GrowthConfig(run=str(run)))
    return resolved_growth(wanted, tokenizer_digest)


def test_a_pipeline_begins_as_the_stacked_model(
    small: tuple[Recipe, PreparedData], small_run: RunFolder, tmp_path: Path
) -> None:
    recipe, data = small
    deep = grown(recipe, small_run.path, data.tokenizer.digest)
    cluster = jobs.cluster("fp32", "fp32")
    plan = jobs.plan_of(deep, cluster, (((0, 0, 2), (1, 2, 6)), 4, 16))
    folder = jobs.train(tmp_path / "deep", deep, cluster, plan, data)

    model = build_transformer(deep.model, seed=1)
    trained = load_model(small_run, lambda text: None)[0].state()
    model.load_state({name: trained[source_name(name, 2)] for name in model.state()})
    tokens, targets = SampleSource(data.train, 32, deep.seed).batch(range(16))
    targets_bs = torch.from_numpy(targets)
    loss = model.loss(torch.from_numpy(tokens), targets_bs) / (targets_bs >= 0).sum()
    assert jobs.losses(folder)[1] == pytest.approx(loss.item(), rel=1e-5)


def test_what_the_small_run_cost_is_counted(
    small: tuple[Recipe, PreparedData], small_run: RunFolder
) -> None:
    recipe, data = small
    deep = grown(recipe, small_run.path, data.tokenizer.digest)
    assert deep.growth is not None
    assert deep.growth.steps == STEPS
    alone = dataclasses.replace(deep, growth=None)
    assert training_flops(deep) == training_flops(alone) + training_flops(small_run.recipe())
    assert alone.digest != deep.digest


def test_an_ablation_knows_its_grown_run_again(
    small: tuple[Recipe, PreparedData], small_run: RunFolder, tmp_path: Path
) -> None:
    growth = GrowthConfig(run=str(small_run.path))
    recipe = dataclasses.replace(small[0], growth=growth)
    (task,) = tasks_of({BASE: recipe}, [0], tmp_path)
    new_run(task.recipe, jobs.cluster("fp32"), None, task.path, lambda text: None)
    assert finished(task) is None
    from_elsewhere = dataclasses.replace(growth, run=str(tmp_path))
    for other in (None, dataclasses.replace(growth, steps=STEPS - 1), from_elsewhere):
        changed = dataclasses.replace(task.recipe, growth=other)
        with pytest.raises(RunFolderError, match="another recipe"):
            finished(dataclasses.replace(task, recipe=changed))


def test_what_cannot_be_stacked_is_refused(
    small: tuple[Recipe, PreparedData], small_run: RunFolder
) -> None:
    recipe, data = small
    digest = data.tokenizer.digest
    odd = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, layers=5))
    with pytest.raises(RecipeError, match="5 layers cannot be stacked from 2"):
        grown(odd, small_run.path, digest)
    wide = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, width=64))
    with pytest.raises(RecipeError, match="more than its layers"):
        grown(wide, small_run.path, digest)
    with pytest.raises(RecipeError, match="another tokenizer"):
        grown(recipe, small_run.path, "0" * 64)
    missing = dataclasses.replace(recipe, growth=GrowthConfig(run=str(small_run.path), steps=5))
    with pytest.raises(CheckpointError, match="step-00000005"):
        resolved_growth(missing, digest)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("blocks.0.attention.query.weight", "blocks.0.attention.query.weight"),
        ("blocks.5.mlp.up.weight", "blocks.1.mlp.up.weight"),
        ("blocks.12.input_mix", "blocks.0.input_mix"),
        ("embedding.token", "embedding.token"),
        ("head.norm.weight", "head.norm.weight"),
    ],
)
def test_blocks_repeat_in_their_order(name: str, source: str) -> None:
    layers = 2 if "12" in name else 4
    assert source_name(name, layers) == source

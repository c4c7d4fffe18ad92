"""Whole checkpoints that are not the run's own are passed over, and a save that fails is no end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import jobs
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.errors import CheckpointError
from motley.plan.plan import Plan
from motley.recipe import Recipe
from motley.train.checkpoint import checkpoint_path, saved_shapes
from motley.train.folder import RunFolder
from motley.train.launch import start
from motley.train.newest import Expected, newest_whole


def recipe_of(small: Recipe, *, steps: int, every: int) -> Recipe:
    schedule = dataclasses.replace(small.schedule, decay="constant", steps=steps)
    checkpoint = dataclasses.replace(small.checkpoint, every_steps=every, keep=1)
    return dataclasses.replace(small, schedule=schedule, checkpoint=checkpoint)


def two_stages(recipe: Recipe) -> tuple[Cluster, Plan]:
    cluster = jobs.cluster("fp32", "fp32")
    return cluster, jobs.plan_of(recipe, cluster, (((0, 0, 3), (1, 3, 6)), 8, 16))


@pytest.fixture(scope="module")
def finished(
    small: tuple[Recipe, PreparedData], tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """A run of two steps."""
    recipe, data = recipe_of(small[0], steps=2, every=2), small[1]
    path = tmp_path_factory.mktemp("foreign") / "run"
    return jobs.train(path, recipe, *two_stages(recipe), data)


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def put_foreign(run: RunFolder, step: int) -> Path:
    """A whole checkpoint of another tokenizer."""
    path = checkpoint_path(run.checkpoints, step)
    shutil.copytree(checkpoint_path(run.checkpoints, 2), path)
    table = json.loads((path / "whole.json").read_text())
    table["progress"] |= {"step": step, "tokenizer_digest": "f" * 64}
    (path / "whole.json").write_text(json.dumps(table))
    return path


def expected(run: RunFolder) -> Expected:
    return Expected(run.tokenizer().digest, saved_shapes(checkpoint_path(run.checkpoints, 2)))


def test_the_runs_own_is_taken_and_kept(run: RunFolder, small: tuple[Recipe, PreparedData]) -> None:
    """Even where the recipe keeps one checkpoint, and the other's number is higher."""
    foreign = put_foreign(run, 99)
    longer = recipe_of(small[0], steps=4, every=1)
    run.write(longer, *two_stages(longer), run.data_folder())
    start(run).finish()
    assert jobs.events(run, "run_started")[-1]["resumed_from"] == 2
    said = [event["text"] for event in jobs.events(run, "message")]
    assert sum("step-00000099 was trained with another tokenizer" in text for text in said) == 1
    kept = sorted(path.name for path in run.checkpoints.iterdir())
    assert kept == ["step-00000004", foreign.name]


def test_other_shapes_and_names_are_told(run: RunFolder) -> None:
    own = expected(run)
    name = "parameter/blocks.0.mlp.up.weight"
    assert name in own.shapes
    said: list[str] = []
    for shapes in (
        {**own.shapes, name: own.shapes[name][:1]},
        {**own.shapes, "moment3/new": own.shapes[name]},
    ):
        with pytest.raises(CheckpointError, match="of another model or optimizer"):
            newest_whole(run.checkpoints, said.append, Expected(own.tokenizer_digest, shapes))
    assert f"{name} has the shape" in said[0]
    assert "moment3/new is not in it" in said[1]
    assert newest_whole(run.checkpoints, pytest.fail, own) is not None


def test_a_run_with_only_foreign_ones_is_not_begun_anew(run: RunFolder) -> None:
    """Its checkpoints would take their places."""
    own = expected(run)
    put_foreign(run, 3)
    shutil.rmtree(checkpoint_path(run.checkpoints, 2))
    said: list[str] = []
    with pytest.raises(CheckpointError, match="another tokenizer") as raised:
        newest_whole(run.checkpoints, said.append, own)
    assert "begin a new run" in raised.value.remedy
    assert newest_whole(run.checkpoints, pytest.fail) is not None


def test_a_save_that_cannot_begin_is_reported_and_the_next_one_is_made(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe = recipe_of(small[0], steps=100_000, every=5)
    folder = jobs.make_run(tmp_path / "run", recipe, *two_stages(recipe), small[1])
    folder.checkpoints.write_text("a file where the folder of checkpoints should be")
    job = start(folder)
    jobs.wait_for(job, "checkpoint_failed")
    folder.checkpoints.unlink()
    jobs.wait_for(job, "checkpoint")
    job.request_stop()
    job.finish()
    failed = jobs.events(folder, "checkpoint_failed")
    assert failed[0]["step"] == 5
    assert "the checkpoint of step 5 could not be saved" in failed[0]["reason"]
    saved = [event["step"] for event in jobs.events(folder, "checkpoint")]
    assert saved[0] == failed[-1]["step"] + 5
    assert list(jobs.losses(folder)) == list(range(1, saved[-1] + 1))


def test_a_last_save_that_cannot_begin_is_an_error(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe = recipe_of(small[0], steps=2, every=5)
    folder = jobs.make_run(tmp_path / "run", recipe, *two_stages(recipe), small[1])
    folder.checkpoints.write_text("")
    with pytest.raises(CheckpointError, match="the checkpoint of step 2 could not be saved"):
        start(folder).finish()

"""The plan never changes the mathematics: one chip, unequal replicas and pipelines train alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jobs
from motley.cluster import Cluster
from motley.data import PreparedData
from motley.plan.plan import Plan
from motley.recipe import Recipe

WHOLE = ((0, 0, 6),)
CURVE_BAND = 2e-3
"""Largest relative difference of a loss within 50 fp32 steps; sums are added in another order."""


def one_chip(recipe: Recipe) -> tuple[Cluster, Plan]:
    cluster = jobs.cluster("fp32")
    return cluster, jobs.plan_of(recipe, cluster, (WHOLE, 16, 16))


def unequal_replicas(recipe: Recipe) -> tuple[Cluster, Plan]:
    """Shares of 8 : 4 : 3 : 1 samples; one replica's last micro-batch is smaller."""
    cluster = jobs.cluster("fp32", "fp32", "fp32", "fp32")
    return cluster, jobs.plan_of(
        recipe,
        cluster,
        (((0, 0, 6),), 4, 8),
        (((1, 0, 6),), 2, 4),
        (((2, 0, 6),), 2, 3),
        (((3, 0, 6),), 1, 1),
    )


def unlike_pipelines(recipe: Recipe) -> tuple[Cluster, Plan]:
    """A whole copy beside two pipelines that are cut at different layers."""
    cluster = jobs.cluster("fp32", "fp32", "fp32", "fp32", "fp32", "fp32")
    return cluster, jobs.plan_of(
        recipe,
        cluster,
        (((0, 0, 6),), 4, 8),
        (((1, 0, 2), (2, 2, 6)), 2, 5),
        (((3, 0, 1), (4, 1, 5), (5, 5, 6)), 1, 3),
    )


@pytest.fixture(scope="module")
def reference(
    small: tuple[Recipe, PreparedData], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    recipe, data = small
    cluster, plan = one_chip(recipe)
    folder = jobs.train(tmp_path_factory.mktemp("one") / "run", recipe, cluster, plan, data)
    return jobs.losses(folder)


@pytest.mark.parametrize("split", [unequal_replicas, unlike_pipelines])
@pytest.mark.parametrize("tied", [True, False])
def test_the_first_step_and_the_curve_do_not_depend_on_the_plan(
    split: Callable[[Recipe], tuple[Cluster, Plan]],
    tied: bool,
    small: tuple[Recipe, PreparedData],
    reference: dict[int, float],
    tmp_path: Path,
) -> None:
    recipe, data = small
    if not tied:
        model = dataclasses.replace(recipe.model, tied_head=False)
        schedule = dataclasses.replace(recipe.schedule, steps=8)
        recipe = dataclasses.replace(recipe, model=model, schedule=schedule)
        cluster, plan = one_chip(recipe)
        reference = jobs.losses(jobs.train(tmp_path / "one", recipe, cluster, plan, data))
    cluster, plan = split(recipe)
    losses = jobs.losses(jobs.train(tmp_path / "run", recipe, cluster, plan, data))
    assert losses[1] == pytest.approx(reference[1], rel=1e-5)
    assert losses[2] == pytest.approx(reference[2], rel=1e-5)
    assert losses.keys() == reference.keys()
    for step, loss in losses.items():
        assert loss == pytest.approx(reference[step], rel=CURVE_BAND), f"step {step}"


FRUGAL_BLOCK = {
    "positions": "rotary", "norm": "rmsnorm", "activation": "relu2", "bias": False,
    "qk_norm": True, "tied_head": False, "embedding_norm": True, "input_residual": True,
    "value_residual": True, "logit_softcap": 15.0,
}  # fmt: skip


def test_the_frugal_block_trains_alike_under_a_mixed_plan(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    """What blocks read beside the stream crosses every cut, unread by the stages of the ends."""
    recipe, data = small
    changes: dict[str, Any] = FRUGAL_BLOCK
    recipe = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, **changes),
        schedule=dataclasses.replace(recipe.schedule, steps=8),
        validation=dataclasses.replace(recipe.validation, every_steps=4),
    )
    found = []
    for number, split in enumerate((one_chip, unlike_pipelines)):
        cluster, plan = split(recipe)
        folder = jobs.train(tmp_path / str(number), recipe, cluster, plan, data)
        found.append((jobs.events(folder, "step"), jobs.events(folder, "validation")))
    (steps, scores), (other_steps, other_scores) = found
    for name in ("loss", "gradient_norm"):
        assert other_steps[0][name] == pytest.approx(steps[0][name], rel=1e-5)
        for step, other in zip(steps, other_steps, strict=True):
            assert other[name] == pytest.approx(step[name], rel=CURVE_BAND)
    assert scores
    for score, other in zip(scores, other_scores, strict=True):
        assert other["bits_per_byte"] == pytest.approx(score["bits_per_byte"], rel=CURVE_BAND)


def test_first_update_has_the_same_gradient_norm(
    small: tuple[Recipe, PreparedData], tmp_path: Path
) -> None:
    recipe, data = small
    recipe = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, steps=1))
    norms = []
    for number, split in enumerate((one_chip, unequal_replicas, unlike_pipelines)):
        cluster, plan = split(recipe)
        folder = jobs.train(tmp_path / str(number), recipe, cluster, plan, data)
        norms.append(jobs.events(folder, "step")[0]["gradient_norm"])
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-5)


def test_chips_of_unlike_precision_train_together(
    small: tuple[Recipe, PreparedData], reference: dict[int, float], tmp_path: Path
) -> None:
    """bf16, fp16 (with its loss scale) and fp32 chips in one pipeline and beside it."""
    recipe, data = small
    cluster = jobs.cluster("bf16", "fp16", "fp32", "bf16")
    plan = jobs.plan_of(
        recipe,
        cluster,
        (((0, 0, 2), (1, 2, 4), (2, 4, 6)), 2, 10),
        (((3, 0, 6),), 4, 6),
    )
    losses = jobs.losses(jobs.train(tmp_path / "run", recipe, cluster, plan, data))
    for step in (1, 10, 30, 50):
        assert losses[step] == pytest.approx(reference[step], rel=0.02), f"step {step}"


def test_recompute_changes_nothing(
    small: tuple[Recipe, PreparedData], reference: dict[int, float], tmp_path: Path
) -> None:
    recipe, data = small
    recipe = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, steps=50))
    cluster = jobs.cluster("fp32", "fp32")
    plan = jobs.plan_of(recipe, cluster, (((0, 0, 3), (1, 3, 6)), 4, 16))
    (replica,) = plan.replicas
    stages = tuple(dataclasses.replace(stage, recompute="full") for stage in replica.stages)
    plan = dataclasses.replace(plan, replicas=(dataclasses.replace(replica, stages=stages),))
    losses = jobs.losses(jobs.train(tmp_path / "run", recipe, cluster, plan, data))
    assert losses[1] == pytest.approx(reference[1], rel=1e-5)
    assert losses[50] == pytest.approx(reference[50], rel=CURVE_BAND)

"""All that saves compute at once, under unlike plans and over a resume: the same training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import jobs
from motley.cluster import Cluster
from motley.plan.plan import Plan
from motley.recipe import Recipe
from motley.train.launch import start
from motley.train.trained import load_model
from test_invariance import one_chip, unlike_pipelines

FRUGAL = {
    "model": {
        "norm": "rmsnorm",
        "activation": "relu2",
        "bias": False,
        "positions": "rotary",
        "tied_head": False,
        "qk_norm": True,
        "sampled_targets": 128,
        "tables": {"ngrams": [2, 3], "rows": 500, "width": 16, "value_blocks": [1, 3]},
    },
    "optimizer": {
        "kind": "normuon",
        "matrix_learning_rate": 0.02,
        "head_learning_rate": 0.002,
        "cautious_weight_decay": True,
        "momentum_warmup_steps": 10,
        "orthogonal_iterations": 3,
    },
    "schedule": {
        "steps": 12,
        "warmup_steps": 2,
        "decay": "wsd",
        "decay_share": 0.5,
        "final_share": 0.0,
        "batch_warmup": 0.1,
        "batch_warmup_steps": 8,
        "sequence_warmup": 4,
        "sequence_warmup_steps": 6,
        "tail_average_share": 0.7,
    },
    "checkpoint": {"every_steps": 7},
    "selection": {"keep_share": 0.5, "layers": 1, "width": 16, "heads": 1},
}


def two_replicas(recipe: Recipe) -> tuple[Cluster, Plan]:
    cluster = jobs.cluster("fp32", "fp32", "fp32")
    return cluster, jobs.plan_of(
        recipe, cluster, (((0, 0, 3), (1, 3, 6)), 2, 10), (((2, 0, 6),), 3, 6)
    )


def test_unlike_plans_and_a_resume_between_them_train_alike(tmp_path: Path) -> None:
    """The mixed plan stops after 7 steps; another goes on: each matrix has other owners."""
    recipe, data = jobs.prepared(jobs.recipe(**FRUGAL), tmp_path)
    alone = jobs.train(tmp_path / "alone", recipe, *one_chip(recipe), data)
    mixed = jobs.train(tmp_path / "mixed", recipe, *unlike_pipelines(recipe), data)
    shutil.rmtree(mixed.checkpoints / "step-00000012")
    mixed.write(recipe, *two_replicas(recipe), mixed.data_folder())
    start(mixed).finish()
    assert jobs.events(mixed, "run_started")[1]["resumed_from"] == 7
    said = [event["text"] for event in jobs.events(mixed, "message")]
    assert said.count("Training on 134 selected samples of the text.") == 2
    losses, expected = jobs.losses(mixed), jobs.losses(alone)
    assert losses[1] == pytest.approx(expected[1], rel=1e-5)
    assert losses == pytest.approx(expected, rel=1e-4)
    validations = [jobs.events(folder, "validation")[-1]["loss"] for folder in (mixed, alone)]
    assert validations[0] == pytest.approx(validations[1], rel=1e-4)
    models = [load_model(folder, lambda text: None)[0].state() for folder in (mixed, alone)]
    for name, value in models[0].items():
        assert float((value - models[1][name]).abs().max()) < 2e-4, name

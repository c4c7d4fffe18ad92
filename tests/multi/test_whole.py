"""The whole model comes out of a running job and goes back in, whatever its split."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import jobs
from motley.data import PreparedData
from motley.model.transformer import build_transformer
from motley.recipe import Recipe
from motley.train.launch import start
from motley.train.trained import load_model


@pytest.mark.parametrize(
    "replicas",
    [
        ((((0, 0, 6),), 4, 16),),
        ((((0, 0, 3), (1, 3, 6)), 2, 10), (((2, 0, 6),), 3, 6)),
    ],
    ids=["one chip", "unequal replicas"],
)
def test_out_and_in_under_any_plan(
    replicas: tuple[tuple[jobs.Pipeline, int, int], ...],
    small: tuple[Recipe, PreparedData],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, data = small
    still = dataclasses.replace(recipe.optimizer, learning_rate=1e-30)
    schedule = dataclasses.replace(recipe.schedule, steps=2, warmup_steps=0)
    recipe = dataclasses.replace(recipe, optimizer=still, schedule=schedule)
    cluster = jobs.cluster(*["fp32"] * sum(len(stages) for stages, _, _ in replicas))
    plan = jobs.plan_of(recipe, cluster, *replicas)
    folder = jobs.make_run(tmp_path / "run", recipe, cluster, plan, data)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    start(folder, "whole_worker").finish()

    before, after = torch.load(folder.path / "whole.pt")
    start_of_run = build_transformer(recipe.model, seed=recipe.seed).state()
    assert list(before) == sorted(start_of_run)
    saved = load_model(folder, lambda text: None)[0].state()
    for index, name in enumerate(sorted(before)):
        torch.testing.assert_close(before[name], start_of_run[name], rtol=1e-6, atol=1e-9)
        expected = before[name] if index == 0 else before[name] * 0.5 + 1
        assert torch.equal(after[name], expected), name
        assert torch.equal(saved[name], after[name]), name

"""FLOPs of optimizer and training: against torch's counter, and step by step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from model_shapes import OPT_IN, SHAPES
from motley.errors import RecipeError
from motley.model.counts import model_counts
from motley.model.transformer import build_transformer
from motley.optim.curriculum import pieces_in, samples_before, samples_in
from motley.optim.flops import optimizer_flops, training_flops
from motley.optim.matrices import orthogonal_matrices
from motley.optim.optimizer import build_optimizer
from motley.optim.roles import is_orthogonalised
from motley.recipe import BatchConfig, OptimizerConfig, Recipe, ScheduleConfig, parse_recipe
from motley.units import Precision


@pytest.mark.parametrize("family", [*SHAPES, *OPT_IN])
def test_the_matrices_are_those_of_the_model(family: str) -> None:
    config = {**SHAPES, **OPT_IN}[family]
    found = {matrix.name: matrix[2:] for matrix in orthogonal_matrices(config)}
    expected = {
        name: tuple(each.shape)
        for name, each in build_transformer(config, seed=0).state().items()
        if is_orthogonalised(name, each.shape)
    }
    assert found == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerConfig(),
        OptimizerConfig(kind="muon", orthogonal_iterations=3),
        OptimizerConfig(kind="normuon", orthogonal_iterations=3),
    ],
    ids=lambda optimizer: optimizer.kind,
)
def test_a_real_update_takes_the_counted_flops(
    optimizer: OptimizerConfig, precision: Precision
) -> None:
    config = SHAPES["qwen3"]
    recipe = Recipe(model=config, optimizer=optimizer, batch=BatchConfig(sequence_length=16))
    masters = build_transformer(config, seed=0).named()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    for parameter in masters.values():
        parameter.grad = torch.ones_like(parameter)
    spent: list[float] = []
    used = build_optimizer(masters, recipe.optimizer, dtype, spend=spent.append)
    with FlopCounterMode(display=False) as counter:
        used.step(1.0, 0)
    assert counter.get_total_flops() == optimizer_flops(recipe, precision) == sum(spent)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    batch = draw(st.integers(1, 64))
    return Recipe(
        model=SHAPES["gpt2"],
        batch=BatchConfig(sequence_length=32, global_batch=batch),
        optimizer=OptimizerConfig(kind="muon", orthogonal_every=draw(st.integers(1, 3))),
        schedule=ScheduleConfig(
            steps=draw(st.integers(3, 60)),
            batch_warmup=draw(st.floats(min_value=1 / batch, max_value=1)),
            batch_warmup_steps=draw(st.integers(1, 80)),
            sequence_warmup=draw(st.sampled_from([1, 2, 4, 8])),
            sequence_warmup_steps=draw(st.integers(1, 80)),
        ),
    )


@given(recipes())
def test_a_training_is_the_sum_of_its_steps(recipe: Recipe) -> None:
    total = 0.0
    for step in range(recipe.schedule.steps):
        length = 32 // pieces_in(recipe.schedule, step)
        tokens = samples_in(recipe, step) * 32
        total += tokens * model_counts(recipe.model, length).flops_per_token
        if (step + 1) % recipe.optimizer.orthogonal_every == 0:
            every = dataclasses.replace(recipe.optimizer, orthogonal_every=1)
            total += optimizer_flops(dataclasses.replace(recipe, optimizer=every))
    assert training_flops(recipe) == pytest.approx(total)


@given(recipes())
def test_batches_grow_to_the_whole_and_follow_each_other(recipe: Recipe) -> None:
    schedule, whole = recipe.schedule, recipe.batch.global_batch
    sizes = [samples_in(recipe, step) for step in range(schedule.batch_warmup_steps + 3)]
    assert sum(sizes) == samples_before(recipe, len(sizes))
    assert min(sizes) >= 1
    assert sizes[-2:] == [whole, whole]
    assert max(sizes) <= whole + 1
    steps = schedule.batch_warmup_steps
    line = [
        whole * (schedule.batch_warmup + (1 - schedule.batch_warmup) * (step + 0.5) / steps)
        for step in range(steps)
    ]
    assert all(abs(size - exact) <= 1.001 for size, exact in zip(sizes, line, strict=False))


@given(recipes())
def test_sequences_double_until_samples_are_whole(recipe: Recipe) -> None:
    schedule = recipe.schedule
    pieces = [pieces_in(schedule, step) for step in range(schedule.sequence_warmup_steps + 2)]
    assert pieces == sorted(pieces, reverse=True)
    assert pieces[0] == schedule.sequence_warmup
    assert pieces[-2:] == [1, 1]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"batch_warmup": 0.01, "batch_warmup_steps": 9}, "0.01 of 8 samples is less than one"),
        ({"batch_warmup": 0.5}, "set batch_warmup_steps as well"),
        ({"sequence_warmup": 3, "sequence_warmup_steps": 9}, "must be a power of two"),
        ({"sequence_warmup": 64, "sequence_warmup_steps": 9}, "32 tokens cannot be cut into 64"),
        ({"tail_average_share": 1.5}, "must be between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused(schedule: dict[str, Any], said: str) -> None:
    model = {"layers": 1, "width": 8, "heads": 1, "context": 32}
    batch = {"sequence_length": 32, "global_batch": 8}
    with pytest.raises(RecipeError, match=said):
        parse_recipe({"model": model, "batch": batch, "schedule": schedule})

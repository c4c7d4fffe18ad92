"""What updates keep in memory, as planned and as the optimizers really hold it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from model_shapes import SHAPES
from motley.model.transformer import build_transformer
from motley.optim.flops import optimizer_flops
from motley.optim.optimizer import build_optimizer
from motley.plan.memory.held import held_parameters
from motley.plan.memory.stage import stage_memory
from motley.plan.memory.update import MOMENT_BYTES, moment_bytes, step_bytes, update_flops
from motley.recipe import BatchConfig, OptimizerConfig, Recipe, ScheduleConfig

CONFIG = dataclasses.replace(SHAPES["llama"], width=96, heads=4, mlp_width=256, vocab_size=640)
WHOLE = (0, CONFIG.num_layers)


def recipe(**optimizer: Any) -> Recipe:
    return Recipe(
        model=CONFIG,
        batch=BatchConfig(sequence_length=16),
        optimizer=OptimizerConfig(**optimizer),
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("kind", ["adamw", "muon", "normuon"])
def test_planned_state_is_what_an_optimizer_holds(kind: str, bits: int, tied: bool) -> None:
    model = dataclasses.replace(CONFIG, tied_head=tied)
    job = dataclasses.replace(recipe(kind=kind, state_bits=bits), model=model)
    masters = build_transformer(model, seed=0).named()
    optimizer = build_optimizer(masters, job.optimizer)
    held = sum(
        each.numel() * each.element_size()
        for name in masters
        for each in optimizer.state(name).values()
    )
    planned = moment_bytes(job, *WHOLE) * held_parameters(model, *WHOLE)
    counts = 8 * len(masters)
    assert held - counts <= planned <= held + 0.01 * held


def test_parts_add_up_to_the_whole() -> None:
    job = recipe(kind="normuon", state_bits=8)
    cuts = [0, 1, 2, CONFIG.num_layers]
    parts = sum(
        moment_bytes(job, first, last) * held_parameters(CONFIG, first, last)
        for first, last in itertools.pairwise(cuts)
    )
    assert parts == pytest.approx(moment_bytes(job, *WHOLE) * held_parameters(CONFIG, *WHOLE))
    flops = sum(update_flops(job, *pair, "fp32") for pair in itertools.pairwise(cuts))
    assert flops == pytest.approx(optimizer_flops(job))


def test_a_step_takes_memory_for_the_matrices_of_its_own_layers() -> None:
    job, last = recipe(kind="muon"), CONFIG.num_layers
    assert step_bytes(job, last - 1, last) == 0
    assert 0 < step_bytes(job, 1, 2) < step_bytes(job, *WHOLE)


def test_adamw_and_the_mean_of_the_last_weights() -> None:
    assert moment_bytes(recipe(), *WHOLE) == MOMENT_BYTES
    assert step_bytes(recipe(), *WHOLE) == 0
    averaged = dataclasses.replace(recipe(), schedule=ScheduleConfig(tail_average_share=0.1))
    assert moment_bytes(averaged, *WHOLE) == MOMENT_BYTES + 4


def test_a_stage_needs_less_with_less_state() -> None:
    def state(job: Recipe | None) -> int:
        return stage_memory(
            CONFIG, 16, "fp32", WHOLE, num_in_flight=1, micro_batch_size=2, recipe=job
        ).state_bytes

    assert state(None) == state(recipe())
    assert state(recipe(kind="muon")) < state(recipe())
    assert state(recipe(state_bits=8)) < state(recipe(kind="muon", state_bits=8)) < state(None)
